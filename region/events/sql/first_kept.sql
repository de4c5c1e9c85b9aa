-- Records stand in order of arrival, so what has run out is a prefix; the scan ends at the first one to keep.
-- One statement, one state of the file: a record that arrives meanwhile is never behind the answer.
SELECT coalesce(
    (SELECT position FROM records WHERE received_ms >= ? ORDER BY position LIMIT 1),
    (SELECT seq + 1 FROM sqlite_sequence WHERE name = 'records'),
    0
);
