-- A subject's key, wrapped by the region's. Deleted, nobody opens the subject's events any more.
CREATE TABLE subject_keys (
    handle TEXT NOT NULL PRIMARY KEY,
    subject TEXT NOT NULL UNIQUE,
    used_day INTEGER NOT NULL,
    wrapped BLOB NOT NULL
) WITHOUT ROWID;

CREATE INDEX keys_by_use ON subject_keys (used_day);
