INSERT INTO erasures (mark, erased_ms, content)
VALUES (?, ?, ?)
ON CONFLICT (mark) DO UPDATE SET erased_ms = excluded.erased_ms, content = excluded.content;
