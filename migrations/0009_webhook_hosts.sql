-- Whom webhooks are at, so that one slow receiver does not take every place; and when a log line is old.

ALTER TABLE webhooks ADD COLUMN host TEXT NOT NULL DEFAULT ''; -- name and port; none for those from before, which are not counted
CREATE INDEX deliveries_by_age ON deliveries (created_at) WHERE state <> 'pending';
