INSERT INTO rows (subject, session, opted_out, touched_ms, content, notes)
VALUES (:subject, :session, :opted_out, :touched_ms, :content, :notes)
ON CONFLICT (subject) DO UPDATE SET
    opted_out = excluded.opted_out,
    touched_ms = excluded.touched_ms,
    content = excluded.content,
    notes = excluded.notes;
