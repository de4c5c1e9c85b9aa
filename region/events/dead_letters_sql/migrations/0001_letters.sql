CREATE TABLE letters (
    log_partition INTEGER NOT NULL,
    log_offset INTEGER NOT NULL,
    noted_ms INTEGER NOT NULL,
    reason TEXT NOT NULL,
    content BLOB NOT NULL,
    PRIMARY KEY (log_partition, log_offset)
);

CREATE INDEX letters_by_age ON letters (noted_ms);
