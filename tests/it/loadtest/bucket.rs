//! The same where pictures and ledger are in buckets: links lead away from the service, and the ledger's lines are read
//! where it writes them.

use serde_json::json;

use super::{ALL, gate, paid, provider, with};
use crate::client_commands::Desk;
use crate::fake_gemini::Fault;
use crate::google::{Google, ServiceAccount};

#[tokio::test]
async fn pictures_and_ledger_in_buckets_pass_every_gate() {
    let account = ServiceAccount::generate();
    let google = Google::start_for(Some(account.clone())).await;
    let provider = provider(|_, _| Fault::None).await;
    let data = tempfile::tempdir().unwrap();
    let settings = paid(data.path(), &provider).with("STORAGE_EMULATOR_HOST", google.address());
    let settings = settings.with("GOOGLE_APPLICATION_CREDENTIALS", account.key_file.to_str().unwrap());
    let service = settings.with("GCS_BUCKET", "pictures").with("LEDGER_BUCKET", "ledger").start().await;
    let desk = Desk::at(&service.url).with("STORAGE_EMULATOR_HOST", google.address());
    let command = ["loadtest", "--live", "--rows", "6", "--ledger", "gs://ledger"];
    let report = desk.json(0, &command).await.remove(0);
    assert_eq!(with("passed", &report), ALL, "{report}");
    assert_eq!(gate("links", &report)["measured"], "6 pictures, 6 permalinks, 6 thumbnails");
    desk.expect(64, &["loadtest", "--live", "--ledger", "gs://ledger/day"]).await;
}

#[tokio::test]
async fn a_bucket_without_the_lines_fails_its_gate() {
    let google = Google::start().await;
    let provider = provider(|_, _| Fault::None).await;
    let data = tempfile::tempdir().unwrap();
    let settings = paid(data.path(), &provider).with("STORAGE_EMULATOR_HOST", google.address());
    let service = settings.with("LEDGER_BUCKET", "ledger").start().await;
    let desk = Desk::at(&service.url).with("STORAGE_EMULATOR_HOST", google.address());
    // Another bucket than the one that is written to.
    let command = ["loadtest", "--live", "--rows", "2", "--ledger", "gs://elsewhere", "--ledger-wait", "2s"];
    let report = desk.json(1, &command).await.remove(0);
    assert_eq!(report["passed"], json!(false));
    assert!(with("failed", &report).contains(&"ledger-lines".to_owned()), "{report}");
}
