//! SIGTERM while everything goes on: calls under way, streams open, clients that send batches and pictures.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::bill::{Ledger, all_ended, batch, exported, paid, png, settled};
use crate::books::on;
use crate::engines::{Database, on_both_engines};
use crate::fake_gemini::{Allowed, FakeGemini, Fault};
use crate::process::{PATIENCE, Service, Settings};
use crate::sse;
use crate::uploads::{BOUNDARY, encoded, form, plain};

on_both_engines!(
    a_stop_under_load_loses_no_call_no_event_and_nothing_that_was_accepted,
    a_stop_while_the_provider_hangs_gives_its_calls_up_and_charges_them,
);

/// Progress streams that are open at the stop.
const STREAMS: usize = 50;

/// One client's stream: what it has seen so far, and whether that was all.
struct Follower {
    batch: String,
    last: u64,
    done: bool,
}

impl Follower {
    /// Follows until the server ends the stream; each event once, in order.
    async fn follow(&mut self, service: &Service) {
        let response = sse::request(service, &self.batch, Some(self.last)).await;
        if response.status() == 204 {
            assert!(self.done, "told that it has seen everything, and it has not");
            return;
        }
        assert_eq!(response.status(), 200);
        let mut stream = sse::read(response);
        while let Some(event) = stream.next().await {
            assert_eq!(event.id, self.last + 1, "a hole, or twice");
            (self.last, self.done) = (event.id, event.kind == "done");
        }
        assert!(!stream.is_broken(), "a stream was cut off");
        assert_eq!(stream.retry(), Some(1_000), "when to come back");
    }
}

/// A client that opens a connection for each request, as those do that come through a load balancer.
fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build().unwrap()
}

/// What became of the requests of one client, which it sent until nobody listened any more.
#[derive(Default)]
struct Sent {
    taken: Vec<String>,
    refused: usize,
}

