SELECT content FROM aggregates WHERE kind = ? AND scope = ? AND bucket_ms = ? AND log_partition = ?;
