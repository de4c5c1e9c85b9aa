INSERT INTO subject_keys (used_day, handle, subject, wrapped) VALUES (?, ?, ?, ?)
ON CONFLICT (subject) DO NOTHING;
