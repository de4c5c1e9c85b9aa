-- Whether any record lies under a subject's key: handles begin with k, subjects never do.
SELECT 1 FROM records WHERE subject >= 'k' AND subject < 'l' LIMIT 1;
