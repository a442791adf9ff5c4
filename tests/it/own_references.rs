//! Whose picture of this service may be a reference: two owners, a real store, real local assets, moved time.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use image::ImageFormat;
use orchestrator::assets::gcs::GcsAssets;
use orchestrator::assets::local::LocalAssets;
use orchestrator::assets::{AssetStore, LinkedObject};
use orchestrator::clock::FixedClock;
use orchestrator::domain::ids::UserId;
use orchestrator::domain::outcome::Outcome;
use orchestrator::domain::picture::{Picture, PictureFormat, Receipt};
use orchestrator::domain::spec::{Reference, ReferenceMode};
use orchestrator::domain::time::Timestamp;
use orchestrator::gcs::Gcs;
use orchestrator::references::ReferenceError;
use orchestrator::references::content::Preparer;
use orchestrator::service::links::{LinkRules, Links};
use orchestrator::service::own_references::OwnReferences;
use orchestrator::service::uploads::Uploads;
use orchestrator::telemetry::metrics::Metrics;

use crate::bench::Bench;
use crate::engines::{Database, on_both_engines};
use crate::google::{Call, Google, ServiceAccount};
use crate::uploads::{encoded, plain};

on_both_engines!(
    a_picture_is_a_reference_for_its_owner_alone,
    no_way_of_writing_an_address_leads_to_anything_else,
    an_expired_or_missing_signature_does_not_matter_and_the_first_is_counted,
    the_same_content_of_two_owners_is_two_objects,
    a_picture_in_a_bucket_is_a_reference_for_its_owner_alone_by_each_of_its_addresses,
);

const HOUR: Duration = Duration::from_hours(1);

struct Own {
    bench: Bench,
    assets: Arc<dyn AssetStore>,
    clock: Arc<FixedClock>,
    metrics: Arc<Metrics>,
    uploads: Uploads,
    references: OwnReferences,
}

async fn own(database: &Database) -> Own {
    let folder = database.folder().to_owned();
    own_in(database, |clock| Arc::new(LocalAssets::open(folder, clock).unwrap())).await
}

async fn own_in(database: &Database, assets: impl FnOnce(Arc<FixedClock>) -> Arc<dyn AssetStore>) -> Own {
    let bench = Bench::new(database).await;
    let clock = Arc::new(FixedClock::at(Timestamp::from_millis(1_795_512_370_739)));
    let assets = assets(clock.clone());
    let (metrics, preparer) = (Arc::new(Metrics::default()), Preparer::new(1 << 20, 1_000_000));
    let rules = LinkRules { ttl: HOUR, min_left: Duration::from_mins(5), refresh: true };
    let links = Arc::new(Links::new(assets.clone(), clock.clone(), metrics.clone(), rules));
    let uploads = Uploads::new(bench.store.clone(), assets.clone(), links, clock.clone(), preparer.clone());
    let references = OwnReferences::new(bench.store.clone(), assets.clone(), preparer, clock.clone(), metrics.clone());
    Own { bench, assets, clock, metrics, uploads, references }
}

fn mallory() -> UserId {
    UserId::new("mallory")
}

impl Own {
    /// Uploads a picture for `owner` and returns its link.
    async fn upload(&self, owner: &UserId, shade: u8) -> String {
        let file = self.uploads.check(encoded(&plain(shade), ImageFormat::Png).into()).await.unwrap();
        let mut kept = self.uploads.keep(owner, &[file], None).await.unwrap();
        kept.references.remove(0).url
    }

    /// A picture of a batch of the local user, made and settled; its link.
    async fn make(&self) -> String {
        self.bench.submit(1, 1).await;
        let job = self.bench.start_one().await;
        let bytes: Bytes = encoded(&plain(7), ImageFormat::Png).into();
        let stem = job.claim.image.object_stem(job.number);
        let picture = Picture {
            object: format!("{stem}.png"),
            format: PictureFormat::Png,
            width: 64,
            height: 32,
            bytes: bytes.len() as u64,
            sha256: String::new(),
            thumbnail: None,
        };
        let object = picture.object.clone();
        let receipt = Receipt { attempt: job.claim.attempt, usage: None, cost: None, picture: picture.clone() };
        self.assets.store(bytes, None, &receipt).await.unwrap();
        self.bench.settle(&job, Outcome::Made { picture, cost: None }).await;
        self.assets.link(&object, "a.png", HOUR).await.unwrap().url
    }

