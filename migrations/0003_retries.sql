-- The clients' names for retries of a batch, each with the hash of what it asked for.

CREATE TABLE retries (
    batch_id        TEXT   NOT NULL REFERENCES batches (id),
    idempotency_key TEXT   NOT NULL,
    request_hash    TEXT   NOT NULL,
    created_at      BIGINT NOT NULL,
    PRIMARY KEY (batch_id, idempotency_key)
);
