//! Where pictures and ledger go: a folder, or buckets of Google Cloud Storage.

use std::path::PathBuf;

use super::reader::Reader;

/// What a bucket is named like.
const BUCKET: &str = "the name of a bucket, such as my-pictures: 3 to 222 small letters, digits, dots, dashes or \
                      underscores, without gs:// and without a path";
/// The addresses that an emulator may have.
const EMULATOR: &str = "the address of an emulator, such as 127.0.0.1:4443 or http://127.0.0.1:4443";

/// Which buckets are used, and how they are reached. Without any, pictures and ledger are in `DATA_DIR`.
#[derive(Debug, Clone, Default)]
pub struct StorageConfig {
    /// For pictures and uploaded references.
    pub pictures: Option<String>,
    /// For the ledger: where none is named, that of the pictures.
    pub ledger: Option<String>,
    /// The address of an emulator, which asks for no credentials.
    pub emulator: Option<String>,
    /// The key file of a service account. Without it, the credentials are those that the environment gives.
    pub key_file: Option<PathBuf>,
}

impl StorageConfig {
    pub(super) fn read(from: &mut Reader<'_>) -> Self {
        let bucket = |text: &str| is_bucket(text).then(|| text.to_owned());
        let pictures = from.optional("GCS_BUCKET", BUCKET, bucket);
        let ledger = from.optional("LEDGER_BUCKET", BUCKET, bucket).or_else(|| pictures.clone());
        let emulator = from.optional("STORAGE_EMULATOR_HOST", EMULATOR, |text| {
            let address = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
            let url = url::Url::parse(&address).ok()?;
            let plain = url.scheme() == "http" && url.has_host() && url.path() == "/" && url.query().is_none();
            plain.then_some(address)
        });
        let key_file = from.text("GOOGLE_APPLICATION_CREDENTIALS").map(PathBuf::from);
        Self { pictures, ledger, emulator, key_file }
    }
}

fn is_bucket(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
    let ends = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = name.as_bytes();
    (3..=222).contains(&name.len())
        && name.bytes().all(plain)
        && bytes.first().is_some_and(ends)
        && bytes.last().is_some_and(ends)
}
