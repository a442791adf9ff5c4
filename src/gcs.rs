//! Google Cloud Storage, as far as the pictures and the ledger share it: clients, names, and what an error means.
//!
//! Reading and writing bytes goes over JSON, everything else over gRPC; both speak to one endpoint.

use std::path::Path;
use std::time::Duration;

use google_cloud_auth::build_errors::Error as CredentialsError;
use google_cloud_auth::credentials::{self, Credentials, anonymous, mds, service_account};
use google_cloud_auth::signer::Signer;
use google_cloud_gax::client_builder::Error as ClientError;
use google_cloud_gax::error::Error;
use google_cloud_gax::error::rpc::Code;
use google_cloud_gax::exponential_backoff::ExponentialBackoffBuilder;
use google_cloud_gax::retry_policy::RetryPolicyExt as _;
use google_cloud_storage::client::{Storage, StorageControl};
use google_cloud_storage::retry_policy::RetryableErrors;

/// What an account may ask for with a token of this service.
const SCOPE: &str = "https://www.googleapis.com/auth/devstorage.read_write";
/// How long one step is tried again by the library, when trying again is safe.
const RETRY_FOR: Duration = Duration::from_secs(15);
/// First pause between two tries; each later one is longer, with jitter.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Longest time for one step with all its tries, whatever the other side does.
const STEP_TIMEOUT: Duration = Duration::from_mins(1);

