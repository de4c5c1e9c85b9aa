SELECT content FROM erasures WHERE mark = ?;
