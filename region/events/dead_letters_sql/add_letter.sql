INSERT INTO letters (log_partition, log_offset, noted_ms, reason, content, mark)
VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (log_partition, log_offset) DO UPDATE SET reason = excluded.reason;
