-- Whose letter it is, as a hash (`region.store.subjects.erasure_mark`): its content lies under the subject's key.
ALTER TABLE letters ADD COLUMN mark TEXT NOT NULL DEFAULT '';

CREATE INDEX letters_by_mark ON letters (mark);
