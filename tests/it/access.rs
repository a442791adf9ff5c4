//! Who may do what, asked of the real program: keys, scopes, sessions, tokens, limits.

mod browsers;
mod crowd;
mod limits;
mod secrets;
mod table;

use std::path::Path;

use orchestrator::domain::access::ApiKey;
use serde_json::Value;

use crate::process::{Answer, Service, Settings};

/// A key that differs with `seed`.
pub(crate) fn key(seed: u8) -> String {
    ApiKey::from_random([seed; 6], [seed ^ 0x77; 24]).reveal()
}

/// A service with these entries in `API_KEYS`.
pub(crate) fn keyed(folder: &Path, entries: &[String]) -> Settings {
    Settings::new(folder).with("API_KEYS", entries.join(","))
}

/// A service that Alice, Bob and an admin have keys of.
pub(crate) fn team(folder: &Path) -> Settings {
    let entry = |name: &str, seed| format!("{name}={}", key(seed));
    keyed(folder, &[entry("alice", 1), entry("bob", 2), format!("{};scopes=admin", entry("root", 3))])
}

pub(crate) const ALICE: u8 = 1;
const BOB: u8 = 2;
const ADMIN: u8 = 3;

impl Service {
    /// Sends a request with a key, or without one.
    async fn ask(&self, method: &str, path: &str, key: Option<&str>, body: Option<&Value>) -> Answer {
        let request = self.client.request(method.parse().unwrap(), format!("{}{path}", self.url));
        let request = key.iter().fold(request, |request, key| request.header("authorization", format!("Bearer {key}")));
        let request = body
            .iter()
            .fold(request, |request, body| request.header("content-type", "application/json").body(body.to_string()));
        Answer::of(request.send().await.unwrap()).await
    }

    /// Posts a live batch with a key and returns its id.
    async fn submit_as(&self, key: &str, body: &Value) -> String {
        let answer = self.ask("POST", "/images", Some(key), Some(body)).await.expect(202);
        answer.json()["batchId"].as_str().unwrap().to_owned()
    }

    /// Waits with a key until the batch is finished.
    async fn finished_as(&self, key: &str, batch: &str) -> Value {
        let path = format!("/images/{batch}");
        let deadline = tokio::time::Instant::now() + crate::process::PATIENCE;
        loop {
            let view = self.ask("GET", &path, Some(key), None).await.expect(200).json();
            if !view["finishedAt"].is_null() {
                return view;
            }
            assert!(tokio::time::Instant::now() < deadline, "not in time: {view}");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
}

/// A client at another address of this machine.
pub(crate) fn from_address(number: u8) -> reqwest::Client {
    let client = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
    client.local_address(std::net::IpAddr::from([127, 0, 1, number])).build().unwrap()
}

/// Runs `orchestrator keys …` on the service's data; what it printed, and whether it went well.
async fn keys(settings: &Settings, arguments: &[&str]) -> (String, bool) {
    let output = settings.command().arg("keys").args(arguments).output().await.unwrap();
    eprintln!("{}", String::from_utf8_lossy(&output.stderr));
    (String::from_utf8(output.stdout).unwrap().trim().to_owned(), output.status.success())
}
