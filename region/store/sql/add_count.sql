INSERT INTO item_counts (bucket_ms, item, count)
VALUES (?, ?, ?)
ON CONFLICT (bucket_ms, item) DO UPDATE SET count = count + excluded.count;
