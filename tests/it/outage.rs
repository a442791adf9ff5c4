//! The database goes away in the middle of the work: stopped the hard way, all its connections held, read-only for a
//! while. Clients are told to come back, no call is made that could not be recorded, and what was paid is settled.

use std::time::{Duration, Instant};

use rand::RngExt as _;
use sqlx::{AnyConnection, Connection as _};

use crate::bill::{Ledger, Totals, all_ended, batch, count_from, paid, png, settled};
use crate::books::on;
use crate::cluster::Cluster;
use crate::engines::{Database, on_postgres};
use crate::fake_gemini::{Allowed, FakeGemini, Fault};
use crate::process::{Answer, PATIENCE, Service, Settings};
use crate::sse;

/// How long a client waits for any answer: several times what the service allows itself.
const CLIENT_PATIENCE: Duration = PATIENCE;

async fn good_provider() -> FakeGemini {
    FakeGemini::start(&png(), Duration::from_millis(50), Allowed::default(), |_, _| Fault::None).await
}

fn working(database: &Database, fake: &FakeGemini) -> Settings {
    paid(on(database), fake)
        .with("PROVIDER_CONCURRENCY", "4")
        .with("DAILY_BUDGET_USD", "1000000")
        .with("LEASE_DURATION", "3s")
}

/// A request that is answered within bounds, whatever the answer.
async fn answer(request: reqwest::RequestBuilder) -> Answer {
    Answer::of(request.timeout(CLIENT_PATIENCE).send().await.expect("an answer, late or not")).await
}

async fn post(service: &Service, name: &str) -> Answer {
    answer(service.client.post(format!("{}/images", service.url)).json(&batch(name, 1))).await
}

async fn get(service: &Service, path: &str) -> Answer {
    answer(service.client.get(format!("{}{path}", service.url))).await
}

#[track_caller]
fn is_unavailable(answer: &Answer) {
    answer.expect_problem(503, "unavailable");
    assert_ne!(answer.header("retry-after"), "", "when to come back");
}

/// Clients are told that the service cannot work now, and how long that took.
async fn told_to_come_back(service: &Service, batch: &str) -> Duration {
    let since = Instant::now();
    let (events, view, list) =
        (format!("/images/{batch}/events"), format!("/images/{batch}"), "/images?limit=10".to_owned());
    let (posted, seen, listed, stream, budget, ready, health) = tokio::join!(
        post(service, "too late"),
        get(service, &view),
        get(service, &list),
        get(service, &events),
        get(service, "/budget"),
        get(service, "/readyz"),
        get(service, "/health"),
    );
    for refused in [&posted, &seen, &listed, &stream, &budget, &ready] {
        is_unavailable(refused);
    }
    assert_eq!(health.status, 200);
    since.elapsed()
}

/// Waits until `count` pictures more were made than at the last time.
async fn made(service: &Service, count: u64) {
    service.until(|metrics| metrics["imagesGenerated"].as_u64() >= Some(count), "/metrics-lite").await;
}

