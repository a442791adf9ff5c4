//! What is asked of batches that there are, every way in which a command ends, and the shape of the command line.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use super::{Desk, batch_file, batches, paying, rows_file};

#[tokio::test]
async fn failed_pictures_are_named_with_their_reason_and_can_be_tried_again() {
    let data = tempfile::tempdir().unwrap();
    let service = paying(data.path()).start().await;
    let desk = Desk::at(&service.url);
    desk.write(
        "rows.json",
        &batch_file(&[("good", "a mug", 1), ("bad", "[refuse] a mug", 1), ("down", "[fail] a mug", 1)]),
    );
    let (out, err) = desk.expect(1, &["submit", "rows.json", "--live", "--out", "out"]).await;
    let batch = batches(&service).await.remove(0);
    for part in [
        "bad   1        safety_blocked",
        "down  1        provider_error",
        "1 of 3 pictures made, 2 failed",
        "retry bat_",
    ] {
        assert!(out.contains(part), "{part}: {out}");
    }
    assert!(err.contains("2 not made, 0 made and not saved"), "{err}");
    desk.has_all("out", &service, &batch).await;

    let (out, _) = desk.expect(0, &["retry", &batch]).await;
    assert!(out.contains("waiting again: 1"), "{out}");
    let answer = desk.json(1, &["watch", "last"]).await;
    assert_eq!(answer[0]["failures"].as_array().unwrap().len(), 2);
    assert_eq!(answer[0]["failures"][0]["code"], "safety_blocked");
    assert!(answer[0].get("items").is_none());
    let answer = desk.json(1, &["retry", &batch, "--code", "safety_blocked", "--out", "out"]).await;
    assert_eq!((&answer[0]["saved"], &answer[0]["lost"]), (&json!(1), &json!([])));
    let answer = desk.json(1, &["retry", &batch, "--code", "no_image"]).await;
    assert_eq!(answer[0]["error"]["code"], "not_retryable");
    desk.expect(2, &["retry", &batch, "--code", "whatever"]).await;
}

#[tokio::test]
async fn what_there_is_of_a_running_batch_is_downloaded_and_the_rest_cancelled() {
    let data = tempfile::tempdir().unwrap();
    let settings = paying(data.path()).with("PROVIDER_CONCURRENCY", "1").with("PROVIDER_TIMEOUT", "15s");
    let service = settings.start().await;
    let desk = Desk::at(&service.url);
    // The second picture does not come while two commands run, and the third waits for it.
    desk.write("rows.json", &batch_file(&[("a", "a mug", 1), ("b", "[stall] a mug", 1), ("c", "a mug", 1)]));
    let (out, _) = desk.expect(0, &["submit", "rows.json", "--live"]).await;
    let batch = batches(&service).await.remove(0);
    assert!(out.contains(&format!("rows.json is {batch}: 3 pictures, at most 0.15 US dollars")), "{out}");
    service.until(|view| view["counts"]["completed"] == 1, &format!("/images/{batch}")).await;
    let (out, _) = desk.expect(1, &["download", &batch]).await;
    assert!(out.contains("1 of 3 pictures made, 2 open"), "{out}");
    assert_eq!(desk.pictures(&batch).len(), 1);
    let (out, _) = desk.expect(0, &["cancel", &batch]).await;
    assert!(out.contains("1 cancelled, 1 under way, 1 made"), "{out}");
    let (out, _) = desk.expect(0, &["cancel", &batch, "--out", "out"]).await;
    assert!(out.contains("is cancelled: 1 of 3 pictures made"), "{out}");
    desk.has_all("out", &service, &batch).await;
}

#[tokio::test]
async fn a_folder_takes_the_pictures_of_one_batch() {
    let data = tempfile::tempdir().unwrap();
    let service = paying(data.path()).start().await;
    let desk = Desk::at(&service.url);
    desk.write("rows.json", &rows_file(1));
    for _ in 0..2 {
        desk.expect(0, &["submit", "rows.json", "--live", "--watch"]).await;
    }
    let [newer, older] = &batches(&service).await[..] else { panic!("two batches") };
    desk.expect(0, &["download", older, "--out", "out"]).await;
    let (_, err) = desk.expect(64, &["watch", "last", "--out", "out"]).await;
    assert!(err.contains(older) && err.contains(newer), "{err}");
}

#[tokio::test]
async fn the_budget_is_a_table_or_as_the_service_says_it() {
    let data = tempfile::tempdir().unwrap();
    let service =
        paying(data.path()).with("DAILY_BUDGET_USD", "0.12").with("USER_DAILY_BUDGET_USD", "0.07").start().await;
    let desk = Desk::at(&service.url);
    desk.write("rows.json", &rows_file(1));
    desk.expect(0, &["submit", "rows.json", "--live", "--watch"]).await;
    let (out, _) = desk.expect(0, &["budget"]).await;
    assert!(out.contains("everyone    0.12   0.05   0         0.07       0"), "{out}");
    assert!(out.contains("you         0.07   0.05   0         0.02       0"), "{out}");
    assert_eq!(desk.json(0, &["budget"]).await[0]["everyone"]["spent"], 0.05);
    // What does not fit has a code of its own, and is as if it had not been sent.
    let (out, _) = desk.expect(0, &["submit", "rows.json"]).await;
    assert!(out.contains("0.02 are left, which is too little for it"), "{out}");
    let (_, err) = desk.expect(75, &["submit", "rows.json", "--live", "--out", "out"]).await;
    assert!(err.contains("402") && err.contains("budget"), "{err}");
    desk.write("rows.json", &batch_file(&[("other", "a mug", 1)]));
    desk.expect(75, &["submit", "rows.json", "--live", "--out", "out"]).await;
}

