SELECT count(*) FROM letters WHERE instr(content, ?) > 0;
