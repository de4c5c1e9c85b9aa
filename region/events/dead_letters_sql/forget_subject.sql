DELETE FROM letters WHERE mark = ? OR instr(content, ?) > 0;
