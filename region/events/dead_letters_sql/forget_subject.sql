DELETE FROM letters WHERE instr(content, ?) > 0;
