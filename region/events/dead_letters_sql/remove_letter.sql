DELETE FROM letters WHERE log_partition = ? AND log_offset = ?;
