//! Status reads while a batch runs, against a server that always answers the same.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::Arguments;
use crate::bare::Server;
use crate::fake_gemini::{Allowed, FakeGemini, Fault};
use crate::service::{Service, setting};
use crate::table::{Table, median};

/// Clients that read without a pause.
const CLIENTS: usize = 8;
/// How long they read.
const SPAN: Duration = Duration::from_secs(3);

pub(crate) async fn measure(arguments: &Arguments, table: &mut Table) {
    let picture = crate::pictures::small_picture();
    let fake = FakeGemini::start(&picture, Duration::from_millis(100), Allowed::default(), |_, _| Fault::None).await;
    for limit in [1, 100] {
        let (mut service_rates, mut bare_rates) = (Vec::new(), Vec::new());
        for _ in 0..arguments.rounds {
            let settings = [&[setting("PROVIDER_CONCURRENCY", 4)], &*arguments.settings()].concat();
            let service = Service::start(&fake.url, &settings).await;
            let batch = service.submit(1_000, 1).await;
            let url = format!("{}/images/{batch}?limit={limit}", service.url);
            let length = service.client.get(&url).send().await.unwrap().bytes().await.unwrap().len();
            service_rates.push(reads(&url).await);
            drop(service);
            let bare = Server::start(&["answer", &length.to_string()]).await;
            bare_rates.push(reads(&bare.url).await);
        }
        let rates = (median(service_rates), median(bare_rates));
        table.beside("status", format!("reads of {limit} rows while a batch runs"), rates, "/s");
    }
}

/// Reads a second.
async fn reads(url: &str) -> f64 {
    let (count, end) = (Arc::new(AtomicU64::new(0)), Instant::now() + SPAN);
    let clients = (0..CLIENTS).map(|_| {
        let (client, url, count) =
            (reqwest::Client::builder().no_proxy().build().unwrap(), url.to_owned(), count.clone());
        tokio::spawn(async move {
            while Instant::now() < end {
                let answer = client.get(&url).send().await.unwrap();
                assert_eq!(answer.status().as_u16(), 200);
                answer.bytes().await.unwrap();
                count.fetch_add(1, Ordering::Relaxed);
            }
        })
    });
    futures_util::future::join_all(clients).await;
    count.load(Ordering::Relaxed) as f64 / SPAN.as_secs_f64()
}
