DELETE FROM item_counts
WHERE (bucket_ms, item) IN
    (SELECT bucket_ms, item FROM item_counts WHERE bucket_ms <= ? ORDER BY bucket_ms LIMIT ?);
