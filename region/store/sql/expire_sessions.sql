DELETE FROM subjects
WHERE rowid IN (SELECT rowid FROM subjects WHERE session = 1 AND touched_ms < ? ORDER BY touched_ms LIMIT ?);
