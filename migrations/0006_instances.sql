-- What several instances share beside the work itself.

-- The calls that a minute may hold: one row each, and when it was last used by the database's clock, in milliseconds.
CREATE TABLE call_slots (
    slot    BIGINT NOT NULL PRIMARY KEY,
    used_at BIGINT NOT NULL -- 0 while it is free
);
CREATE INDEX call_slots_by_use ON call_slots (used_at);

-- Work that one process does for all. A worker without a row in workers holds nothing.
CREATE TABLE leases (
    lease  TEXT NOT NULL PRIMARY KEY,
    worker TEXT
);
INSERT INTO leases (lease) VALUES ('ledger');
