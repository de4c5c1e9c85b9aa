SELECT position, body
FROM records
WHERE subject = ? AND position > ?
ORDER BY position
LIMIT ?;
