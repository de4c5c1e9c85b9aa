UPDATE subject_keys SET wrapped = ? WHERE handle = ?;
