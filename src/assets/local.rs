//! Pictures in a folder, served by this service under links that it signs itself.
//!
//! A picture is written after its thumbnail and its receipt, so a picture that exists has both. An
//! object is reached only by a name of the strict form below and with a signature over that name, so
//! no path leads out of the folder.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use futures_util::StreamExt as _;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use tokio::io::AsyncReadExt as _;

use super::object::{FOLDERS, content_type, is_object_name};
use super::{AssetError, AssetStore, LinkedObject, OpenObject, SignedLink, SignedQuery};
use crate::clock::Clock;
use crate::domain::picture::{PictureFormat, Receipt, Sha256Hex};
use crate::domain::time::Timestamp;
use crate::durable::{self, Created};
use crate::failpoint;

/// Bytes of the key that signs links: one block of SHA-256.
const KEY_BYTES: usize = 64;
/// Bytes of a picture that are read at once while it is served.
const PIECE: usize = 64 << 10;
/// The path of this service below which objects are served.
const LINKS: &str = "/assets/";
/// The start of an address for a person or another program.
const URI: &str = "local:";

/// Pictures in a folder.
#[derive(Clone)]
pub struct LocalAssets {
    root: PathBuf,
    clock: Arc<dyn Clock>,
    key: Arc<[u8; KEY_BYTES]>,
}

impl LocalAssets {
    /// Opens the pictures in `root`; makes the signing key the first time, and removes what a crash
    /// left half-written.
    ///
    /// # Errors
    /// What the system said, or a signing key that is not one.
    pub fn open(root: PathBuf, clock: Arc<dyn Clock>) -> io::Result<Self> {
        durable::create_folder(&root)?;
        durable::remove_leftovers(&root)?;
        for folder in FOLDERS {
            durable::remove_leftovers(&root.join(folder))?;
        }
        let key = Arc::new(signing_key(&root.join("signing.key"))?);
        Ok(Self { root, clock, key })
    }

    /// Runs file work off the async threads.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, AssetError> + Send + 'static,
    ) -> Result<T, AssetError> {
        let assets = self.clone();
        tokio::task::spawn_blocking(move || work(&assets)).await.map_err(AssetError::unavailable)?
    }

    fn path(&self, object: &str) -> Result<PathBuf, AssetError> {
        let refused = || AssetError::unavailable(format!("{object} is no object name"));
        if is_object_name(object) { Ok(self.root.join(object)) } else { Err(refused()) }
    }

    fn create(&self, object: &str, bytes: &[u8]) -> Result<(), AssetError> {
        match durable::create(&self.path(object)?, bytes).map_err(AssetError::unavailable)? {
            Created::New | Created::Same => Ok(()),
            Created::Different => Err(AssetError::Conflict(object.to_owned())),
        }
    }

    fn store_files(&self, picture: &[u8], thumbnail: Option<&[u8]>, receipt: &Receipt) -> Result<(), AssetError> {
        if let (Some(bytes), Some(object)) = (thumbnail, &receipt.picture.thumbnail) {
            self.create(object, bytes)?;
        }
        let json = serde_json::to_vec(receipt).map_err(AssetError::unavailable)?;
        self.create(&receipt_name(&receipt.picture.object), &json)?;
        failpoint::hit("assets.receipt_written");
        self.create(&receipt.picture.object, picture)
    }

    fn find_files(&self, stem: &str) -> Result<Option<Receipt>, AssetError> {
        for format in PictureFormat::ALL {
            let picture = self.path(&format!("{stem}.{}", format.ending()))?;
            match picture.try_exists() {
                Ok(false) => {}
                Err(error) => return Err(AssetError::unavailable(error)),
                Ok(true) => {
                    // Written before the picture: one that is not whole is damage, never "not there". So is one of
                    // other bytes, which had the name before the receipt was written.
                    let damaged = || AssetError::Damaged(stem.to_owned());
                    let json = match fs::read(self.path(&format!("{stem}.json"))?) {
                        Ok(json) => json,
                        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(damaged()),
                        Err(error) => return Err(AssetError::unavailable(error)),
                    };
                    let receipt: Receipt = serde_json::from_slice(&json).map_err(|_| damaged())?;
                    // After a crash many are looked for at once: none is in memory as a whole.
                    let hash = File::open(&picture).and_then(Sha256Hex::of_reader).map_err(AssetError::unavailable)?;
                    let is_its = hash.to_string() == receipt.picture.sha256;
                    return if is_its { Ok(Some(receipt)) } else { Err(damaged()) };
                }
            }
        }
        Ok(None)
    }

    fn signature(&self, object: &str, expires: i64, name: &str) -> Hmac<Sha256> {
        // The parts cannot run into each other: an object name has no newline, a number neither.
        let text = format!("{object}\n{expires}\n{name}");
        Hmac::<Sha256>::new(self.key.as_ref().into()).chain_update(text)
    }

    fn is_signed(&self, object: &str, query: &SignedQuery) -> bool {
        let Ok(signature) = URL_SAFE_NO_PAD.decode(&query.signature) else { return false };
        let signed = self.signature(object, query.expires, &query.name).verify_slice(&signature).is_ok();
        signed && self.clock.now() < Timestamp::from_millis(query.expires)
    }
}

