UPDATE subject_keys SET used_day = ?1
WHERE used_day < ?1 AND subject IN (SELECT value FROM json_each(?2));