/// Why the buckets cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The key file is not there, or not readable.
    #[error("cannot read the key file")]
    KeyFile(#[source] std::io::Error),
    /// The key file is not JSON.
    #[error("the key file is not JSON")]
    Key,
    /// No credentials were found, or they are of no use.
    #[error("no usable credentials")]
    Credentials(#[from] CredentialsError),
    /// A client could not be made.
    #[error("cannot set up the client")]
    Client(#[from] ClientError),
}

/// Who signs links.
#[derive(Debug, Clone)]
pub enum Signing {
    /// A service account's key that this process holds: no network, and good for as long as the link.
    Key(Signer),
    /// Google, by the IAM service: one call a link, with keys that rotate.
    Keyless(Signer),
    /// Nobody: an emulator asks for no signature.
    Unsigned,
    /// Nobody can, for this reason. Who only reads and writes needs no links.
    Unable(String),
}

/// The clients, and who signs.
#[derive(Debug, Clone)]
pub struct Gcs {
    /// Reads and writes bytes.
    pub data: Storage,
    /// Everything else.
    pub control: StorageControl,
    /// Who signs links.
    pub signing: Signing,
    /// The address of an emulator, without a slash at its end; `None` for Google itself.
    pub emulator: Option<String>,
}

impl Gcs {
    /// Sets up the clients. Nothing is asked over the network.
    ///
    /// `emulator` is an address such as `127.0.0.1:4443`, with or without `http://`; `key_file` is that of a service
    /// account, otherwise the credentials are those that the environment gives (on Cloud Run the metadata server's).
    ///
    /// # Errors
    /// [`SetupError`].
    pub async fn connect(emulator: Option<&str>, key_file: Option<&Path>) -> Result<Self, SetupError> {
        let key = key_file.map(read_key).transpose()?;
        let signing = match (key.clone(), emulator) {
            (Some(key), _) if is_service_account(&key) => {
                Signing::Key(service_account::Builder::new(key).build_signer()?)
            }
            (_, Some(_)) => Signing::Unsigned,
            (key, None) => match keyless_signer(key.is_none()) {
                Ok(signer) => Signing::Keyless(signer),
                Err(error) => Signing::Unable(error.to_string()),
            },
        };
        let emulator = emulator.map(|address| {
            let scheme = if address.contains("://") { "" } else { "http://" };
            format!("{scheme}{}", address.trim_end_matches('/'))
        });
        let credentials = credentials(key, emulator.is_some())?;
        let retry = || RetryableErrors.with_time_limit(RETRY_FOR);
        let pauses = || {
            let builder = ExponentialBackoffBuilder::new();
            builder.with_initial_delay(FIRST_PAUSE).with_maximum_delay(LONGEST_PAUSE).clamp()
        };
        let mut data = Storage::builder()
            .with_credentials(credentials.clone())
            .with_retry_policy(retry())
            .with_backoff_policy(pauses())
            // One request an upload, also of the largest picture: a session would be two more.
            .with_resumable_upload_threshold(usize::MAX);
        let mut control = StorageControl::builder()
            .with_credentials(credentials)
            .with_retry_policy(retry())
            .with_backoff_policy(pauses());
        if let Some(endpoint) = &emulator {
            data = data.with_endpoint(endpoint);
            control = control.with_endpoint(endpoint);
        }
        Ok(Self { data: data.build().await?, control: control.build().await?, signing, emulator })
    }
}

fn read_key(path: &Path) -> Result<serde_json::Value, SetupError> {
    let text = std::fs::read(path).map_err(SetupError::KeyFile)?;
    // The parser's message could repeat what it read.
    serde_json::from_slice(&text).map_err(|_| SetupError::Key)
}

fn is_service_account(key: &serde_json::Value) -> bool {
    key["type"] == "service_account"
}

fn credentials(key: Option<serde_json::Value>, emulator: bool) -> Result<Credentials, CredentialsError> {
    if emulator {
        return Ok(anonymous::Builder::new().build());
    }
    match key {
        Some(key) if is_service_account(&key) => {
            let scope = service_account::AccessSpecifier::from_scopes([SCOPE]);
            service_account::Builder::new(key).with_access_specifier(scope).build()
        }
        // The library reads the other kinds of key files itself, from the variable that named this one.
        Some(_) => credentials::Builder::default().with_scopes([SCOPE]).build(),
        None => {
            let found = credentials::Builder::default().with_scopes([SCOPE]).build();
            match found {
                Err(error) if error.is_loading() => mds::Builder::default().with_scopes([SCOPE]).build(),
                built => built,
            }
        }
    }
}

/// The signer of the credentials that the environment gives. With a variable that is set and `empty`, as an unfilled
/// line of an env file is, the library looks for a file without a name: there the platform is asked.
fn keyless_signer(empty: bool) -> Result<Signer, CredentialsError> {
    match credentials::Builder::default().build_signer() {
        Err(error) if empty && error.is_loading() => mds::Builder::default().build_signer(),
        built => built,
    }
}

/// A step did not come to an end in time.
#[derive(Debug, thiserror::Error)]
#[error("no answer within {} s", STEP_TIMEOUT.as_secs())]
pub struct Late;

/// What `step` came to, if it came to an end: the library bounds the tries, not the time of one.
///
/// # Errors
/// [`Late`] after a minute.
pub async fn within<T>(step: impl Future<Output = T>) -> Result<T, Late> {
    tokio::time::timeout(STEP_TIMEOUT, step).await.map_err(|_| Late)
}

/// The name of `bucket` in the library's calls.
#[must_use]
pub fn bucket_path(bucket: &str) -> String {
    format!("projects/_/buckets/{bucket}")
}

/// What an error says about what was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// There is no such object.
    Absent,
    /// A condition of the request did not hold: for a create-only write, the object is there.
    Refused,
    /// Too much at once: more than about one write a second of one name.
    TooFast,
    /// Nothing certain; what was asked for may have happened.
    Other,
}

/// What `error` says.
#[must_use]
pub fn meaning(error: &Error) -> Meaning {
    if is_of_bucket(error) {
        return Meaning::Other;
    }
    let by_code = error.status().map(|status| match status.code {
        Code::NotFound => Meaning::Absent,
        Code::FailedPrecondition | Code::AlreadyExists => Meaning::Refused,
        Code::ResourceExhausted => Meaning::TooFast,
        _ => Meaning::Other,
    });
    match (error.http_status_code(), by_code) {
        (Some(404), _) => Meaning::Absent,
        (Some(412), _) => Meaning::Refused,
        (Some(429), _) => Meaning::TooFast,
        (_, by_code) => by_code.unwrap_or(Meaning::Other),
    }
}

/// Whether `error` says that there is no such bucket. Its code is that of an absent object, but it says nothing of any
/// object; Google tells the two apart in words, as plain text where bytes were asked for: `No such object: …` and
/// `The specified bucket does not exist.`
fn is_of_bucket(error: &Error) -> bool {
    let said = error.status().map(|status| status.message.as_bytes()).or(error.http_payload().map(AsRef::as_ref));
    let said = String::from_utf8_lossy(said.unwrap_or_default());
    said.contains("bucket does not exist")
}

/// `None` if what was asked for is absent.
///
/// # Errors
/// Every other error.
pub fn if_there<T>(answer: Result<T, Error>) -> Result<Option<T>, Error> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(error) if meaning(&error) == Meaning::Absent => Ok(None),
        Err(error) => Err(error),
    }
}
