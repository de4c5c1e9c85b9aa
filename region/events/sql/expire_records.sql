DELETE FROM records
WHERE position IN (SELECT position FROM records WHERE position < ? ORDER BY position LIMIT ?);
