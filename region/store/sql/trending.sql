SELECT item, sum(count) AS total
FROM item_counts
WHERE bucket_ms > ?
GROUP BY item
ORDER BY total DESC, item
LIMIT ?;
