-- Who wants to be told what happens in a batch, and what they were told.

-- A batch's deliveries go out one after the other, so that the schedule and the claim are the batch's.
CREATE TABLE webhooks (
    batch_id TEXT   NOT NULL PRIMARY KEY REFERENCES batches (id),
    url      TEXT   NOT NULL,
    events   TEXT   NOT NULL, -- the types that are wanted, with commas between them
    secret   TEXT   NOT NULL, -- signs the messages
    due      BIGINT,          -- the first pending delivery is not tried before this time; null while none is pending
    worker   TEXT,            -- who delivers now; until `due` alone, if it goes on living
    fence    BIGINT NOT NULL,
    gone     BIGINT NOT NULL  -- 1 once the receiver wants no more
);
CREATE INDEX webhooks_by_due ON webhooks (due) WHERE due IS NOT NULL;
CREATE INDEX webhooks_by_worker ON webhooks (worker) WHERE worker IS NOT NULL;

CREATE TABLE deliveries (
    batch_id     TEXT   NOT NULL REFERENCES webhooks (batch_id),
    number       BIGINT NOT NULL, -- of the event that it tells of
    type         TEXT   NOT NULL,
    state        TEXT   NOT NULL,
    created_at   BIGINT NOT NULL,
    gives_up_at  BIGINT NOT NULL, -- a try that fails later than this is the last
    attempts     BIGINT NOT NULL,
    last_status  BIGINT,
    last_error   TEXT,
    delivered_at BIGINT,
    PRIMARY KEY (batch_id, number)
);
CREATE INDEX deliveries_pending ON deliveries (batch_id, number) WHERE state = 'pending';