#[async_trait]
impl AssetStore for LocalAssets {
    async fn store(&self, picture: Bytes, thumbnail: Option<Bytes>, receipt: &Receipt) -> Result<(), AssetError> {
        let receipt = receipt.clone();
        self.blocking(move |assets| assets.store_files(&picture, thumbnail.as_deref(), &receipt)).await
    }

    async fn put(&self, object: &str, picture: Bytes) -> Result<(), AssetError> {
        let object = object.to_owned();
        self.blocking(move |assets| assets.create(&object, &picture)).await
    }

    async fn find(&self, stem: &str) -> Result<Option<Receipt>, AssetError> {
        let stem = stem.to_owned();
        self.blocking(move |assets| assets.find_files(&stem)).await
    }

    async fn link(&self, object: &str, file_name: &str, ttl: Duration) -> Result<SignedLink, AssetError> {
        let expires_at = self.clock.now().after(ttl);
        let expires = expires_at.millis();
        let signature = self.signature(object, expires, file_name).finalize().into_bytes();
        let query = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("expires", &expires.to_string())
            .append_pair("name", file_name)
            .append_pair("signature", &URL_SAFE_NO_PAD.encode(signature))
            .finish();
        Ok(SignedLink { url: format!("{LINKS}{object}?{query}"), expires_at })
    }

    fn locate(&self, url: &str) -> Option<LinkedObject> {
        if let Some(object) = url.strip_prefix(URI) {
            return Some(LinkedObject { object: object.to_owned(), expires_at: None });
        }
        let link = url.strip_prefix(LINKS)?.split('#').next()?;
        let (object, query) = link.split_once('?').unwrap_or((link, ""));
        let mut pairs = url::form_urlencoded::parse(query.as_bytes());
        let expires = pairs.find_map(|(name, value)| (name == "expires").then(|| value.parse().ok()).flatten());
        Some(LinkedObject { object: object.to_owned(), expires_at: expires.map(Timestamp::from_millis) })
    }

    async fn open_signed(&self, object: &str, query: &SignedQuery) -> Result<Option<OpenObject>, AssetError> {
        if self.is_signed(object, query) { self.open(object).await } else { Ok(None) }
    }

    async fn open(&self, object: &str) -> Result<Option<OpenObject>, AssetError> {
        if !is_object_name(object) {
            return Ok(None);
        }
        let Some(content_type) = content_type(object) else { return Ok(None) };
        let path = self.path(object)?;
        let opened = self
            .blocking(move |_| match open_file(&path) {
                Ok(opened) => Ok(opened),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(AssetError::unavailable(error)),
            })
            .await?;
        let Some((file, length)) = opened else { return Ok(None) };
        let file = tokio::fs::File::from_std(file);
        let body = futures_util::stream::try_unfold(file, |mut file| async move {
            let mut piece = Vec::with_capacity(PIECE);
            let read = (&mut file).take(PIECE as u64).read_to_end(&mut piece).await?;
            Ok((read > 0).then(|| (Bytes::from(piece), file)))
        });
        Ok(Some(OpenObject { content_type, length, body: body.boxed() }))
    }

    fn uri(&self, object: &str) -> String {
        format!("{URI}{object}")
    }

    async fn check(&self) -> Result<(), AssetError> {
        self.blocking(|assets| {
            let probe = durable::temporary_in(&assets.root);
            let written = fs::write(&probe, b"probe");
            written.and_then(|()| fs::remove_file(&probe)).map_err(AssetError::unavailable)
        })
        .await
    }
}

/// The name of the receipt beside a picture.
fn receipt_name(object: &str) -> String {
    let stem = object.rsplit_once('.').map_or(object, |(stem, _)| stem);
    format!("{stem}.json")
}

/// Opens a plain file; a link is not followed, as none of ours is one.
fn open_file(path: &Path) -> io::Result<Option<(File, u64)>> {
    if !fs::symlink_metadata(path)?.is_file() {
        return Ok(None);
    }
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    Ok(Some((file, length)))
}

