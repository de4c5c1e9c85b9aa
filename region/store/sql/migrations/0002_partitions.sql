-- A log may have several partitions; what was one offset becomes that of partition 0.
ALTER TABLE progress RENAME TO progress_of_one;

CREATE TABLE progress (
    log_partition INTEGER NOT NULL PRIMARY KEY,
    applied_offset INTEGER NOT NULL
);

INSERT INTO progress (log_partition, applied_offset)
SELECT 0, applied_offset FROM progress_of_one WHERE applied_offset > 0;

DROP TABLE progress_of_one;
