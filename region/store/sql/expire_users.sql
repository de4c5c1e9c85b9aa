DELETE FROM rows
WHERE subject IN
    (SELECT subject FROM rows WHERE session = 0 AND opted_out = 0 AND touched_ms < ? ORDER BY touched_ms LIMIT ?);
