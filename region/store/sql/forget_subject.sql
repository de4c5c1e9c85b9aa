DELETE FROM rows WHERE subject = ?;
