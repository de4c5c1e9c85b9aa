-- AUTOINCREMENT: an offset is never given twice, not even after every record has expired.
CREATE TABLE records (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    received_ms INTEGER NOT NULL,
    subject TEXT NOT NULL,
    event_id TEXT NOT NULL,
    body BLOB NOT NULL
);

CREATE UNIQUE INDEX records_once ON records (subject, event_id);
