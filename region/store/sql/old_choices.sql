SELECT subject, content, notes
FROM rows
WHERE session = 0 AND opted_out = 1 AND touched_ms < ?
ORDER BY touched_ms
LIMIT ?;