/// Sends requests until nobody listens any more. Each is taken, or told that it is not.
async fn keeps_sending(request: impl Fn(usize) -> reqwest::RequestBuilder, taken: u16) -> Sent {
    let mut sent = Sent::default();
    for number in 0.. {
        let Ok(answer) = request(number).send().await else { break };
        if answer.status().as_u16() == taken {
            let location = answer.headers().get("location").map(|value| value.to_str().unwrap().to_owned());
            sent.taken.push(location.unwrap_or_default());
        } else {
            assert_eq!(answer.status(), 503, "refused for another reason than the stop");
            sent.refused += 1;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    sent
}

async fn a_stop_under_load_loses_no_call_no_event_and_nothing_that_was_accepted(database: Arc<Database>) {
    let fake = FakeGemini::start(&png(), Duration::from_millis(300), Allowed::default(), |_, _| Fault::None).await;
    // Time enough on a busy machine for every call to be answered.
    let settings = paid(on(&database), &fake)
        .with("SHUTDOWN_GRACE", "40s")
        .with("DAILY_BUDGET_USD", "1000000")
        .with("LEASE_DURATION", "5s");
    let ledger = Ledger::Files(database.folder());
    let service = settings.start().await;
    let batches = [service.submit(&batch("one", 80)).await, service.submit(&batch("two", 80)).await];
    let mut followers: Vec<Follower> =
        (0..STREAMS).map(|number| Follower { batch: batches[number % 2].clone(), last: 0, done: false }).collect();
    let (url, client) = (service.url.clone(), client());
    let submit = |name: &'static str| {
        let (url, client) = (url.clone(), client.clone());
        keeps_sending(
            move |number| client.post(format!("{url}/images")).json(&batch(&format!("{name} {number}"), 1)),
            202,
        )
    };
    let upload = |shade: usize| {
        let (url, client) = (url.clone(), client.clone());
        let request = move |number: usize| {
            let picture = encoded(&plain(u8::try_from((shade + number) % 256).unwrap()), image::ImageFormat::Png);
            let request = client.post(format!("{url}/references"));
            let request = request.header("content-type", format!("multipart/form-data; boundary={BOUNDARY}"));
            request.body(form(&[("images", &picture)]))
        };
        keeps_sending(request, 201)
    };
    let following = futures_util::future::join_all(followers.iter_mut().map(|follower| follower.follow(&service)));
    let stop = async {
        service.until(|metrics| metrics["imagesGenerated"].as_u64() >= Some(10), "/metrics-lite").await;
        service.until(|metrics| metrics["streamsOpened"] == STREAMS, "/metrics-lite").await;
        service.signal(Signal::SIGTERM);
    };
    let (_, (), first, second, pictures, others) =
        tokio::join!(following, stop, submit("a"), submit("b"), upload(0), upload(100));
    assert_eq!(service.code().await, Some(0), "put down within the grace");

    // Nothing is under way any more, and everything that was charged is in the ledger.
    let started = database.number("SELECT COUNT(*) FROM attempts WHERE state = 'started'").await;
    let claimed = database.number("SELECT COUNT(*) FROM images WHERE state IN ('claimed', 'running')").await;
    assert_eq!((started, claimed), (0, 0));
    exported(&database, &ledger).await;
    let taken: Vec<&String> = first.taken.iter().chain(&second.taken).collect();
    let known = database.number("SELECT COUNT(*) FROM batches").await;
    assert_eq!(usize::try_from(known).unwrap(), batches.len() + taken.len(), "taken in, and not told");
    let uploads = usize::try_from(database.number("SELECT COUNT(*) FROM uploads").await).unwrap();
    assert!(!taken.is_empty() && !pictures.taken.is_empty() && uploads > 0);
    assert!(uploads <= pictures.taken.len() + others.taken.len(), "taken in, and not told");
    assert!(followers.iter().any(|follower| !follower.done), "the stop came when all was done");

    let service = settings.start().await;
    for batch in &taken {
        service.get(batch).await.expect(200);
    }
    let resumed = futures_util::future::join_all(followers.iter_mut().map(|follower| follower.follow(&service)));
    tokio::join!(resumed, all_ended(&database, crate::process::PATIENCE));
    assert!(followers.iter().all(|follower| follower.done), "a client did not see the end");
    assert_eq!(service.stop().await, Some(0));
    let totals = settled(&database, &ledger, &fake).await;
    assert_eq!((totals.booked, totals.unknown, totals.completed), (totals.charged, 0, totals.pictures), "{totals}");
    assert_eq!(i64::try_from(totals.calls).unwrap(), totals.pictures, "a call for each picture: {totals}");
    eprintln!(
        "stopped under load: {} batches and {uploads} pictures taken meanwhile, {} refused; {totals}",
        taken.len(),
        first.refused + second.refused + pictures.refused + others.refused
    );
}

async fn a_stop_while_the_provider_hangs_gives_its_calls_up_and_charges_them(database: Arc<Database>) {
    const AT_ONCE: usize = 4;
    // Calls are charged, and never answered.
    let hangs = Arc::new(AtomicBool::new(true));
    let hanging = hangs.clone();
    let script = move |_: &str, _| if hanging.load(Ordering::SeqCst) { Fault::Stall } else { Fault::None };
    let fake = FakeGemini::start(&png(), Duration::from_millis(20), Allowed::default(), script).await;
    let settings = paid(on(&database), &fake)
        .with("SHUTDOWN_GRACE", "8s")
        .with("PROVIDER_CONCURRENCY", AT_ONCE.to_string())
        .with("LEASE_DURATION", "5s");
    let ledger = Ledger::Files(database.folder());
    let service = settings.start().await;
    let id = service.submit(&batch("hangs", 8)).await;
    let mut follower = Follower { batch: id, last: 0, done: false };
    let stop = async {
        service.until(|metrics| metrics["callsStarted"] == AT_ONCE, "/metrics-lite").await;
        while fake.calls().len() < AT_ONCE {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        service.signal(Signal::SIGTERM);
    };
    tokio::join!(follower.follow(&service), stop);
    assert_eq!(service.code().await, Some(0), "calls that hang are given up within the grace");
    exported(&database, &ledger).await;
    let unknown = database.number("SELECT COUNT(*) FROM attempts WHERE state = 'unknown'").await;
    assert_eq!(unknown, i64::try_from(AT_ONCE).unwrap());
    hangs.store(false, Ordering::SeqCst);
    let service = settings.start().await;
    while !follower.done {
        follower.follow(&service).await;
    }
    assert_eq!(service.stop().await, Some(0));
    let totals = settled(&database, &ledger, &fake).await;
    assert_eq!((totals.completed, totals.unknown, totals.calls), (8, AT_ONCE, 8 + AT_ONCE), "{totals}");
    totals.exceed_by_at_most(0);
}

/// Whoever watches a start may stop it as soon as it answers: it does so in order, however soon that is.
#[tokio::test]
async fn a_stop_right_after_the_first_answer_is_an_orderly_one() {
    let folder = tempfile::tempdir().unwrap();
    for _ in 0..5 {
        // A port that is free now is free a moment later.
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let settings = Settings::new(folder.path()).with("PORT", address.port().to_string());
        let mut child = settings.command().stderr(Stdio::null()).spawn().unwrap();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while client.get(format!("http://{address}/health")).send().await.is_err() {
            assert!(tokio::time::Instant::now() < deadline, "it does not start");
        }
        kill(Pid::from_raw(child.id().unwrap().cast_signed()), Signal::SIGTERM).unwrap();
        assert_eq!(child.wait().await.unwrap().code(), Some(0));
    }
}
