-- One set of SQL for SQLite and Postgres: TEXT ids, BIGINT milliseconds, micro-dollars and 0/1, JSON as TEXT.

CREATE TABLE batches (
    id              TEXT   NOT NULL PRIMARY KEY,
    owner           TEXT   NOT NULL,
    model           TEXT   NOT NULL,
    state           TEXT   NOT NULL, -- 'running' until its last picture ends
    created_at      BIGINT NOT NULL,
    finished_at     BIGINT,
    cancelled_at    BIGINT,
    message         TEXT,
    last_event      BIGINT NOT NULL,
    total           BIGINT NOT NULL,
    completed       BIGINT NOT NULL,
    failed          BIGINT NOT NULL,
    cancelled       BIGINT NOT NULL,
    estimated_cost  BIGINT NOT NULL,
    actual_cost     BIGINT NOT NULL,
    unknown_cost    BIGINT NOT NULL,
    idempotency_key TEXT,
    request_hash    TEXT
);
CREATE UNIQUE INDEX batches_idempotency ON batches (owner, idempotency_key);
CREATE INDEX batches_by_owner ON batches (owner, id);

CREATE TABLE items (
    batch_id     TEXT   NOT NULL REFERENCES batches (id),
    ordinal      BIGINT NOT NULL,
    scene_id     TEXT   NOT NULL,
    scene_key    TEXT   NOT NULL, -- the scene id in lower case: unique in its batch
    prompt       TEXT   NOT NULL,
    refs         TEXT   NOT NULL,
    aspect_ratio TEXT   NOT NULL,
    image_size   TEXT   NOT NULL,
    PRIMARY KEY (batch_id, ordinal)
);
CREATE UNIQUE INDEX items_by_scene ON items (batch_id, scene_key);

CREATE TABLE images (
    batch_id        TEXT   NOT NULL,
    ordinal         BIGINT NOT NULL,
    variant         BIGINT NOT NULL,
    state           TEXT   NOT NULL,
    turn            BIGINT NOT NULL, -- its place in the queue; see store/submit.rs
    due             BIGINT NOT NULL, -- not taken up before this time
    worker          TEXT,
    fence           BIGINT NOT NULL,
    failures        BIGINT NOT NULL,
    unknown_retries BIGINT NOT NULL,
    interruptions   BIGINT NOT NULL,
    throttled_since BIGINT,
    attempts        BIGINT NOT NULL, -- calls started
    cost            BIGINT,
    billing         TEXT,
    picture         TEXT,
    error           TEXT,
    PRIMARY KEY (batch_id, ordinal, variant),
    FOREIGN KEY (batch_id, ordinal) REFERENCES items (batch_id, ordinal)
);
CREATE INDEX images_queue ON images (turn) WHERE state = 'queued';
CREATE INDEX images_by_worker ON images (worker) WHERE worker IS NOT NULL;

CREATE TABLE attempts (
    id         TEXT   NOT NULL PRIMARY KEY,
    batch_id   TEXT   NOT NULL,
    ordinal    BIGINT NOT NULL,
    variant    BIGINT NOT NULL,
    number     BIGINT NOT NULL,
    fence      BIGINT NOT NULL,
    state      TEXT   NOT NULL,
    reserved   BIGINT NOT NULL,
    cost       BIGINT,
    started_at BIGINT,
    ended_at   BIGINT,
    request_id TEXT,
    FOREIGN KEY (batch_id, ordinal, variant) REFERENCES images (batch_id, ordinal, variant)
);
CREATE UNIQUE INDEX attempts_by_image ON attempts (batch_id, ordinal, variant, number);

CREATE TABLE budget (
    scope    TEXT   NOT NULL PRIMARY KEY, -- 'everyone', or 'user:' and a name
    day      BIGINT NOT NULL,             -- days since 1970-01-01; never goes back
    spent    BIGINT NOT NULL,
    reserved BIGINT NOT NULL,
    unknown  BIGINT NOT NULL,             -- the part of spent for calls whose outcome is not known
    overrun  BIGINT NOT NULL              -- the part of spent above what was reserved for it
);
INSERT INTO budget (scope, day, spent, reserved, unknown, overrun) VALUES ('everyone', 0, 0, 0, 0, 0);

CREATE TABLE ledger (
    id         TEXT   NOT NULL PRIMARY KEY,
    attempt_id TEXT   NOT NULL UNIQUE,
    day        BIGINT NOT NULL,
    position   BIGINT, -- its line in the day, given by the writer
    ts         BIGINT NOT NULL,
    line       TEXT   NOT NULL
);
CREATE INDEX ledger_by_day ON ledger (day, position);

CREATE TABLE ledger_days (
    day           BIGINT NOT NULL PRIMARY KEY,
    count         BIGINT NOT NULL,
    pending_end   BIGINT,
    pending_chunk TEXT
);

CREATE TABLE events (
    batch_id TEXT   NOT NULL REFERENCES batches (id),
    number   BIGINT NOT NULL,
    ts       BIGINT NOT NULL,
    payload  TEXT   NOT NULL,
    PRIMARY KEY (batch_id, number)
);

CREATE TABLE workers (
    id         TEXT   NOT NULL PRIMARY KEY,
    beat       BIGINT NOT NULL,
    started_at BIGINT NOT NULL
);
