SELECT subject, content FROM rows WHERE subject > ? AND session = 0 AND opted_out = 0 ORDER BY subject LIMIT ?;
