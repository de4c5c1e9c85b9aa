-- That a subject was erased, under a hash of its name: nothing of before may come back.
CREATE TABLE erasures (
    mark TEXT NOT NULL PRIMARY KEY,
    erased_ms INTEGER NOT NULL,
    content BLOB NOT NULL
);

CREATE INDEX erasures_by_age ON erasures (erased_ms);
