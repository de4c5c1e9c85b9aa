SELECT content, notes FROM rows WHERE subject = ?;
