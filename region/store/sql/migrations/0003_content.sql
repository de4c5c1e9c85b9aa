-- A row is two values that only `region.store.state` looks into: what a request reads stands before the overflow pages
-- of what it does not. The other columns are what expiry asks for.
CREATE TABLE rows (
    subject TEXT NOT NULL PRIMARY KEY,
    session INTEGER NOT NULL CHECK (session IN (0, 1)),
    opted_out INTEGER NOT NULL CHECK (opted_out IN (0, 1)),
    touched_ms INTEGER NOT NULL,
    content BLOB NOT NULL,
    notes BLOB NOT NULL
);

INSERT INTO rows (subject, session, opted_out, touched_ms, content, notes)
SELECT
    subject, session, opted_out, touched_ms,
    upgrade_content(version, impressions, opted_out, last_event_ms, touched_ms, history), upgrade_notes(event_ids)
FROM subjects;

DROP TABLE subjects;

CREATE INDEX rows_by_age ON rows (session, touched_ms);

-- Counts over items; the ones of the first schema, of a fortnight at most, are let go.
DROP TABLE item_counts;

CREATE TABLE aggregates (
    kind TEXT NOT NULL,
    scope TEXT NOT NULL,
    bucket_ms INTEGER NOT NULL,
    log_partition INTEGER NOT NULL,
    content BLOB NOT NULL,
    PRIMARY KEY (kind, scope, bucket_ms, log_partition)
) WITHOUT ROWID;

CREATE INDEX aggregates_by_age ON aggregates (kind, bucket_ms);
