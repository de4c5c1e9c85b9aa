DELETE FROM records WHERE subject = ?;
