-- Not ON CONFLICT DO NOTHING: that would spend an offset on every duplicate.
INSERT INTO records (received_ms, subject, event_id, body)
SELECT ?1, ?2, ?3, ?4
WHERE NOT EXISTS (SELECT 1 FROM records WHERE subject = ?2 AND event_id = ?3);