    /// What the reference is for `owner`: the bytes of a picture, or why there is none.
    async fn get(&self, owner: &UserId, url: &str) -> Result<Bytes, ReferenceError> {
        let reference = Reference { url: url.to_owned().into(), mode: ReferenceMode::StyleOnly, sha256: None };
        let link = self.references.locate(&reference).expect("an address of ours");
        self.references.get(owner, &link, &reference).await.map(|image| image.bytes)
    }
}

fn missing() -> ReferenceError {
    ReferenceError::Unusable("there is no such picture of yours here".to_owned())
}

async fn a_picture_is_a_reference_for_its_owner_alone(database: Arc<Database>) {
    let own = own(&database).await;
    let (uploaded, made) = (own.upload(&UserId::local(), 1).await, own.make().await);
    let uri = |link: &str| own.assets.uri(&own.assets.locate(link).unwrap().object);
    for link in [&uploaded, &made, &uri(&uploaded), &uri(&made)] {
        let bytes = own.get(&UserId::local(), link).await.unwrap();
        assert!(image::load_from_memory(&bytes).is_ok());
        // A working signature is no right to spend money on somebody else's picture.
        assert_eq!(own.get(&mallory(), link).await.unwrap_err(), missing(), "{link}");
    }
    let theirs = own.upload(&mallory(), 2).await;
    assert!(own.get(&mallory(), &theirs).await.is_ok());
    assert_eq!(own.get(&UserId::local(), &theirs).await.unwrap_err(), missing());
}

async fn a_picture_in_a_bucket_is_a_reference_for_its_owner_alone_by_each_of_its_addresses(database: Arc<Database>) {
    let account = ServiceAccount::generate();
    let google = Google::start_for(Some(account.clone())).await;
    let gcs = Gcs::connect(Some(google.address()), Some(&account.key_file)).await.unwrap();
    let own = own_in(&database, |clock| Arc::new(GcsAssets::new(gcs, "pictures".to_owned(), clock))).await;
    let user = UserId::local();
    let links = [own.upload(&user, 1).await, own.make().await];
    for link in &links {
        let object = own.assets.locate(link).unwrap().object;
        for address in [
            link.clone(),
            link.replace("X-Goog-Signature=", "X-Goog-Signature=0"),
            link.split('?').next().unwrap().to_owned(),
            own.assets.uri(&object),
            format!("https://storage.googleapis.com/pictures/{object}"),
            format!("https://pictures.storage.googleapis.com/{object}"),
        ] {
            let bytes = own.get(&user, &address).await.unwrap();
            assert!(image::load_from_memory(&bytes).is_ok());
            assert_eq!(own.get(&mallory(), &address).await.unwrap_err(), missing(), "{address}");
        }
        // Pictures that are there, and of which the database does not say whose they are.
        let stray = object.replace("1-1-1", "1-1-2").replace("references/", "references/x");
        google.objects().put("pictures", &stray, encoded(&plain(3), ImageFormat::Png));
        for address in [format!("{stray}?a"), object.replace('/', "//"), object.replace('/', "%2F"), stray] {
            let refused = own.get(&user, &own.assets.uri(&address)).await.unwrap_err();
            assert!(refused == missing() || refused == ReferenceError::Blocked, "{address}: {refused:?}");
        }
        for blocked in ["", "ledger/2026-11-24.jsonl", "thumbnails/a/b.png"] {
            let refused = own.get(&user, &own.assets.uri(blocked)).await.unwrap_err();
            assert_eq!(refused, ReferenceError::Blocked, "{blocked}");
        }
    }
    assert_eq!(google.faults().calls(Call::Link), 0, "no link was followed");
    // By then every link is over.
    own.clock.advance(HOUR * 24 * 365 * 100);
    let before = own.metrics.url_refreshes.get();
    for link in &links {
        own.get(&user, link).await.unwrap();
        assert!(own.get(&mallory(), link).await.is_err());
    }
    assert_eq!(own.metrics.url_refreshes.get(), before + 2);
}

