//! Three processes on one Postgres, with pictures and ledger in buckets: one dies, one is frozen past its lease and goes
//! on, 64 clients share one limit.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};

use crate::bill::{BUCKET, Ledger, MODEL, all_ended, batch, count_from, dollars, paid, png, settled};
use crate::books::{micros, on};
use crate::engines::{Database, on_postgres, system_clock};
use crate::fake_gemini::{Allowed, FakeGemini, Fault};
use crate::google::Google;
use crate::kills::mixed;
use crate::process::{PATIENCE, Service, Settings};
use crate::sse;

/// Processes.
const INSTANCES: usize = 3;

/// Instances that share a database and buckets, each with a folder of its own.
struct Fleet {
    database: Arc<Database>,
    google: Google,
    fake: FakeGemini,
    folders: Vec<tempfile::TempDir>,
    variables: Vec<(&'static str, String)>,
}

/// A running instance, and the name under which it works.
struct Instance {
    service: Service,
    worker: String,
    /// Which of the folders is its own.
    folder: usize,
}

impl Fleet {
    async fn new(database: Arc<Database>, fake: FakeGemini, variables: &[(&'static str, &str)]) -> Self {
        // Its tables are looked at before the first instance is there.
        database.open(system_clock()).await.close().await;
        let folders = (0..INSTANCES).map(|_| tempfile::tempdir().unwrap()).collect();
        let variables = variables.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        Self { database, google: Google::start().await, fake, folders, variables }
    }

    fn settings(&self, number: usize) -> Settings {
        let settings = paid(on(&self.database), &self.fake)
            .with("DATA_DIR", self.folders[number].path().to_str().unwrap())
            .with("STORAGE_EMULATOR_HOST", self.google.address())
            .with("GCS_BUCKET", "pictures")
            .with("LEDGER_BUCKET", BUCKET);
        self.variables.iter().fold(settings, |settings, (name, value)| settings.with(name, value.clone()))
    }

    /// Starts an instance; no other one is started at the same time.
    async fn start(&self, number: usize) -> Instance {
        let workers = async || self.database.texts("SELECT id FROM workers").await;
        let before = workers().await;
        let service = self.settings(number).start().await;
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(worker) = workers().await.into_iter().find(|worker| !before.contains(worker)) {
                return Instance { service, worker, folder: number };
            }
            assert!(Instant::now() < deadline, "the worker does not register");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn start_all(&self) -> Vec<Instance> {
        let mut all = Vec::new();
        for number in 0..INSTANCES {
            all.push(self.start(number).await);
        }
        all
    }

    /// Waits until a query gives a number that is as expected.
    async fn until(&self, sql: &str, expected: impl Fn(i64) -> bool) -> i64 {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let number = self.database.number(sql).await;
            if expected(number) {
                return number;
            }
            assert!(Instant::now() < deadline, "{number}: {sql}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn running(&self, worker: &str) -> i64 {
        self.database.number(&running_of(worker)).await
    }

    /// All that is known of a batch's pictures, its events and its charges.
    async fn all_of(&self, batch: &str) -> Vec<String> {
        let images = "SELECT ordinal || ' ' || state || ' ' || COALESCE(cost, -1) || COALESCE(picture, '') FROM images";
        let events = "SELECT number || payload FROM events";
        let attempts = "SELECT ordinal || ' ' || number || ' ' || state || ' ' || COALESCE(cost, -1) FROM attempts";
        let mut all = Vec::new();
        for what in [images, events, attempts] {
            all.extend(self.database.texts(&format!("{what} WHERE batch_id = '{batch}' ORDER BY 1")).await);
        }
        let charges = format!("SELECT line FROM ledger WHERE line LIKE '%{batch}%' ORDER BY id");
        all.extend(self.database.texts(&charges).await);
        all
    }
}

async fn stop_all(all: Vec<Instance>) {
    let codes = futures_util::future::join_all(all.into_iter().map(|instance| instance.service.stop())).await;
    assert_eq!(codes, [Some(0); INSTANCES]);
}

fn running_of(worker: &str) -> String {
    format!("SELECT COUNT(*) FROM images WHERE worker = '{worker}' AND state = 'running'")
}

/// Follows the batch through one instance to its end: each event once, in order.
async fn followed(service: &Service, batch: &str) {
    let mut stream = sse::open(service, batch, None).await;
    let mut last = 0;
    while let Some(event) = stream.next().await {
        assert_eq!(event.id, last + 1, "a hole, or twice");
        last = event.id;
        if event.kind == "done" {
            return;
        }
    }
    panic!("the stream ended after {last}, before the batch did");
}

/// Takes a batch in and cancels it, while others are dead or frozen.
async fn cancelled(service: &Service, name: &str) {
    let id = service.submit(&batch(name, 40)).await;
    service.post(&format!("/images/{id}/cancel"), &json!({}), &[]).await.expect(200);
    let view = service.finished(&id).await;
    assert_eq!(view["state"], "cancelled", "{view}");
}

/// One dies, one is frozen past its lease and goes on; the third carries on meanwhile. Returns how many calls had no end.
async fn round(fleet: &Fleet, all: &mut Vec<Instance>, number: u32) -> i64 {
    let mut order: Vec<Instance> = std::mem::take(all);
    let (third, frozen, killed) = (order.remove(0), order.remove(0), order.remove(0));
    // No call is answered before both have some under way.
    fleet.fake.hold(true);
    let id = third.service.submit(&batch(&format!("round {number}"), 16)).await;
    let work = async {
        fleet.until(&running_of(&killed.worker), |running| running > 0).await;
        fleet.until(&running_of(&frozen.worker), |running| running > 0).await;
        frozen.service.signal(Signal::SIGSTOP);
        killed.service.kill().await;
        fleet.fake.hold(false);
        let open = fleet.running(&frozen.worker).await + fleet.running(&killed.worker).await;
        let attempts = format!(
            "SELECT a.id FROM attempts a JOIN images m ON m.batch_id = a.batch_id
            AND m.ordinal = a.ordinal AND m.variant = a.variant WHERE m.worker = '{}' AND a.state = 'started'",
            frozen.worker
        );
        let sent = fleet.database.texts(&attempts).await;
        cancelled(&third.service, &format!("cancelled in round {number}")).await;
        fleet.until(&format!("SELECT COUNT(*) FROM workers WHERE id = '{}'", frozen.worker), |rows| rows == 0).await;
        (open, sent)
    };
    let ((open, sent), ()) = tokio::join!(work, followed(&third.service, &id));
    assert!(!sent.is_empty(), "the frozen one had nothing under way");
    let before = fleet.all_of(&id).await;
    frozen.service.signal(Signal::SIGCONT);
    // It works again, under a claim of its own.
    let rejoined = format!("SELECT COUNT(*) FROM workers WHERE id = '{}'", frozen.worker);
    fleet.until(&rejoined, |rows| rows == 1).await;
    let later = frozen.service.submit(&batch(&format!("after round {number}"), 6)).await;
    frozen.service.finished(&later).await;
    let (code, log) = frozen.service.stop_and_read().await;
    assert_eq!(code, Some(0), "it puts its work down as any other");
    assert_eq!(fleet.all_of(&id).await, before, "a late write changed something");
    let lost = log.iter().filter(|line| line["message"].as_str().unwrap_or_default().starts_with("claim lost")).count();
    let mut taken_over = 0;
    for attempt in &sent {
        let unknown = format!("SELECT COUNT(*) FROM attempts WHERE id = '{attempt}' AND state = 'unknown'");
        taken_over += usize::try_from(fleet.database.number(&unknown).await).unwrap();
    }
    assert!(taken_over > 0 && lost >= taken_over, "{taken_over} calls were taken over, {lost} late ends came");
    all.push(third);
    open
}

async fn one_dies_and_one_is_frozen(database: Arc<Database>) {
    let rounds = count_from("INSTANCE_ROUNDS", 3);
    let fake = FakeGemini::start(&png(), Duration::from_millis(50), Allowed::default(), |_, _| Fault::None).await;
    let variables = [("PROVIDER_CONCURRENCY", "4"), ("LEASE_DURATION", "3s"), ("DAILY_BUDGET_USD", "1000000")];
    let fleet = Fleet::new(database, fake, &variables).await;
    let mut all = fleet.start_all().await;
    let mut open = 0;
    for number in 1..=rounds {
        open += round(&fleet, &mut all, number).await;
        // Folders of the two that ended are free again; the third goes on in its own.
        for folder in 0..INSTANCES {
            if all.iter().all(|instance| instance.folder != folder) {
                all.push(fleet.start(folder).await);
            }
        }
        all.rotate_left(1);
    }
    all_ended(&fleet.database, PATIENCE).await;
    stop_all(all).await;
    let totals = settled(&fleet.database, &Ledger::Bucket(&fleet.google), &fleet.fake).await;
    let most = totals.exceed_by_at_most(open);
    eprintln!(
        "three instances: {rounds} rounds, {open} calls without an end; {totals}; at most {} allowed",
        dollars(most)
    );
}

/// 64 clients ask three instances for more than the limit allows, until nothing fits any more.
async fn clients_share_one_limit(database: Arc<Database>, seed: u64) {
    const LIMIT: i64 = 2_000_000;
    const CLIENTS: u64 = 64;
    let fake = FakeGemini::start(&png(), Duration::from_millis(20), Allowed::default(), mixed(seed)).await;
    let limit = (LIMIT / 1_000_000).to_string();
    let variables = [("PROVIDER_CONCURRENCY", "8"), ("LEASE_DURATION", "5s"), ("DAILY_BUDGET_USD", &*limit)];
    let fleet = Fleet::new(database, fake, &variables).await;
    let all = fleet.start_all().await;
    let client = async |client: u64| {
        let mut random = StdRng::seed_from_u64(seed ^ (client << 8));
        let (mut accepted, mut refused) = (0, 0);
        while refused < 3 {
            let (instance, rows) = (random.random_range(0..INSTANCES), random.random_range(1..4));
            let body = batch(&format!("client {client}, {accepted} {refused}"), rows);
            let answer = all[instance].service.post("/images", &body, &[]).await;
            if answer.status == 202 {
                accepted += 1;
            } else {
                answer.expect_problem(402, "budget_exceeded");
                refused += 1;
            }
            tokio::time::sleep(Duration::from_millis(random.random_range(0..100))).await;
        }
        (accepted, refused)
    };
    let counts = futures_util::future::join_all((0..CLIENTS).map(client)).await;
    all_ended(&fleet.database, PATIENCE).await;
    // What was reserved and not spent is free again: all that still fits is taken, a picture at a time.
    let mut more = 0;
    while all[0].service.post("/images", &batch(&format!("more {more}"), 1), &[]).await.status == 202 {
        more += 1;
        all_ended(&fleet.database, PATIENCE).await;
    }
    let budget: Value = all[1].service.get("/budget").await.json();
    stop_all(all).await;
    let totals = settled(&fleet.database, &Ledger::Bucket(&fleet.google), &fleet.fake).await;
    let spent = micros(&budget["everyone"]["spent"]);
    assert!(totals.charged <= LIMIT && spent <= LIMIT, "{} of {}: {totals}", dollars(spent), dollars(LIMIT));
    assert!(spent > LIMIT - totals.reserve, "what fits was refused: {totals}");
    let (accepted, refused) = counts.iter().fold((0, 0), |sum, count| (sum.0 + count.0, sum.1 + count.1));
    eprintln!(
        "one limit of {} ({MODEL}), seed {seed}: {accepted} batches accepted, {refused} refused, {more} more; {totals}",
        dollars(LIMIT)
    );
}

mod postgres {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_frozen_process_that_goes_on_changes_nothing_and_a_dead_one_is_taken_over() {
        on_postgres(one_dies_and_one_is_frozen).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn sixty_four_clients_of_three_instances_never_spend_more_than_one_limit() {
        for _ in 0..count_from("CAP_RUNS", 3) {
            let seed = u64::from(count_from("CAP_SEED", rand::random()));
            on_postgres(|database| clients_share_one_limit(database, seed)).await;
        }
    }
}
