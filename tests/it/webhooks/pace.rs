//! When a message is tried again, and when not: deliveries in this process, on a clock that is moved.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;
use orchestrator::assets::local::LocalAssets;
use orchestrator::clock::{Clock as _, FixedClock};
use orchestrator::domain::ids::BatchId;
use orchestrator::domain::state::{DeliveryState, WebhookEvent};
use orchestrator::domain::time::Timestamp;
use orchestrator::domain::webhook::{KEPT_FOR, RETRY_PAUSES, TRIED_FOR, Webhook};
use orchestrator::net::lookup::Lookup;
use orchestrator::service::execute::Signals;
use orchestrator::service::links::{LinkRules, Links};
use orchestrator::service::webhooks::{AT_ONE_HOST, Webhooks};
use orchestrator::store::{DeliveryRow, SubmitOutcome};
use orchestrator::telemetry::metrics::Metrics;
use orchestrator::webhooks::DEADLINE;
use orchestrator::webhooks::web::WebCourier;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::SECRET;
use super::receiver::{Reaction, Receiver};
use crate::bench::{Bench, failure, made};
use crate::engines::{Database, on_both_engines};
use crate::process::PATIENCE;

on_both_engines!(
    a_receiver_that_was_down_for_an_hour_gets_everything_once_and_in_order,
    a_message_that_nobody_takes_is_given_up_after_a_day,
    a_receiver_that_answers_500_is_asked_again,
    a_receiver_that_is_gone_is_not_asked_again,
    a_receiver_may_ask_for_a_pause,
    a_redirect_is_not_followed,
    an_address_that_turns_out_private_is_never_connected_to,
    a_receiver_that_never_answers_is_given_up_in_time,
    a_slow_receiver_holds_no_other_one_and_is_told_little_at_once,
    what_is_old_is_no_longer_in_the_log,
    a_damaged_event_holds_no_later_one,
);