async fn no_way_of_writing_an_address_leads_to_anything_else(database: Arc<Database>) {
    let own = own(&database).await;
    let (uploaded, made) = (own.upload(&UserId::local(), 1).await, own.make().await);
    let path = |link: &str| link.split('?').next().unwrap().to_owned();
    let (uploaded, made) = (path(&uploaded), path(&made));
    // Pictures that are there, and of which the database does not say whose they are.
    for (link, stray) in [(&made, made.replace("1-1-1", "1-1-2")), (&uploaded, uploaded.replace(".png", ".jpg"))] {
        let file = |link: &str| database.folder().join(link.strip_prefix("/assets/").unwrap());
        std::fs::copy(file(link), file(&stray)).unwrap();
        assert_eq!(own.get(&UserId::local(), &stray).await.unwrap_err(), missing(), "{stray}");
    }
    for link in [&uploaded, &made] {
        let (folder, name) = link.rsplit_once('/').unwrap();
        for trick in [
            format!("{folder}//{name}"),
            format!("{folder}/./{name}"),
            format!("{folder}/../{}/{name}", folder.rsplit('/').next().unwrap()),
            format!("{folder}%2F{name}"),
            format!("{folder}%2f{name}"),
            format!("{folder}\\{name}"),
            format!("{folder}/{name}/"),
            format!("{folder}/{name}%00"),
            format!("{folder}/{name}."),
            format!("{folder}/%2e%2e/{name}"),
            link.to_uppercase().replace("/ASSETS/IMAGES/", "/assets/images/").replace("/ASSETS/R", "/assets/r"),
            link.replacen(".png", ".json", 1),
            link.replacen(".png", "", 1),
            link.replace("/assets/", "/assets//"),
            link.replace("/assets/", "/assets/../assets/"),
            link.replace("/assets/images", "/assets/thumbnails").replace("/assets/references", "/assets/ledger"),
            link.replace("1-1-1", "01-1-1").replace("/assets/references/", "/assets/references/../references/"),
            link.replace("1-1-1", "1-1-2").replace("/assets/references/", "/assets/references/ "),
        ] {
            assert_ne!(trick, *link);
            let refused = own.get(&UserId::local(), &trick).await.unwrap_err();
            assert!(refused == missing() || refused == ReferenceError::Blocked, "{trick}: {refused:?}");
        }
    }
    for elsewhere in [
        "/assets/signing.key",
        "/assets/orchestrator.db",
        "/assets/images/../signing.key",
        "/assets/../../etc/passwd",
        "/assets//etc/passwd",
        "/assets/",
        "/assets/images/",
        "/assets/references/",
    ] {
        let refused = own.get(&UserId::local(), elsewhere).await.unwrap_err();
        assert!(refused == missing() || refused == ReferenceError::Blocked, "{elsewhere}: {refused:?}");
    }
    // What the database knows and the folder has not is not there either.
    std::fs::remove_dir_all(database.folder().join("references")).unwrap();
    assert_eq!(own.get(&UserId::local(), &uploaded).await.unwrap_err(), missing());
}

async fn an_expired_or_missing_signature_does_not_matter_and_the_first_is_counted(database: Arc<Database>) {
    let own = own(&database).await;
    let (uploaded, made) = (own.upload(&UserId::local(), 1).await, own.make().await);
    let user = UserId::local();
    for link in [&uploaded, &made] {
        own.get(&user, link).await.unwrap();
        own.get(&user, link.split('?').next().unwrap()).await.unwrap();
        own.get(&user, &link.replace("signature=", "signature=A")).await.unwrap();
    }
    assert_eq!(own.metrics.url_refreshes.get(), 0);
    own.clock.advance(HOUR);
    for link in [&uploaded, &made] {
        own.get(&user, link).await.unwrap();
        assert!(own.get(&mallory(), link).await.is_err());
    }
    assert_eq!(own.metrics.url_refreshes.get(), 2);
}

async fn the_same_content_of_two_owners_is_two_objects(database: Arc<Database>) {
    let own = own(&database).await;
    // Names that would meet if they were cleaned up into folders.
    let owners = ["a/b", "a_b", "A_B", "..", "", "ä"].map(UserId::new);
    let mut objects = Vec::new();
    for owner in &owners {
        let link = own.upload(owner, 1).await;
        assert_eq!(own.upload(owner, 1).await, link, "the same again is the same object");
        let LinkedObject { object, .. } = own.assets.locate(&link).unwrap();
        assert!(own.get(owner, &link).await.is_ok());
        objects.push(object);
    }
    objects.sort();
    objects.dedup();
    assert_eq!(objects.len(), owners.len());
    assert_eq!(database.number("SELECT COUNT(*) FROM uploads").await, 6);
}
