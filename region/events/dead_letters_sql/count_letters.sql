SELECT count(*) FROM letters;
