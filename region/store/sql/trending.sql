SELECT content
FROM aggregates
WHERE kind = ? AND scope = ? AND bucket_ms > ?
ORDER BY bucket_ms, log_partition;
