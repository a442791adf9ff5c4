-- Keys of callers. Of a key only its SHA-256 is kept.
CREATE TABLE api_keys (
    id TEXT PRIMARY KEY,
    hash TEXT NOT NULL,
    owner TEXT NOT NULL,
    scopes TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT,
    revoked_at BIGINT,
    daily_budget BIGINT
);

-- What stands for a caller for a while: a browser's session, or the right to follow one batch. Of its secret only
-- the SHA-256 is kept. Without a key it stands for a caller that the platform let in.
CREATE TABLE sessions (
    hash TEXT PRIMARY KEY,
    key_id TEXT,
    owner TEXT NOT NULL,
    batch_id TEXT,
    expires_at BIGINT NOT NULL
);
CREATE INDEX sessions_by_end ON sessions (expires_at);

-- The user's limit of a day under which the batch was admitted; none is the service's own.
ALTER TABLE batches ADD COLUMN user_limit BIGINT;
