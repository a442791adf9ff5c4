-- Whose picture it is: owners take turns. And indexes for what is looked for at every wake-up.

ALTER TABLE images ADD COLUMN owner TEXT NOT NULL DEFAULT '';
UPDATE images SET owner = (SELECT b.owner FROM batches b WHERE b.id = images.batch_id);
DROP INDEX images_queue;
CREATE INDEX images_queue ON images (owner, turn) WHERE state = 'queued';
CREATE INDEX images_due ON images (due) WHERE state = 'queued';
CREATE INDEX images_due_by_owner ON images (owner, due) WHERE state = 'queued';
CREATE INDEX ledger_unexported ON ledger (day) WHERE position IS NULL;
