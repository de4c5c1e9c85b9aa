DELETE FROM aggregates
WHERE (kind, scope, bucket_ms, log_partition) IN
    (SELECT kind, scope, bucket_ms, log_partition FROM aggregates WHERE kind = ? AND bucket_ms <= ? LIMIT ?);
