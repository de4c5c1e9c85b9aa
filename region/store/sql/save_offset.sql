UPDATE progress SET applied_offset = ? WHERE one = 1;
