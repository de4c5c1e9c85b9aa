INSERT INTO progress (log_partition, applied_offset)
VALUES (?, ?)
ON CONFLICT (log_partition) DO UPDATE SET applied_offset = excluded.applied_offset;
