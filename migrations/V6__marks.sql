-- What the record before next_offset is recognised by: a topic that was deleted and created anew has another one there. NULL
-- where the offset was committed without.
ALTER TABLE worker_offsets ADD COLUMN mark TEXT;
