SELECT version, impressions, opted_out, last_event_ms, touched_ms, history, event_ids
FROM subjects
WHERE subject = ?;
