INSERT INTO aggregates (kind, scope, bucket_ms, log_partition, content)
VALUES (?, ?, ?, ?, ?)
ON CONFLICT (kind, scope, bucket_ms, log_partition) DO UPDATE SET content = excluded.content;
