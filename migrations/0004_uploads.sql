-- Reference pictures that users uploaded, and whose each is.

-- Where an owner's pictures lie: a name that nobody can guess and no other owner has.
CREATE TABLE upload_folders (
    owner  TEXT NOT NULL PRIMARY KEY,
    folder TEXT NOT NULL UNIQUE
);

CREATE TABLE uploads (
    owner      TEXT   NOT NULL,
    sha256     TEXT   NOT NULL, -- of the stored picture: the same one sent twice is one row
    object     TEXT   NOT NULL UNIQUE,
    picture    TEXT   NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (owner, sha256)
);

-- The clients' names for uploads, each with the hash of the files and with the pictures that were answered.
CREATE TABLE upload_requests (
    owner           TEXT   NOT NULL,
    idempotency_key TEXT   NOT NULL,
    request_hash    TEXT   NOT NULL,
    pictures        TEXT   NOT NULL,
    created_at      BIGINT NOT NULL,
    PRIMARY KEY (owner, idempotency_key)
);
