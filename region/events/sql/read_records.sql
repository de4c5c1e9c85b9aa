SELECT position, body
FROM records
WHERE position > ?
ORDER BY position
LIMIT ?;