/// Names that are looked up here, and their addresses.
#[derive(Clone, Default)]
struct Names(Arc<HashMap<&'static str, IpAddr>>);

#[async_trait]
impl Lookup for Names {
    async fn lookup(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        self.0.get(name).map(|ip| vec![*ip]).ok_or_else(|| io::Error::other("no such name"))
    }
}

/// A store whose batches are told of, on a clock that stands still.
struct Desk {
    bench: Bench,
    clock: Arc<FixedClock>,
    links: Arc<Links>,
}

/// Deliveries that go on until they are stopped.
struct Delivering {
    draining: CancellationToken,
    running: JoinHandle<()>,
}

impl Delivering {
    async fn stop(self) {
        self.draining.cancel();
        self.running.await.unwrap();
    }
}

impl Desk {
    async fn new(database: &Database) -> Self {
        let clock = Arc::new(FixedClock::at(Timestamp::from_millis(1_795_512_600_000)));
        let bench = Bench::on_clock(database, clock.clone()).await;
        bench.store.beat(bench.worker, 1, clock.now()).await.unwrap();
        let assets = Arc::new(LocalAssets::open(database.folder().to_owned(), clock.clone()).unwrap());
        let rules = LinkRules { ttl: Duration::from_hours(1), min_left: Duration::from_mins(5), refresh: true };
        let links = Arc::new(Links::new(assets, clock.clone(), Arc::new(Metrics::default()), rules));
        Self { bench, clock, links }
    }

    /// Delivers to what `allow` exempts.
    fn deliver_within(&self, deadline: Duration, allow: &str, names: &Names) -> Delivering {
        let courier = WebCourier::new(allow.parse().unwrap(), deadline, names.clone(), self.clock.clone()).unwrap();
        let poll = Duration::from_millis(20);
        let (store, clock) = (self.bench.store.clone(), self.clock.clone());
        let webhooks = Webhooks::new(store, Arc::new(courier), self.links.clone(), clock, self.bench.worker, poll);
        let draining = CancellationToken::new();
        let signals = Signals { draining: draining.clone(), aborting: CancellationToken::new() };
        Delivering { draining, running: tokio::spawn(async move { webhooks.run(&signals).await }) }
    }

    fn deliver_to(&self, receivers: &[&Receiver]) -> Delivering {
        let allow: Vec<String> = receivers.iter().map(|receiver| receiver.address.to_string()).collect();
        self.deliver_within(DEADLINE, &allow.join(","), &Names::default())
    }

    /// A batch of which every event is told to `url`.
    async fn submitted(&self, url: String, pictures: u32) -> BatchId {
        let mut batch = self.bench.batch(pictures, 1);
        let events = WebhookEvent::ALL.to_vec();
        batch.webhook = Some(Webhook { url, events, secret: SECRET.parse().unwrap() });
        assert_eq!(self.bench.store.submit(&batch, &self.bench.limits).await.unwrap(), SubmitOutcome::Accepted);
        batch.id
    }

    /// A picture that waits is made, or fails.
    async fn end_one(&self, is_made: bool) {
        let mut job = self.bench.start_one().await;
        // Out of tries.
        job.history.failures = 2;
        self.bench.settle(&job, if is_made { made(&job, 50_000) } else { failure() }).await;
    }

    /// The same, with its pictures made, but the last one.
    async fn ended(&self, url: String, pictures: u32) -> BatchId {
        let batch = self.submitted(url, pictures).await;
        for left in (0..pictures).rev() {
            self.end_one(left > 0).await;
        }
        batch
    }

    async fn log(&self, batch: BatchId) -> Vec<DeliveryRow> {
        self.bench.store.load_deliveries(batch, 0, 1_000).await.unwrap()
    }

    /// Waits until the log of the batch is as expected.
    async fn until(&self, batch: BatchId, expected: impl Fn(&[DeliveryRow]) -> bool) -> Vec<DeliveryRow> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let log = self.log(batch).await;
            if expected(&log) {
                return log;
            }
            assert!(tokio::time::Instant::now() < deadline, "not in time: {log:#?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until try number `attempts` of the first delivery that waits has failed; when it is tried next.
    async fn failed(&self, batch: BatchId, attempts: u32) -> (Timestamp, DeliveryRow) {
        let waits = |row: &DeliveryRow| row.attempts == attempts && row.due.is_some();
        let log = self.until(batch, |log| log.iter().any(waits)).await;
        let row = log.into_iter().find(waits).unwrap();
        (row.due.unwrap(), row)
    }

    /// Moves the time on to `due`.
    fn wait_for(&self, due: Timestamp) {
        self.clock.advance(due.since(self.bench.store.steady_now()));
    }
}

fn all(state: DeliveryState) -> impl Fn(&[DeliveryRow]) -> bool {
    move |log| log.iter().all(|row| row.state == state)
}

/// A receiver that takes nothing until it is told to.
async fn down_at_first() -> (Receiver, Arc<AtomicBool>) {
    let up = Arc::new(AtomicBool::new(false));
    let switch = up.clone();
    let script = move |_: &_, _| if switch.load(Ordering::SeqCst) { Reaction::Status(200) } else { Reaction::Down };
    (Receiver::start(script).await, up)
}

async fn a_receiver_that_was_down_for_an_hour_gets_everything_once_and_in_order(database: Arc<Database>) {
    let (receiver, up) = down_at_first().await;
    let desk = Desk::new(&database).await;
    let delivering = desk.deliver_to(&[&receiver]);
    let start = desk.bench.store.steady_now();
    let batch = desk.ended(receiver.url(), 3).await;
    let (mut due, mut tries) = (start, 0);
    while due.since(start) < Duration::from_hours(1) {
        tries += 1;
        let row;
        (due, row) = desk.failed(batch, tries).await;
        assert_eq!((row.last_status, row.last_error.as_deref()), (None, Some("the connection broke off")));
        up.store(due.since(start) >= Duration::from_hours(1), Ordering::SeqCst);
        desk.wait_for(due);
    }
    assert_eq!(tries, 6, "5 s, 30 s, 2 min, 10 min, 30 min, an hour");
    let log = desk.until(batch, all(DeliveryState::Delivered)).await;
    delivering.stop().await;
    let messages = receiver.messages();
    assert!(messages.iter().all(|message| message.is_signed(SECRET)));
    let ids: Vec<&str> = messages.iter().map(super::receiver::Received::id).collect();
    let logged: Vec<String> = log.iter().map(|row| row.id.to_string()).collect();
    let (taken, failed) = (&ids[ids.len() - 4..], &ids[..ids.len() - 4]);
    assert_eq!(taken, logged, "each once, in their order");
    assert_eq!(failed, [&logged[0]; 6], "what is first is tried until it is taken");
    assert_eq!(messages.last().unwrap().kind(), "batch.completed");
}

async fn a_message_that_nobody_takes_is_given_up_after_a_day(database: Arc<Database>) {
    let (receiver, _) = down_at_first().await;
    let desk = Desk::new(&database).await;
    let delivering = desk.deliver_to(&[&receiver]);
    let start = desk.bench.store.steady_now();
    let batch = desk.ended(receiver.url(), 1).await;
    let mut tries = 0;
    while desk.bench.store.steady_now().since(start) < TRIED_FOR {
        tries += 1;
        let (due, _) = desk.failed(batch, tries).await;
        desk.wait_for(due);
    }
    let log = desk.until(batch, all(DeliveryState::Failed)).await;
    delivering.stop().await;
    assert_eq!(desk.bench.store.steady_now(), start.after(TRIED_FOR));
    assert_eq!((log[0].attempts, log[1].attempts), (tries + 1, 1), "the one behind it is tried all the same");
    for row in log {
        let error = row.last_error.unwrap();
        assert!(error.starts_with("given up after") && error.ends_with("the connection broke off"), "{error}");
    }
    assert_eq!(u32::try_from(receiver.messages().len()).unwrap(), tries + 2);
}

async fn a_receiver_that_answers_500_is_asked_again(database: Arc<Database>) {
    let receiver = Receiver::start(|_, before| Reaction::Status(if before < 2 { 500 } else { 200 })).await;
    let desk = Desk::new(&database).await;
    let delivering = desk.deliver_to(&[&receiver]);
    let batch = desk.ended(receiver.url(), 1).await;
    for (tries, pause) in (1..).zip(&RETRY_PAUSES[..2]) {
        let (due, row) = desk.failed(batch, tries).await;
        let waits = due.since(desk.bench.store.steady_now());
        assert!(waits >= pause.mul_f64(0.79) && waits <= pause.mul_f64(1.21), "{waits:?}");
        assert_eq!((row.last_status, row.last_error.as_deref()), (Some(500), Some("the receiver answered 500")));
        assert_eq!(receiver.messages().len(), tries as usize, "not before its time");
        desk.wait_for(due);
    }
    let log = desk.until(batch, all(DeliveryState::Delivered)).await;
    delivering.stop().await;
    assert_eq!((log[0].attempts, log[0].last_status, &log[0].last_error), (3, Some(200), &None));
    let messages = receiver.messages();
    assert!(messages.iter().all(|message| message.is_signed(SECRET)));
    let [first, second, third, _] = &messages[..] else { panic!("{messages:?}") };
    assert_eq!((first.id(), second.id()), (third.id(), third.id()), "the same message");
    assert_eq!((&first.text, &second.text), (&third.text, &third.text));
    let stamps = [first, second, third].map(|message| message.header("webhook-timestamp").parse::<u64>().unwrap());
    assert!(stamps.is_sorted() && stamps[0] < stamps[2], "the time is that of the try: {stamps:?}");
    let failed = &third.json()["data"];
    assert_eq!((&failed["state"], &failed["error"]["code"]), (&"failed".into(), &"provider_error".into()), "{failed}");
}

async fn a_receiver_that_is_gone_is_not_asked_again(database: Arc<Database>) {
    let receiver = Receiver::start(|_, _| Reaction::Status(410)).await;
    let desk = Desk::new(&database).await;
    let batch = desk.submitted(receiver.url(), 3).await;
    // Two wait as the first is sent, the others happen later.
    desk.end_one(true).await;
    desk.end_one(true).await;
    let delivering = desk.deliver_to(&[&receiver]);
    desk.until(batch, all(DeliveryState::Failed)).await;
    desk.end_one(false).await;
    let log = desk.until(batch, |log| log.len() == 4 && all(DeliveryState::Failed)(log)).await;
    assert_eq!((log[0].attempts, log[0].last_status), (1, Some(410)));
    assert!(log[0].last_error.as_ref().unwrap().contains("410 Gone"));
    for row in &log[1..] {
        let error = row.last_error.as_deref();
        assert_eq!((row.attempts, error), (0, Some("not sent: the receiver answered 410 Gone to an earlier one")));
    }
    // Another batch is another webhook.
    let other = desk.ended(receiver.url(), 1).await;
    desk.until(other, all(DeliveryState::Failed)).await;
    delivering.stop().await;
    assert_eq!(receiver.messages().len(), 2);
}

/// In Unix seconds: the start of a [`Desk`]'s clock, 600 s, an hour, and twenty minutes more.
const DATE: u64 = 1_795_512_600 + 600 + 3_600 + 1_200;

async fn a_receiver_may_ask_for_a_pause(database: Arc<Database>) {
    let asks = |_: &_, before| match before {
        0 => Reaction::With(429, "Retry-After: 600".to_owned()),
        1 => Reaction::With(503, "Retry-After: 864000".to_owned()),
        2 => Reaction::With(500, "Retry-After: 3000".to_owned()),
        3 => Reaction::With(
            429,
            format!("Retry-After: {}", httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(DATE))),
        ),
        _ => Reaction::Status(200),
    };
    let receiver = Receiver::start(asks).await;
    let desk = Desk::new(&database).await;
    let delivering = desk.deliver_to(&[&receiver]);
    let batch = desk.ended(receiver.url(), 1).await;
    for (tries, least, most) in [(1, 600, 600), (2, 3_600, 3_600), (3, 90, 150), (4, 1_050, 1_110)] {
        let (due, _) = desk.failed(batch, tries).await;
        let waits = due.since(desk.bench.store.steady_now()).as_secs();
        assert!((least..=most).contains(&waits), "try {tries}: {waits} s");
        desk.wait_for(due);
    }
    desk.until(batch, all(DeliveryState::Delivered)).await;
    delivering.stop().await;
}

async fn a_redirect_is_not_followed(database: Arc<Database>) {
    let private = Receiver::start(|_, _| Reaction::Status(200)).await;
    let to = private.url();
    let receiver = Receiver::start(move |_, _| Reaction::With(307, format!("Location: {to}"))).await;
    let desk = Desk::new(&database).await;
    // Not even where it might go.
    let delivering = desk.deliver_to(&[&receiver, &private]);
    let batch = desk.ended(receiver.url(), 1).await;
    let (due, row) = desk.failed(batch, 1).await;
    let told = "the receiver answered 307; redirects are not followed";
    assert_eq!((row.last_status, row.last_error.as_deref()), (Some(307), Some(told)));
    desk.wait_for(due);
    desk.failed(batch, 2).await;
    delivering.stop().await;
    assert_eq!((receiver.connections(), private.connections()), (2, 0));
}

async fn an_address_that_turns_out_private_is_never_connected_to(database: Arc<Database>) {
    let private = Receiver::start(|_, _| Reaction::Status(200)).await;
    let names = Names(Arc::new(HashMap::from([("hook.example", "127.0.0.1".parse().unwrap())])));
    let desk = Desk::new(&database).await;
    // Another network is exempt, so that the port is no reason to refuse it.
    let delivering = desk.deliver_within(DEADLINE, "10.9.0.0/16", &names);
    let port = private.address.port();
    let urls = [
        format!("http://hook.example:{port}/hook"),
        "https://hook.example/hook".to_owned(),
        format!("http://127.0.0.1:{port}/hook"),
        private.url().replace("127.0.0.1", "[::ffff:127.0.0.1]"),
    ];
    for url in urls {
        let batch = desk.ended(url.clone(), 1).await;
        let (_, row) = desk.failed(batch, 1).await;
        let told = "the address is not one this service connects to";
        assert_eq!((row.last_status, row.last_error.as_deref()), (None, Some(told)), "{url}");
    }
    delivering.stop().await;
    assert_eq!(private.connections(), 0);
}

async fn a_receiver_that_never_answers_is_given_up_in_time(database: Arc<Database>) {
    let never = |_: &_, before| if before == 0 { Reaction::Silence } else { Reaction::Status(200) };
    let receiver = Receiver::start(never).await;
    let desk = Desk::new(&database).await;
    let allow = receiver.address.to_string();
    let impatient = desk.deliver_within(Duration::from_millis(500), &allow, &Names::default());
    let batch = desk.ended(receiver.url(), 1).await;
    // On a busy machine a deadline may pass before it is connected to; nothing answers in time either way.
    let (_, row) = desk.failed(batch, 1).await;
    impatient.stop().await;
    let error = row.last_error.unwrap();
    assert!(["the server did not answer in time", "the server could not be connected to"].contains(&error.as_str()));
    let patient = desk.deliver_to(&[&receiver]);
    let mut tries = 1;
    while desk.log(batch).await.iter().any(|row| row.state == DeliveryState::Pending) {
        desk.clock.advance(RETRY_PAUSES[0]);
        tries += 1;
        assert!(tries < 6_000, "it is not delivered");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    patient.stop().await;
}

async fn a_slow_receiver_holds_no_other_one_and_is_told_little_at_once(database: Arc<Database>) {
    let slow = Receiver::start(|_, _| Reaction::Silence).await;
    let quick = Receiver::start(|_, _| Reaction::Status(200)).await;
    let desk = Desk::new(&database).await;
    let mut held = Vec::new();
    for _ in 0..2 * AT_ONE_HOST {
        held.push(desk.ended(slow.url(), 1).await);
    }
    let delivering =
        desk.deliver_within(10 * PATIENCE, &format!("{},{}", slow.address, quick.address), &Names::default());
    slow.until(AT_ONE_HOST).await;
    let batch = desk.ended(quick.url(), 10).await;
    desk.until(batch, all(DeliveryState::Delivered)).await;
    let mut tried = 0;
    for batch in held {
        let row = &desk.log(batch).await[0];
        assert_eq!(row.state, DeliveryState::Pending);
        assert_eq!(row.due.is_none(), row.attempts == 1, "it is being tried, or waits");
        tried += row.attempts as usize;
    }
    assert_eq!((tried, slow.messages().len(), quick.messages().len()), (AT_ONE_HOST, AT_ONE_HOST, 11));
    delivering.draining.cancel();
    delivering.running.abort();
}

async fn what_is_old_is_no_longer_in_the_log(database: Arc<Database>) {
    let receiver = Receiver::start(|_, _| Reaction::Status(200)).await;
    let desk = Desk::new(&database).await;
    let old = desk.ended(receiver.url(), 2).await;
    let delivering = desk.deliver_to(&[&receiver]);
    desk.until(old, all(DeliveryState::Delivered)).await;
    delivering.stop().await;
    desk.clock.advance(KEPT_FOR);
    // What waits is told, however old it is.
    let late = desk.ended(receiver.url(), 1).await;
    let month = i64::try_from(KEPT_FOR.as_millis()).unwrap();
    let age = format!("UPDATE deliveries SET created_at = created_at - {month} - 1 WHERE batch_id = '{late}'");
    database.execute(&age).await;
    assert_eq!(desk.log(old).await.len(), 3, "they are kept for so long");
    desk.clock.advance(Duration::from_millis(1));
    let delivering = desk.deliver_to(&[&receiver]);
    desk.until(old, <[DeliveryRow]>::is_empty).await;
    desk.until(late, all(DeliveryState::Delivered)).await;
    delivering.stop().await;
    assert_eq!((desk.log(late).await.len(), receiver.messages().len()), (2, 5));
}

async fn a_damaged_event_holds_no_later_one(database: Arc<Database>) {
    let receiver = Receiver::start(|_, _| Reaction::Status(200)).await;
    let desk = Desk::new(&database).await;
    let batch = desk.ended(receiver.url(), 2).await;
    let first = desk.log(batch).await[0].id.number;
    database.execute(&format!("UPDATE events SET payload = '{{' WHERE number = {first}")).await;
    let delivering = desk.deliver_to(&[&receiver]);
    let log = desk.until(batch, |log| log.iter().all(|row| row.state != DeliveryState::Pending)).await;
    delivering.stop().await;
    let states: Vec<DeliveryState> = log.iter().map(|row| row.state).collect();
    assert_eq!(states, [DeliveryState::Failed, DeliveryState::Delivered, DeliveryState::Delivered]);
    assert_eq!(log[0].last_error.as_deref(), Some("its event cannot be read any more"));
}
