//! Submissions, by their size.

use std::time::Instant;

use crate::Arguments;
use crate::service::{Service, batch, setting};
use crate::table::{Table, median};

/// Nothing is made: what is measured is the way of a batch into the database.
pub(crate) async fn measure(arguments: &Arguments, table: &mut Table) {
    for (rows, times) in [(1, 300), (100, 100), (1_000, 20), (10_000, 5)] {
        let (body, mut rates) = (batch(rows, 1), Vec::new());
        for _ in 0..arguments.rounds {
            let settings =
                [&[setting("RUN_MODE", "live"), setting("PROVIDER_RPM", 1)], &*arguments.settings()].concat();
            // A provider that nobody listens at.
            let service = Service::start("http://127.0.0.1:9", &settings).await;
            let start = Instant::now();
            for _ in 0..times {
                let request = service.client.post(format!("{}/images", service.url));
                let request = request.header("content-type", "application/json");
                let answer = request.body(body.clone()).send().await.unwrap();
                assert_eq!(answer.status().as_u16(), 202, "{:?}", answer.text().await);
            }
            rates.push(f64::from(times) / start.elapsed().as_secs_f64());
        }
        let rate = median(rates);
        table.add("submit", format!("{rows} rows, one after the other"), rate, "/s");
        table.add("submit", format!("{rows} rows: rows"), rate * rows as f64, "/s");
    }
}
