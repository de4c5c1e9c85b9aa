-- By its name (records of before there were keys) and by its handle.
SELECT position, body
FROM records
WHERE subject IN (?, ?) AND position > ?
ORDER BY position
LIMIT ?;
