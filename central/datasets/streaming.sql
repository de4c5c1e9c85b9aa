-- name: events
-- Every row with a number that keeps the order of the files; columns that a dataset lacks are filled in by the caller.
CREATE TABLE events AS
SELECT
    CAST({user} AS VARCHAR) AS user_id,
    CAST({item} AS VARCHAR) AS item_id,
    CAST({time} AS DOUBLE) AS time_s,
    coalesce(CAST({kind} AS VARCHAR), '') AS kind,
    round(CAST({value} AS DOUBLE), 3) AS value,
    coalesce(CAST({region} AS VARCHAR), '') AS region,
    row_number() OVER () AS number
FROM read_parquet(?);

-- name: bad
SELECT count(*) FROM events
WHERE user_id IS NULL OR user_id = '' OR item_id IS NULL OR item_id = ''
   OR time_s IS NULL OR NOT isfinite(time_s) OR time_s < 0 OR time_s > 100000000000;

-- name: kinds
SELECT DISTINCT kind, value FROM events ORDER BY kind, value LIMIT {most};

-- name: items
CREATE TABLE items AS
SELECT item_id, CAST(row_number() OVER (ORDER BY item_id) - 1 AS INTEGER) AS row
FROM (SELECT DISTINCT item_id FROM events);

-- name: sorted
-- Users in the order of their hash: any run of them is a random sample, and reading in order is reading shuffled.
CREATE TABLE sorted AS
SELECT e.user_id, i.row, k.strength, e.time_s, e.kind, e.value, e.region
FROM events AS e
JOIN items AS i USING (item_id)
JOIN kinds AS k ON e.kind = k.kind AND e.value IS NOT DISTINCT FROM k.value
ORDER BY hash(e.user_id), e.user_id, e.time_s, {order};

-- name: columns
SELECT user_id, row, strength, time_s FROM sorted WHERE strength > 0;

-- name: sample
SELECT s.user_id, i.item_id, s.time_s, s.kind, s.value, s.region
FROM (SELECT * FROM sorted LIMIT {most}) AS s JOIN items AS i USING (row);

-- name: catalogue
SELECT i.item_id{extra} FROM items AS i {join} ORDER BY i.row;