#[tokio::test]
async fn a_script_can_tell_a_service_that_is_away_from_one_that_does_not_know_the_key() {
    let data = tempfile::tempdir().unwrap();
    let key = &crate::access::key(crate::access::ALICE);
    let service = crate::access::team(data.path()).start().await;
    let unknown = Desk::at(&service.url);
    let (_, err) = unknown.expect(77, &["budget"]).await;
    assert!(err.contains("ORCHESTRATOR_KEY"), "{err}");
    unknown.expect(77, &["budget", "--key", "wrong"]).await;
    let known = Desk::at(&service.url).with("ORCHESTRATOR_KEY", key);
    known.expect(0, &["budget"]).await;
    unknown.expect(0, &["budget", "--key", key]).await;
    for out in [&[][..], &["--out", "claimed"]] {
        let (_, err) = known.expect(1, &[&["watch", "bat_01KB0000000000000000000000"], out].concat()).await;
        assert!(err.contains("404"), "{err}");
    }
    assert!(!known.path("claimed").exists());
    let (_, err) = known.expect(64, &["watch", "last"]).await;
    assert!(err.contains("there is no batch yet"), "{err}");
    known.write("rows.json", &rows_file(2));
    let made = known.json(0, &["submit", "rows.json", "--live", "--out", "out"]).await;
    known.has_all("out", &service, made[0]["batchId"].as_str().unwrap()).await;
    // The settings of a service, good or bad, are no matter of those who ask one.
    let elsewhere = Desk::at(&service.url).with("PORT", "many").with("ORCHESTRATOR_KEY", key);
    elsewhere.expect(0, &["budget"]).await;
    assert_eq!(service.stop().await, Some(0));
    let (_, err) = known.expect(69, &["budget"]).await;
    assert!(err.contains("cannot reach http://127.0.0.1:"), "{err}");
    known.expect(64, &["budget", "--url", "localhost"]).await;
    known.expect(2, &["watch", "something"]).await;
}

#[tokio::test]
async fn ctrl_c_leaves_the_batch_running_and_says_how_to_go_on() {
    let data = tempfile::tempdir().unwrap();
    let service =
        paying(data.path()).with("SYNTHETIC_LATENCY", "300ms").with("PROVIDER_CONCURRENCY", "1").start().await;
    let desk = Desk::at(&service.url);
    desk.write("rows.json", &rows_file(10));
    let mut going = desk.start(&["submit", "rows.json", "--live", "--out", "my out"]);
    going.until_ended(1).await;
    kill(Pid::from_raw(going.child.id().unwrap().try_into().unwrap()), Signal::SIGINT).unwrap();
    let (code, _, said) = going.ended().await;
    assert_eq!(code, Some(130), "{said}");
    let batch = batches(&service).await.remove(0);
    assert!(said.contains(&format!("watch {batch} --out 'my out'")), "{said}");
    let view = service.finished(&batch).await;
    assert_eq!(view["state"], "completed");
    desk.expect(0, &["watch", &batch, "--out", "my out"]).await;
    desk.has_all("my out", &service, &batch).await;
}

#[tokio::test]
async fn without_streams_the_batch_is_looked_at_instead() {
    let data = tempfile::tempdir().unwrap();
    let service = paying(data.path()).with("SSE_ENABLED", "false").with("SYNTHETIC_LATENCY", "100ms").start().await;
    let desk = Desk::at(&service.url);
    desk.write("rows.json", &rows_file(3));
    desk.expect(0, &["submit", "rows.json", "--live", "--out", "out"]).await;
    assert_eq!(desk.pictures("out").len(), 3);
}

#[tokio::test]
async fn every_command_of_the_contract_is_there_and_explains_itself() {
    let desk = Desk::at("http://127.0.0.1:9");
    let (all, _) = desk.expect(0, &["--help"]).await;
    let commands =
        ["serve", "demo", "submit", "watch", "download", "cancel", "retry", "budget", "ledger", "keys", "prices"];
    for command in commands.into_iter().chain(["migrate", "healthcheck", "completions", "loadtest"]) {
        assert!(all.lines().any(|line| line.trim_start().starts_with(&format!("{command} "))), "{command}: {all}");
        let (help, _) = desk.expect(0, &[command, "--help"]).await;
        assert!(help.len() > 80, "{help}");
    }
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let (script, _) = desk.expect(0, &["completions", shell]).await;
        assert!(script.contains("submit") && script.contains("--live"), "{shell}");
    }
    let (script, _) = desk.expect(0, &["completions", "bash"]).await;
    desk.write("completions", &script);
    let checked = std::process::Command::new("bash").arg("-n").arg(desk.path("completions")).status().unwrap();
    assert!(checked.success());
}

#[tokio::test]
async fn a_batch_of_several_pages_is_read_to_its_end() {
    let data = tempfile::tempdir().unwrap();
    let service = paying(data.path()).start().await;
    let desk = Desk::at(&service.url);
    let names: Vec<String> = (1..=401).map(|row| format!("s-{row}")).collect();
    let rows: Vec<(&str, &str, u32)> = names.iter().map(|name| (name.as_str(), "[refuse] a mug", 1)).collect();
    desk.write("rows.json", &batch_file(&rows));
    let answer = desk.json(1, &["submit", "rows.json", "--live", "--watch"]).await;
    let failures = answer[0]["failures"].as_array().unwrap();
    assert_eq!((failures.len(), &failures[400]["sceneId"]), (401, &json!("s-401")));
}
