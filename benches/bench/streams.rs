//! Progress streams: how late events come, and what a subscriber costs, beside a bare broadcast of the same messages.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::Arguments;
use crate::bare::Server;
use crate::fake_gemini::{Allowed, FakeGemini, Fault};
use crate::service::{Books, Service, setting};
use crate::table::{Table, quantile};

/// How long events are counted.
const SPAN: Duration = Duration::from_secs(10);
/// A picture each of these makes two events: twenty a second.
const PAUSE: Duration = Duration::from_millis(100);

/// What a round of one server gave.
struct Round {
    p50: f64,
    p99: f64,
    cpu: f64,
    kib: f64,
}

pub(crate) async fn measure(arguments: &Arguments, table: &mut Table) {
    for subscribers in [1_000, 5_000] {
        let (mut service, mut bare) = (Vec::new(), Vec::new());
        for _ in 0..arguments.rounds {
            service.push(of_service(arguments, subscribers).await);
            bare.push(of_bare(subscribers).await);
        }
        let both = |of: fn(&Round) -> f64| {
            let median = |rounds: &[Round]| crate::table::median(rounds.iter().map(of).collect());
            (median(&service), median(&bare))
        };
        table.beside("streams", format!("{subscribers}: p50 of the delay"), both(|round| round.p50), "ms");
        table.beside("streams", format!("{subscribers}: p99 of the delay"), both(|round| round.p99), "ms");
        table.beside("streams", format!("{subscribers}: CPU"), both(|round| round.cpu), "cores");
        table.beside("streams", format!("{subscribers}: memory a subscriber"), both(|round| round.kib), "KiB");
    }
}

/// One call after the other, so that pictures come evenly.
async fn of_service(arguments: &Arguments, subscribers: usize) -> Round {
    let picture = crate::pictures::small_picture();
    let fake = FakeGemini::start(&picture, PAUSE, Allowed::default(), |_, _| Fault::None).await;
    let settings =
        [&[setting("PROVIDER_CONCURRENCY", 1), setting("THUMBNAILS_ENABLED", "false")], &*arguments.settings()]
            .concat();
    let service = Service::start(&fake.url, &settings).await;
    let batch = service.submit(9_000, 1).await;
    round(&service.url, &format!("/images/{batch}/events"), subscribers, || service.books()).await
}

async fn of_bare(subscribers: usize) -> Round {
    // What an event of a picture weighs, the end of its row being shorter.
    let bare = Server::start(&["broadcast", "620", &PAUSE.as_millis().to_string()]).await;
    round(bare.url.trim_end_matches('/'), "/", subscribers, || bare.books()).await
}

async fn round(url: &str, path: &str, subscribers: usize, books: impl Fn() -> Books) -> Round {
    let address = url.trim_start_matches("http://").to_owned();
    let before = books().memory_mib;
    let delays = Arc::new(Mutex::new(Vec::new()));
    let (start, counted) = tokio::sync::watch::channel(None::<Instant>);
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..subscribers {
        let mut connection = TcpStream::connect(&address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\naccept: text/event-stream\r\n\r\n");
        connection.write_all(request.as_bytes()).await.unwrap();
        let (delays, counted) = (delays.clone(), counted.clone());
        clients.spawn(async move { follow(connection, counted, delays).await });
    }
    // Whoever came late gets what was before first.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (used, begun) = (books(), Instant::now());
    start.send_replace(Some(begun + SPAN));
    clients.join_all().await;
    let after = books();
    let mut delays = std::mem::take(&mut *delays.lock().unwrap());
    delays.sort_by(f64::total_cmp);
    let cpu = after.cpu.saturating_sub(used.cpu).as_secs_f64() / begun.elapsed().as_secs_f64();
    let kib = (used.memory_mib.max(after.memory_mib) - before) * 1024.0 / subscribers as f64;
    Round { p50: quantile(&delays, 0.5), p99: quantile(&delays, 0.99), cpu, kib }
}

/// Reads events until their time is over; keeps how late each one came that was sent while they are counted.
async fn follow(
    mut connection: TcpStream,
    mut counted: tokio::sync::watch::Receiver<Option<Instant>>,
    delays: Arc<Mutex<Vec<f64>>>,
) {
    let (mut piece, mut rest, mut own) = (vec![0; 16 << 10], Vec::new(), Vec::new());
    let mut end = None;
    loop {
        let until = end.unwrap_or_else(|| Instant::now() + Duration::from_mins(1));
        let read = tokio::select! {
            read = connection.read(&mut piece) => read.unwrap(),
            _ = counted.changed(), if end.is_none() => {
                end = *counted.borrow_and_update();
                rest.clear();
                continue;
            }
            () = tokio::time::sleep_until(until.into()) => break,
        };
        assert!(read > 0, "the stream ended");
        if end.is_none() {
            continue;
        }
        rest.extend_from_slice(&piece[..read]);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64() * 1e3;
        while let Some(place) = rest.windows(2).position(|pair| pair == b"\n\n") {
            let event: Vec<u8> = rest.drain(..place + 2).collect();
            if let Some(sent) = time_of(&event) {
                own.push((now - sent).max(0.0));
            }
        }
    }
    delays.lock().unwrap().extend(own);
}

/// The `ts` of an event, in Unix milliseconds.
fn time_of(event: &[u8]) -> Option<f64> {
    let place = event.windows(5).position(|part| part == b"\"ts\":")? + 5;
    let digits: Vec<u8> = event[place..].iter().copied().take_while(u8::is_ascii_digit).collect();
    std::str::from_utf8(&digits).ok()?.parse().ok()
}
