DELETE FROM erasures
WHERE mark IN (SELECT mark FROM erasures WHERE erased_ms < ? ORDER BY erased_ms LIMIT ?);
