SELECT subject, handle, wrapped, used_day FROM subject_keys WHERE handle IN (SELECT value FROM json_each(?));
