SELECT subject, handle, wrapped, used_day FROM subject_keys WHERE handle > ? ORDER BY handle LIMIT ?;
