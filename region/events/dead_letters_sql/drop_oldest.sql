DELETE FROM letters
WHERE rowid IN (SELECT rowid FROM letters ORDER BY noted_ms LIMIT max(0, (SELECT count(*) FROM letters) - ?));
