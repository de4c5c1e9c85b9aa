SELECT content FROM rows WHERE subject = ?;
