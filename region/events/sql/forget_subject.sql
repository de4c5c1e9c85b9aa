DELETE FROM records WHERE subject IN (?, ?);
