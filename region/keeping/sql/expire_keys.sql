DELETE FROM subject_keys WHERE handle IN (SELECT handle FROM subject_keys WHERE used_day < ? LIMIT 2000);
