//! What stands for a caller for a while: a browser's session, and the right to follow one batch.
//!
//! Both are random secrets of which only the hash is kept, in the database, so that every instance knows them. They
//! end with the key that was shown for them.

use std::time::Duration;

use rand::Rng as _;

use super::{Access, Caller};
use crate::domain::access::{SecretHash, hex};
use crate::domain::ids::BatchId;
use crate::domain::time::Timestamp;
use crate::service::batches::ServiceError;
use crate::store::SessionRow;

/// How long a browser stays logged in.
pub const SESSION_LIFE: Duration = Duration::from_hours(12);
/// How long a stream's token lets its holder connect. Named by the contract.
pub const STREAM_TOKEN_LIFE: Duration = Duration::from_mins(1);
/// Random bytes of a secret.
const SECRET_BYTES: usize = 32;

/// A secret that was just made.
pub struct Ticket {
    /// The secret itself.
    pub secret: String,
    /// When it ends.
    pub expires_at: Timestamp,
}

impl Access {
    /// Begins a browser's session of `caller`.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`].
    pub async fn open_session(&self, caller: &Caller) -> Result<Ticket, ServiceError> {
        self.make(caller, None, SESSION_LIFE).await
    }

    /// Ends the session with this secret, if there is one.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`].
    pub async fn end_session(&self, secret: &str) -> Result<(), ServiceError> {
        Ok(self.store.delete_session(&SecretHash::of(secret)).await?)
    }

    /// Gives `caller` the right to follow `batch` without showing a key.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`].
    pub async fn stream_token(&self, caller: &Caller, batch: BatchId) -> Result<Ticket, ServiceError> {
        self.make(caller, Some(batch), STREAM_TOKEN_LIFE).await
    }

    async fn make(&self, caller: &Caller, batch: Option<BatchId>, life: Duration) -> Result<Ticket, ServiceError> {
        let mut bytes = [0_u8; SECRET_BYTES];
        rand::rng().fill_bytes(&mut bytes);
        let secret = hex(&bytes);
        let now = self.clock.now();
        let expires_at = now.after(life);
        let row = SessionRow { key: caller.key, user: caller.user.clone(), batch, expires_at };
        self.store.insert_session(&SecretHash::of(&secret), &row, now).await?;
        Ok(Ticket { secret, expires_at })
    }
}
