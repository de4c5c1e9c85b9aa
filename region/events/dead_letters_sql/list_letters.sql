SELECT log_partition, log_offset, noted_ms, reason, content
FROM letters
WHERE (log_partition, log_offset) > (?, ?)
ORDER BY log_partition, log_offset
LIMIT ?;
