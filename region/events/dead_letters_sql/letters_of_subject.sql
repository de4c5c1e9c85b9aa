SELECT log_partition, log_offset, noted_ms, reason, content
FROM letters
WHERE mark = ? OR instr(content, ?) > 0
ORDER BY log_partition, log_offset;
