//! Storage that takes no writes for a while: nothing is called that could not be recorded first, clients are told
//! to come again, and when the fault is gone everything ends by itself, each call charged once.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sqlx::{AnyConnection, Connection as _};

use crate::books::{ledger, micros, on};
use crate::engines::{Database, on_both_engines, on_postgres, on_sqlite};
use crate::fake_gemini::{Allowed, FakeGemini, Fault, PICTURE_MICROS, png};
use crate::process::{PATIENCE, Service, Settings, batch};

on_both_engines!(
    a_locked_database_refuses_batches_and_goes_on_by_itself,
    pictures_that_cannot_be_stored_are_charged,
    a_paid_picture_whose_name_is_taken_is_charged_once_and_made_under_another_by_a_retry,
);

/// The most that a refusal may take: a wait for a connection (10 s) and one for a lock (10 s), and a slow machine.
const MOST_WAIT: Duration = Duration::from_secs(40);
/// Pictures of the batch under way.
const PICTURES: usize = 12;

/// A service whose calls take a while, two at a time.
struct Scene {
    provider: FakeGemini,
    settings: Settings,
    service: Service,
    batch: String,
}

impl Scene {
    /// Starts a service and a batch, of which some pictures are made already.
    async fn start(settings: Settings) -> Self {
        let provider =
            FakeGemini::start(&png(), Duration::from_millis(100), Allowed::default(), |_, _| Fault::None).await;
        let settings = settings
            .with("PROVIDER", "gemini")
            .with("GEMINI_API_KEY", "key")
            .with("GEMINI_BASE_URL", provider.url.clone())
            .with("RUN_MODE", "live")
            .with("PROVIDER_CONCURRENCY", "2");
        let service = settings.start().await;
        let batch = service.submit(&batch(PICTURES, 1)).await;
        service.until(|metrics| metrics["imagesGenerated"].as_u64() >= Some(2), "/metrics-lite").await;
        Self { provider, settings, service, batch }
    }

    /// A batch is refused for now, in bounded time, and nothing of it is kept.
    async fn refuses(&self) {
        let begun = Instant::now();
        let answer = self.service.post("/images", &batch(1, 1), &[]).await;
        answer.expect_problem(503, "unavailable");
        assert_eq!(answer.header("retry-after"), "5");
        assert!(begun.elapsed() < MOST_WAIT, "{:?}", begun.elapsed());
    }

