-- One row per subject: what a request needs stands before the overflow pages that it does not.
CREATE TABLE subjects (
    subject TEXT NOT NULL PRIMARY KEY,
    version INTEGER NOT NULL,
    impressions INTEGER NOT NULL,
    opted_out INTEGER NOT NULL CHECK (opted_out IN (0, 1)),
    last_event_ms INTEGER NOT NULL,
    touched_ms INTEGER NOT NULL,
    session INTEGER NOT NULL CHECK (session IN (0, 1)),
    history BLOB NOT NULL,
    event_ids BLOB NOT NULL
);

CREATE INDEX sessions_by_age ON subjects (touched_ms) WHERE session = 1;

CREATE TABLE item_counts (
    bucket_ms INTEGER NOT NULL,
    item TEXT NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (bucket_ms, item)
) WITHOUT ROWID;

-- The log offset up to which events are applied: one row, written in the transaction that applies them.
CREATE TABLE progress (
    one INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
    applied_offset INTEGER NOT NULL
);

INSERT INTO progress (one, applied_offset) VALUES (1, 0);
