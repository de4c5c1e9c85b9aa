SELECT count(*) FROM records WHERE subject = ?;
