SELECT count(*) FROM records WHERE subject IN (?, ?);
