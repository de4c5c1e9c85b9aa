INSERT INTO subjects
    (subject, session, version, impressions, opted_out, last_event_ms, touched_ms, history, event_ids)
VALUES
    (:subject, :session, :version, :impressions, :opted_out, :last_event_ms, :touched_ms, :history, :event_ids)
ON CONFLICT (subject) DO UPDATE SET
    version = excluded.version,
    impressions = excluded.impressions,
    opted_out = excluded.opted_out,
    last_event_ms = excluded.last_event_ms,
    touched_ms = excluded.touched_ms,
    history = excluded.history,
    event_ids = excluded.event_ids;
