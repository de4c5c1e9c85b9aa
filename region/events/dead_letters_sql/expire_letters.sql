DELETE FROM letters WHERE noted_ms < ?;