/// Reads the key, or makes it the first time: readable by its owner alone from its first byte on.
fn signing_key(path: &Path) -> io::Result<[u8; KEY_BYTES]> {
    if !path.try_exists()? {
        let key: [u8; KEY_BYTES] = rand::random();
        durable::create_secret(path, &key)?;
    }
    let bytes = fs::read(path)?;
    let bad = || io::Error::new(io::ErrorKind::InvalidData, "signing.key is damaged; remove it to make a new one");
    bytes.try_into().map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    use ulid::Ulid;

    use super::*;
    use crate::clock::FixedClock;
    use crate::domain::ids::{AttemptId, BatchId, ImageKey};
    use crate::domain::picture::Picture;

    const HOUR: Duration = Duration::from_hours(1);

    struct Bench {
        folder: tempfile::TempDir,
        clock: Arc<FixedClock>,
        assets: LocalAssets,
        stem: String,
        receipt: Receipt,
    }

    fn bench() -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(FixedClock::at(Timestamp::from_millis(1_000)));
        let assets = LocalAssets::open(folder.path().to_owned(), clock.clone()).unwrap();
        let key = ImageKey { batch: BatchId::new(Ulid::nil()), ordinal: 1, variant: 2 };
        let stem = key.object_stem(3);
        let picture = Picture {
            object: format!("{stem}.png"),
            format: PictureFormat::Png,
            width: 1,
            height: 1,
            bytes: 7,
            sha256: Sha256Hex::of(b"picture").to_string(),
            thumbnail: Some(crate::assets::picture::thumbnail_name(&stem)),
        };
        let receipt = Receipt { attempt: AttemptId::new(Ulid::nil()), usage: None, cost: None, picture };
        Bench { folder, clock, assets, stem, receipt }
    }

    impl Bench {
        async fn store(&self, bytes: &'static [u8]) -> Result<(), AssetError> {
            self.assets.store(bytes.into(), Some(b"small".as_slice().into()), &self.receipt).await
        }

        /// The link to the stored picture, as its path and its query.
        async fn link(&self) -> (String, SignedQuery) {
            let link = self.assets.link(&self.receipt.picture.object, "s-1_v2.png", HOUR).await.unwrap();
            let url = url::Url::parse(&format!("http://host{}", link.url)).unwrap();
            let pairs: std::collections::HashMap<String, String> = url.query_pairs().into_owned().collect();
            let query = SignedQuery {
                expires: pairs["expires"].parse().unwrap(),
                name: pairs["name"].clone(),
                signature: pairs["signature"].clone(),
            };
            (url.path().strip_prefix("/assets/").unwrap().to_owned(), query)
        }

        async fn opens(&self, object: &str, query: &SignedQuery) -> bool {
            self.assets.open_signed(object, query).await.unwrap().is_some()
        }
    }

    #[tokio::test]
    async fn a_stored_picture_is_found_by_its_stem_and_never_changed() {
        let bench = bench();
        assert_eq!(bench.assets.find(&bench.stem).await.unwrap(), None);
        bench.store(b"picture").await.unwrap();
        bench.store(b"picture").await.unwrap();
        assert_eq!(bench.assets.find(&bench.stem).await.unwrap(), Some(bench.receipt.clone()));
        let other = bench.store(b"another").await;
        assert!(matches!(other, Err(AssetError::Conflict(_))), "{other:?}");
    }

    #[tokio::test]
    async fn a_receipt_without_its_picture_is_no_picture_and_the_reverse_is_a_fault() {
        let bench = bench();
        bench.store(b"picture").await.unwrap();
        let picture = bench.folder.path().join(&bench.receipt.picture.object);
        fs::rename(&picture, bench.folder.path().join("aside")).unwrap();
        assert_eq!(bench.assets.find(&bench.stem).await.unwrap(), None);
        fs::rename(bench.folder.path().join("aside"), &picture).unwrap();
        fs::write(&picture, b"pict").unwrap();
        assert!(
            matches!(bench.assets.find(&bench.stem).await, Err(AssetError::Damaged(_))),
            "another's, or half of it"
        );
        fs::write(&picture, b"picture").unwrap();
        assert!(bench.assets.find(&bench.stem).await.is_ok());
        fs::write(picture.with_extension("json"), b"{").unwrap();
        assert!(matches!(bench.assets.find(&bench.stem).await, Err(AssetError::Damaged(_))));
        fs::remove_file(picture.with_extension("json")).unwrap();
        assert!(matches!(bench.assets.find(&bench.stem).await, Err(AssetError::Damaged(_))));
    }

    #[tokio::test]
    async fn a_link_opens_its_picture_until_it_expires() {
        let bench = bench();
        bench.store(b"picture").await.unwrap();
        let (object, query) = bench.link().await;
        let opened = bench.assets.open_signed(&object, &query).await.unwrap().unwrap();
        assert_eq!((opened.content_type, opened.length), ("image/png", 7));
        let pieces: Vec<Bytes> = opened.body.map(Result::unwrap).collect().await;
        assert_eq!(pieces.concat(), b"picture");
        bench.clock.advance(HOUR);
        assert!(!bench.opens(&object, &query).await);
    }

    #[tokio::test]
    async fn a_link_survives_a_restart_and_no_change() {
        let bench = bench();
        bench.store(b"picture").await.unwrap();
        let (object, query) = bench.link().await;
        let again = LocalAssets::open(bench.folder.path().to_owned(), bench.clock.clone()).unwrap();
        assert!(again.open_signed(&object, &query).await.unwrap().is_some());
        let changed = [
            SignedQuery { expires: query.expires + 1, ..query.clone() },
            SignedQuery { name: "other.png".to_owned(), ..query.clone() },
            SignedQuery { signature: query.signature.to_lowercase(), ..query.clone() },
            SignedQuery { signature: String::new(), ..query.clone() },
        ];
        for query in changed {
            assert!(!bench.opens(&object, &query).await, "{query:?}");
        }
        let thumbnail = bench.receipt.picture.thumbnail.clone().unwrap();
        assert!(!bench.opens(&thumbnail, &query).await, "a signature is for one object");
    }

    #[tokio::test]
    async fn no_name_leads_out_of_the_folder_even_with_a_signature() {
        let bench = bench();
        bench.store(b"picture").await.unwrap();
        fs::write(bench.folder.path().join("images/secret.png"), b"x").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", bench.folder.path().join("images/link.png")).unwrap();
        let link = bench.folder.path().join("images").join(bench.stem.split('/').nth(1).unwrap()).join("link.png");
        std::os::unix::fs::symlink("/etc/passwd", &link).unwrap();
        let inside = link.strip_prefix(bench.folder.path()).unwrap().to_str().unwrap().to_owned();
        for object in [
            "signing.key",
            "orchestrator.db",
            "images/../signing.key",
            "images/bat/../../signing.key",
            "images//etc/passwd",
            "/etc/passwd",
            "images/bat/..",
            "images/bat/.png",
            "images\\bat\\1.png",
            "images/secret.png",
            "images/bat/a\0.png",
            &bench.stem,
            &format!("{}.json", bench.stem),
            &inside,
        ] {
            let expires = 1_000_000;
            let signature = bench.assets.signature(object, expires, "").finalize().into_bytes();
            let query = SignedQuery { expires, name: String::new(), signature: URL_SAFE_NO_PAD.encode(signature) };
            assert!(!bench.opens(object, &query).await, "{object}");
            assert!(bench.assets.open(object).await.unwrap().is_none(), "{object}");
        }
    }

    #[tokio::test]
    async fn a_link_says_which_object_it_leads_to_also_when_it_is_dead() {
        let bench = bench();
        let object = "references/0a/1b.png";
        bench.assets.put(object, b"picture".as_slice().into()).await.unwrap();
        bench.assets.put(object, b"picture".as_slice().into()).await.unwrap();
        let other = bench.assets.put(object, b"another".as_slice().into()).await;
        assert!(matches!(other, Err(AssetError::Conflict(_))), "{other:?}");
        assert!(bench.assets.open(object).await.unwrap().is_some());
        let link = bench.assets.link(object, "a.png", HOUR).await.unwrap();
        let located = LinkedObject { object: object.to_owned(), expires_at: Some(link.expires_at) };
        assert_eq!(bench.assets.locate(&link.url), Some(located));
        let bare = Some(LinkedObject { object: "a//../b%2f".to_owned(), expires_at: None });
        for url in ["/assets/a//../b%2f", "/assets/a//../b%2f?expires=x#y", "/assets/a//../b%2f#?expires=1"] {
            assert_eq!(bench.assets.locate(url), bare, "{url}");
        }
        let uri = LinkedObject { object: object.to_owned(), expires_at: None };
        assert_eq!(bench.assets.locate(&bench.assets.uri(object)), Some(uri));
        for url in [
            "https://a.test/assets/x",
            "gs://bucket/references/0a/1b.png",
            "Local:x",
            "/assets",
            "//assets/x",
            "assets/x",
            "",
        ] {
            assert_eq!(bench.assets.locate(url), None, "{url}");
        }
    }

    #[test]
    fn the_signing_key_is_its_owners_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let bench = bench();
        let mode = fs::metadata(bench.folder.path().join("signing.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
