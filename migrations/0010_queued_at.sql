-- When pictures of a batch were last put into the queue by a retry; null while it was not retried: then it is `created_at`.
-- Their `due` is 0, so that no clock keeps them waiting, and says nothing about how long they do.
ALTER TABLE batches ADD COLUMN queued_at BIGINT;