/// Every event of the batch once and in order, over as many streams as it takes.
async fn followed(service: &Service, batch: &str) {
    let (mut last, deadline) = (0, Instant::now() + PATIENCE * 2);
    loop {
        let response = sse::request(service, batch, Some(last)).await;
        if response.status() == 200 {
            let mut stream = sse::read(response);
            while let Some(event) = stream.next().await {
                assert_eq!(event.id, last + 1, "a hole, or twice");
                last = event.id;
                if event.kind == "done" {
                    return;
                }
            }
            assert!(!stream.is_broken(), "the server ends a stream that it cannot feed");
        } else {
            assert_eq!(response.status(), 503);
            assert!(response.headers().contains_key("retry-after"));
        }
        assert!(Instant::now() < deadline, "the batch is not done");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Everything ended, and the ledger is the bill: no call was made twice, none was charged unseen.
async fn nothing_lost(database: &Database, fake: &FakeGemini) -> Totals {
    let totals = settled(database, &Ledger::Files(database.folder()), fake).await;
    assert_eq!((totals.booked, totals.unknown), (totals.charged, 0), "{totals}");
    assert_eq!(totals.completed, totals.pictures, "{totals}");
    assert_eq!(i64::try_from(totals.calls).unwrap(), totals.pictures, "a call for each picture: {totals}");
    totals
}

mod postgres {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_server_that_is_stopped_in_the_middle_of_a_batch_costs_no_picture_and_no_charge() {
        let outages = count_from("POSTGRES_STOPS", 2);
        let cluster = Cluster::start("");
        let database = Database::at(cluster.url());
        let fake = good_provider().await;
        let service = working(&database, &fake).start().await;
        let mut longest = Duration::ZERO;
        for outage in 0..outages {
            let before = fake.calls().len() as u64;
            let id = service.submit(&batch(&format!("outage {outage}"), 24)).await;
            let watch = followed(&service, &id);
            let fault = async {
                made(&service, before + rand::rng().random_range(1..16)).await;
                tokio::task::block_in_place(|| cluster.stop_at_once());
                if outage == 0 {
                    longest = told_to_come_back(&service, &id).await;
                } else {
                    tokio::time::sleep(Duration::from_millis(rand::rng().random_range(0..2_000))).await;
                }
                tokio::task::block_in_place(|| cluster.start_again());
            };
            tokio::join!(watch, fault);
            all_ended(&database, PATIENCE).await;
        }
        post(&service, "afterwards").await.expect(202);
        all_ended(&database, PATIENCE).await;
        assert_eq!(service.stop().await, Some(0));
        let totals = nothing_lost(&database, &fake).await;
        eprintln!("postgres stopped {outages} times: {totals}; clients were told within {longest:?}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_server_whose_connections_are_all_taken_is_waited_for() {
        let cluster = Cluster::start("-c max_connections=20 -c fsync=off");
        let database = Database::at(cluster.url());
        let fake = good_provider().await;
        let service = working(&database, &fake).start().await;
        let id = service.submit(&batch("before", 8)).await;
        made(&service, 2).await;
        // Others take every connection there is, also those that the service had.
        let mut taken: Vec<AnyConnection> = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        loop {
            while let Ok(connection) = AnyConnection::connect(&database.url).await {
                taken.push(connection);
            }
            let own = "SELECT COUNT(*) FROM pg_stat_activity WHERE backend_type = 'client backend'";
            let all: i64 = sqlx::query_scalar(own).fetch_one(taken.last_mut().unwrap()).await.unwrap();
            if usize::try_from(all).unwrap() == taken.len() {
                break;
            }
            assert!(Instant::now() < deadline, "the service keeps connections");
            let theirs = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                          WHERE backend_type = 'client backend' AND application_name <> 'taken'";
            for connection in &mut taken {
                sqlx::raw_sql("SET application_name = 'taken'").execute(connection).await.unwrap();
            }
            sqlx::query(theirs).execute(taken.last_mut().unwrap()).await.unwrap();
        }
        let took = told_to_come_back(&service, &id).await;
        drop(taken);
        service.finished(&id).await;
        post(&service, "afterwards").await.expect(202);
        all_ended(&database, PATIENCE).await;
        assert_eq!(service.stop().await, Some(0));
        let totals = nothing_lost(&database, &fake).await;
        eprintln!("all connections taken: {totals}; clients were told within {took:?}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_lock_that_others_hold_ends_every_request_within_bounds_and_is_waited_for() {
        on_postgres(async |database| {
            let fake = good_provider().await;
            let service = working(&database, &fake).start().await;
            let id = service.submit(&batch("before", 4)).await;
            service.finished(&id).await;
            let mut other = AnyConnection::connect(&database.url).await.unwrap();
            let hold = "BEGIN; UPDATE budget SET day = day WHERE scope = 'everyone'";
            sqlx::raw_sql(hold).execute(&mut other).await.unwrap();
            // More than there are connections: some wait for the lock, the others for a connection.
            let requests = (0..40).map(|number| locked(&service, number));
            let answers = futures_util::future::join_all(requests).await;
            answers.iter().for_each(is_unavailable);
            assert_eq!(get(&service, "/health").await.status, 200);
            sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
            post(&service, "afterwards").await.expect(202);
            all_ended(&database, PATIENCE).await;
            assert_eq!(service.stop().await, Some(0));
            assert_eq!(nothing_lost(&database, &fake).await.pictures, 5, "what was refused was not taken in");
        })
        .await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_failover_costs_no_picture_and_no_charge() {
        on_postgres(async |database| {
            let fake = good_provider().await;
            let service = working(&database, &fake).start().await;
            let id = service.submit(&batch("failover", 24)).await;
            made(&service, 4).await;
            // Every connection dies, and the server that answers then takes no write for a while.
            read_only(&database, true).await;
            is_unavailable(&post(&service, "read-only").await);
            let ready = get(&service, "/readyz").await;
            is_unavailable(&ready);
            assert!(ready.json()["reasons"][0].as_str().unwrap().starts_with("store"), "{}", ready.text);
            get(&service, &format!("/images/{id}")).await.expect(200);
            let calls = fake.calls().len();
            let started = database.number("SELECT COUNT(*) FROM attempts WHERE state IN ('started', 'settled')").await;
            assert!(calls <= usize::try_from(started).unwrap(), "{calls} calls, {started} of them recorded first");
            read_only(&database, false).await;
            service.finished(&id).await;
            assert_eq!(service.stop().await, Some(0));
            nothing_lost(&database, &fake).await;
        })
        .await;
    }

    async fn locked(service: &Service, number: u32) -> Answer {
        post(service, &format!("locked {number}")).await
    }

    /// Makes the database refuse writes, or take them, and ends every connection to it.
    async fn read_only(database: &Database, on: bool) {
        let name = database.url.rsplit('/').next().unwrap();
        let mut admin = AnyConnection::connect(&std::env::var("TEST_DATABASE_URL").unwrap()).await.unwrap();
        for sql in [
            format!("ALTER DATABASE {name} SET default_transaction_read_only = {on}"),
            format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"),
        ] {
            sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut admin).await.unwrap();
        }
    }
}