    /// `/readyz` names the store and what is wrong with it.
    async fn is_unready(&self, reason: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let problem = self.service.get("/readyz").await.expect_problem(503, "unavailable");
            // While others wait for the same connection, there may be no answer in time.
            if problem["reasons"][0].as_str().unwrap().contains(reason) {
                return;
            }
            assert!(Instant::now() < deadline, "{problem}");
        }
    }

    /// Waits until the calls under way have been answered, and no other starts.
    async fn stands_still(&self) {
        let deadline = Instant::now() + PATIENCE;
        let mut calls = (self.provider.calls().len(), Instant::now());
        while calls.1.elapsed() < Duration::from_secs(2) {
            if self.provider.calls().len() != calls.0 {
                calls = (self.provider.calls().len(), Instant::now());
            }
            assert!(Instant::now() < deadline, "calls go on");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The fault is gone: the batch ends, and every call is charged once, here, in the ledger and at the provider.
    async fn ends(self, database: &Database) -> Value {
        self.service.until(|ready| ready["ready"] == true, "/readyz").await;
        let view = self.service.finished(&self.batch).await;
        let calls = self.provider.calls().len();
        let cost = i64::try_from(calls).unwrap() * PICTURE_MICROS;
        assert_eq!((micros(&view["actualCost"]), self.provider.charged_micros()), (cost, cost), "{view}");
        let budget = self.service.get("/budget").await.expect(200).json();
        let everyone = &budget["everyone"];
        assert_eq!((micros(&everyone["spent"]), micros(&everyone["reserved"])), (cost, 0), "{budget}");
        assert_eq!(self.service.get("/images").await.json()["batches"].as_array().unwrap().len(), 1);
        assert_eq!(self.service.stop().await, Some(0));
        assert_eq!(ledger(database.folder()).len(), calls);
        let settled = "SELECT COUNT(*) FROM attempts WHERE state = 'settled'";
        assert_eq!(database.number(settled).await, i64::try_from(calls).unwrap());
        view
    }

    /// The same, where no picture had to be given up.
    async fn ends_whole(self, database: &Database) {
        let provider = self.provider.calls().len();
        assert!(provider < PICTURES, "the fault came too late to show anything");
        let view = self.ends(database).await;
        assert_eq!(view["counts"]["completed"], PICTURES, "{view}");
    }
}

/// Lets no file of the process have any byte, or any number of them again.
pub(crate) async fn limit_files(service: &Service, limit: &str) {
    let pid = service.pid().to_string();
    let limit = format!("--fsize={limit}:unlimited");
    let done = tokio::process::Command::new("prlimit").args(["--pid", &pid, &limit]).status().await.unwrap();
    assert!(done.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_batches_and_goes_on_by_itself() {
    on_sqlite(async |database| {
        let scene = Scene::start(on(&database).that_may_fill_its_disk()).await;
        limit_files(&scene.service, "0").await;
        scene.refuses().await;
        scene.is_unready("its disk is full or fails").await;
        scene.stands_still().await;
        limit_files(&scene.service, "unlimited").await;
        scene.ends(&database).await;
    })
    .await;
}

/// A file system of its own, as small as can be; gone with the test.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `None` where this user may mount nothing.
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mut mount = std::process::Command::new("mount");
        let mount = mount.args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"]).arg(folder.path()).status();
        if !mount.is_ok_and(|status| status.success()) {
            eprintln!("SKIPPED: this user may not mount a file system, so no disk really fills up");
            return None;
        }
        Some(Self(folder))
    }

    fn folder(&self) -> &Path {
        self.0.path()
    }

    /// Takes all the space that is left.
    fn fill(&self) {
        use std::io::Write as _;
        let mut file = std::fs::File::create(self.folder().join("filler")).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
        while file.write_all(&[0; 1]).is_ok() {}
    }

    fn free(&self) {
        std::fs::remove_file(self.folder().join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(std::process::Command::new("umount").arg("-l").arg(self.0.path()).status());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_really_is_full_refuses_batches_and_goes_on_by_itself() {
    on_sqlite(async |database| {
        let Some(disk) = SmallDisk::mount() else { return };
        let file = disk.folder().join("orchestrator.db");
        let settings = on(&database).with("DATABASE_URL", format!("sqlite:{}?mode=rwc", file.display()));
        let scene = Scene::start(settings).await;
        disk.fill();
        // What is in its log's file already may still be written; then it cannot grow.
        let deadline = Instant::now() + PATIENCE;
        while scene.service.post("/images", &json!({"runMode": "live", "items": wide()}), &[]).await.status == 202 {
            assert!(Instant::now() < deadline, "the disk never was full");
        }
        scene.refuses().await;
        scene.is_unready("its disk is full or fails").await;
        disk.free();
        let Scene { service, provider, settings, .. } = scene;
        service.until(|ready| ready["ready"] == true, "/readyz").await;
        let all =
            |list: &Value| list["batches"].as_array().unwrap().iter().all(|batch| batch["finishedAt"] != Value::Null);
        service.until(all, "/images?limit=200").await;
        let budget = service.get("/budget").await.json();
        let cost = i64::try_from(provider.calls().len()).unwrap() * PICTURE_MICROS;
        assert_eq!((micros(&budget["everyone"]["spent"]), micros(&budget["everyone"]["reserved"])), (cost, 0));
        assert_eq!(service.stop().await, Some(0));
        assert_eq!(ledger(database.folder()).len(), provider.calls().len());
        drop(settings);
    })
    .await;
}

/// A row whose text fills pages.
fn wide() -> Vec<Value> {
    vec![json!({"sceneId": "s-1", "prompt": "wide ".repeat(400)})]
}

async fn a_locked_database_refuses_batches_and_goes_on_by_itself(database: Arc<Database>) {
    let scene = Scene::start(on(&database)).await;
    let mut other = AnyConnection::connect(&database.url).await.unwrap();
    if database.url.starts_with("sqlite") {
        let locked = other.begin_with("BEGIN IMMEDIATE").await.unwrap();
        scene.refuses().await;
        scene.is_unready("another program has locked the database").await;
        scene.stands_still().await;
        locked.rollback().await.unwrap();
    } else {
        let mut locked = other.begin().await.unwrap();
        let sql = "UPDATE budget SET day = day WHERE scope = 'everyone'";
        sqlx::query(sql).execute(&mut *locked).await.unwrap();
        scene.refuses().await;
        // Nobody else uses the key: it is the money that is locked.
        let keyed = scene.service.post("/images", &batch(1, 1), &[("idempotency-key", "one")]).await;
        keyed.expect_problem(503, "unavailable");
        // A start does not need that row: calls go on, and what they cost waits to be settled.
        scene.stands_still().await;
        locked.rollback().await.unwrap();
    }
    scene.ends(&database).await;
}

mod postgres_alone {
    use super::*;

    mod postgres {
        use super::*;

        #[tokio::test(flavor = "multi_thread")]
        async fn a_read_only_database_refuses_batches_and_goes_on_by_itself() {
            on_postgres(async |database| {
                let scene = Scene::start(on(&database)).await;
                set_read_only(&database, "on").await;
                scene.refuses().await;
                scene.is_unready("the database is read-only").await;
                scene.stands_still().await;
                set_read_only(&database, "off").await;
                scene.ends_whole(&database).await;
            })
            .await;
        }
    }
}

/// Makes every new transaction read-only, or not, and ends the connections that do not know it.
async fn set_read_only(database: &Database, value: &str) {
    let name = database.texts("SELECT CAST(current_database() AS TEXT)").await.remove(0);
    let set = format!(
        "BEGIN READ WRITE; ALTER DATABASE {name} SET default_transaction_read_only = {value}; COMMIT;
         SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}' AND pid <> pg_backend_pid()"
    );
    database.execute(&set).await;
}

async fn pictures_that_cannot_be_stored_are_charged(database: Arc<Database>) {
    let scene = Scene::start(on(&database)).await;
    let images = database.folder().join("images");
    let aside = database.folder().join("aside");
    // A file where the folder was: no picture can be stored, and the database knows nothing of it.
    std::fs::rename(&images, &aside).unwrap();
    std::fs::write(&images, "").unwrap();
    let failed = |view: &Value| view["counts"]["failed"].as_u64() >= Some(2);
    let view = scene.service.until(failed, &format!("/images/{}?limit=200", scene.batch)).await;
    let failed = view["items"].as_array().unwrap().iter().map(|item| &item["images"][0]);
    for image in failed.filter(|image| image["state"] == "failed") {
        assert_eq!((&image["error"]["code"], &image["error"]["retryable"]), (&json!("storage_error"), &json!(true)));
        assert_eq!((micros(&image["cost"]), &image["billing"]), (PICTURE_MICROS, &json!("charged")));
    }
    std::fs::remove_file(&images).unwrap();
    std::fs::rename(&aside, &images).unwrap();
    let view = scene.service.finished(&scene.batch).await;
    let failed = view["counts"]["failed"].as_u64().unwrap();
    assert!(failed >= 2);
    // A retry makes them again, with money of its own.
    scene.service.post(&format!("/images/{}/retry", scene.batch), &json!({}), &[]).await.expect(202);
    let whole = |view: &Value| view["counts"]["completed"] == PICTURES;
    scene.service.until(whole, &format!("/images/{}", scene.batch)).await;
    assert_eq!(scene.provider.calls().len(), PICTURES + usize::try_from(failed).unwrap());
    scene.ends(&database).await;
}

async fn a_paid_picture_whose_name_is_taken_is_charged_once_and_made_under_another_by_a_retry(database: Arc<Database>) {
    let provider = FakeGemini::start(&png(), Duration::ZERO, Allowed::default(), |_, _| Fault::None).await;
    let settings = on(&database).with("PROVIDER", "gemini").with("GEMINI_API_KEY", "key").with("RUN_MODE", "live");
    let service = settings.with("GEMINI_BASE_URL", provider.url.clone()).start().await;
    provider.hold(true);
    let id = service.submit(&batch(2, 1)).await;
    service.until(|metrics| metrics["callsStarted"] == 2, "/metrics-lite").await;
    // Half of another picture, from before a backup that was put back.
    let folder = database.folder().join("images").join(&id);
    std::fs::create_dir_all(&folder).unwrap();
    let half = &png()[..20];
    std::fs::write(folder.join("1-1-1.png"), half).unwrap();
    provider.hold(false);
    let view = service.finished(&id).await;
    assert_eq!((&view["state"], micros(&view["actualCost"])), (&json!("partial"), 2 * PICTURE_MICROS), "{view}");
    let image = &view["items"][0]["images"][0];
    assert_eq!((&image["state"], &image["billing"]), (&json!("failed"), &json!("charged")), "{image}");
    assert_eq!((&image["error"]["code"], micros(&image["cost"])), (&json!("storage_error"), PICTURE_MICROS), "{image}");
    assert_eq!(
        (provider.calls().len(), service.get("/metrics-lite").await.json()["callsStarted"].clone()),
        (2, json!(2))
    );

    service.post(&format!("/images/{id}/retry"), &json!({}), &[]).await.expect(202);
    let view = service.until(|view| view["state"] == "completed", &format!("/images/{id}")).await;
    assert_eq!((provider.calls().len(), micros(&view["actualCost"])), (3, 3 * PICTURE_MICROS));
    let uri = view["items"][0]["images"][0]["uri"].as_str().unwrap();
    assert!(uri.ends_with("/1-1-2.png"), "{uri}");
    assert_eq!(std::fs::read(folder.join("1-1-1.png")).unwrap(), half, "what lay there is as it was");
    let everyone = service.get("/budget").await.json()["everyone"].clone();
    assert_eq!((micros(&everyone["spent"]), micros(&everyone["reserved"])), (3 * PICTURE_MICROS, 0));
    assert_eq!(service.stop().await, Some(0));
    assert_eq!((ledger(database.folder()).len(), provider.charged_micros()), (3, 3 * PICTURE_MICROS));
}
