SELECT version, impressions, opted_out, last_event_ms, history
FROM subjects
WHERE subject = ?;
