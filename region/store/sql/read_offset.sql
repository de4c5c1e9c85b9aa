SELECT applied_offset FROM progress WHERE one = 1;
