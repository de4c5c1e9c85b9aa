SELECT count(*) FROM rows WHERE subject = ?;
