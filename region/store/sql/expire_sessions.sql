DELETE FROM rows
WHERE subject IN (SELECT subject FROM rows WHERE session = 1 AND touched_ms < ? ORDER BY touched_ms LIMIT ?);
