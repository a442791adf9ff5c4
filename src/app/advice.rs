//! What a person can do when the service cannot start: each sentence names the setting that helps.

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use crate::config::Engine;
use crate::store::StoreError;

pub(super) fn cannot_listen(address: SocketAddr, error: &io::Error) -> String {
    let (host, port) = (address.ip(), address.port());
    match error.kind() {
        io::ErrorKind::AddrInUse => format!("port {port} is taken: set PORT to another, or stop the other process"),
        io::ErrorKind::PermissionDenied => format!("this user may not listen on port {port}: set PORT above 1023"),
        io::ErrorKind::AddrNotAvailable => format!("{host} is no address of this machine: set HOST to one that is"),
        _ => format!("cannot listen on {address}: see HOST and PORT"),
    }
}

pub(super) fn unusable_folder(folder: &Path) -> String {
    format!("cannot keep data in {}: set DATA_DIR to a folder that this user can write to", folder.display())
}

pub(super) const UNREADABLE_LEDGER: &str = "the database is empty, so today's charges are read from the ledger before \
     anything is spent, and the ledger does not answer: see that LEDGER_BUCKET (or GCS_BUCKET, or DATA_DIR) is right \
     and that this account may read it, or set BUDGET_LEDGER_ENABLED=false to start without a ledger";

pub(super) const UNUSABLE_CREDENTIALS: &str = "cannot reach the buckets: set GOOGLE_APPLICATION_CREDENTIALS to the \
     key file of a service account, run where a metadata server gives credentials (as Cloud Run does), or set \
     STORAGE_EMULATOR_HOST for an emulator";

/// The bucket of the pictures did not answer at start; it may later.
pub(super) const SILENT_BUCKET: &str = "the bucket of GCS_BUCKET does not answer: see whether it exists, whether the account of \
     GOOGLE_APPLICATION_CREDENTIALS (on Cloud Run: of the service) has the role Storage Object User on it, and, for an \
     emulator, whether STORAGE_EMULATOR_HOST is right";

pub(super) fn unusable_database(engine: Engine, error: &StoreError) -> String {
    let advice = match (error, engine) {
        (StoreError::InUse(_), _) => {
            "the database is in use: stop the other process, or set DATA_DIR to another folder \
             (DATABASE_URL, if that is set)"
        }
        (StoreError::LockFile { .. }, _) => {
            "cannot write beside the database: set DATA_DIR to a folder that this user can write to \
             (DATABASE_URL, if that is set)"
        }
        (StoreError::Migration(_), _) => {
            "the database does not fit this version: start the version that made it, or set DATABASE_URL to another"
        }
        (StoreError::Full(_) | StoreError::ReadOnly(_) | StoreError::Locked(_), _) => {
            "the database takes no writes: start again when it does"
        }
        (_, Engine::Postgres) => {
            "cannot use the Postgres database of DATABASE_URL: see whether it runs, and whether host, port, user, \
             password and database name are right"
        }
        (_, Engine::Sqlite) => {
            "cannot use the SQLite database: put the file aside if it is damaged, or set DATA_DIR to another folder \
             (DATABASE_URL, if that is set)"
        }
    };
    advice.to_owned()
}

pub(super) fn unreadable_database(engine: Engine) -> &'static str {
    match engine {
        Engine::Postgres => {
            "cannot read the Postgres database of DATABASE_URL: see whether it runs, and whether host, port, user, \
             password and database name are right"
        }
        Engine::Sqlite => {
            "cannot read the SQLite database: set DATA_DIR to the folder of the service (DATABASE_URL, if that is \
             set there); where the database is lost, make one with the commands migrate and ledger import"
        }
    }
}
