SELECT scope, content
FROM aggregates
WHERE kind = ? AND bucket_ms > ?;
