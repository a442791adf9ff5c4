use super::*;

fn variables(given: &[(&str, &str)]) -> HashMap<String, String> {
    given.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn config(given: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
    check(Config::parse(&defaults(variables(given)))?)
}

#[test]
fn the_demo_sets_what_it_needs_and_the_users_settings_come_before() {
    let ledger_off = ("BUDGET_LEDGER_ENABLED", "false");
    let given = [("SYNTHETIC_LATENCY", "0s"), ("RUST_LOG", "debug"), ("GEMINI_API_KEY", "k"), ledger_off];
    let config = config(&given).unwrap();
    assert_eq!(config.run_mode, RunMode::Live);
    assert!(config.features.budget_ledger);
    assert!(config.provider.synthetic_latency.is_zero());
    assert_eq!(config.logging.filter, "debug");
}

#[test]
fn settings_that_leave_nothing_to_show_are_refused_together() {
    let given = [("RUN_MODE", "dry_run"), ("SSE_ENABLED", "no")];
    let names: Vec<&str> = config(&given).unwrap_err().0.iter().map(|error| error.name).collect();
    assert_eq!(names, ["RUN_MODE", "SSE_ENABLED"]);
    for (name, bucket) in [("GCS_BUCKET", "pictures"), ("LEDGER_BUCKET", "ledger")] {
        let names: Vec<&str> = config(&[(name, bucket)]).unwrap_err().0.iter().map(|error| error.name).collect();
        assert_eq!(names, [name]);
    }
}

#[test]
fn the_demo_asks_no_provider_that_costs_money() {
    let given = [("PROVIDER", "gemini"), ("GEMINI_API_KEY", "k")];
    let names: Vec<&str> = config(&given).unwrap_err().0.iter().map(|error| error.name).collect();
    assert_eq!(names, ["PROVIDER"]);
}

#[tokio::test]
async fn a_taken_port_is_given_up_only_if_nobody_chose_it() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    for (was_chosen, expected, said) in [(true, port, None), (false, 0, Some(port))] {
        let mut config = config(&[]).unwrap();
        config.http.port = port;
        assert_eq!(choose_port(&mut config, was_chosen).await, said);
        assert_eq!(config.http.port, expected);
    }
}

/// The sample batch as it is after its pictures ended in `state` each.
fn ended(state: impl Fn(&str) -> &'static str) -> Batch {
    let sent: serde_json::Value = serde_json::from_str(BATCH).unwrap();
    let items: Vec<serde_json::Value> = sent["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| {
            let state = state(item["prompt"].as_str().unwrap());
            let images: Vec<serde_json::Value> = (1..=item["variants"].as_u64().unwrap_or(1))
                .map(|variant| serde_json::json!({"variant": variant, "state": state}))
                .collect();
            serde_json::json!({"sceneId": item["sceneId"], "prompt": item["prompt"], "images": images})
        })
        .collect();
    let counts =
        serde_json::json!({"total": 0, "queued": 0, "running": 0, "completed": 0, "failed": 0, "cancelled": 0});
    let view = serde_json::json!({"batchId": "bat_01KB0000000000000000000000", "state": "partial", "estimatedCost": 0,
        "actualCost": 0, "unknownCost": 0, "lastEvent": 1, "counts": counts, "items": items});
    serde_json::from_value(view).unwrap()
}

#[test]
fn the_sample_batch_has_a_dozen_rows_and_one_of_them_is_to_be_refused() {
    let as_it_should = ended(|prompt| if prompt.contains(REFUSED_MARKER) { "failed" } else { "completed" });
    assert_eq!(as_it_should.items.len(), 12);
    assert_eq!(check::unexpected(&as_it_should, REFUSED_MARKER), [""; 0]);
    assert_eq!(check::unexpected(&ended(|_| "completed"), REFUSED_MARKER), ["not-allowed v1 is completed"]);
    let pictures: usize = as_it_should.items.iter().map(|item| item.images.len()).sum();
    assert_eq!(check::unexpected(&ended(|_| "cancelled"), REFUSED_MARKER).len(), pictures);
}

#[test]
fn the_sample_is_a_dry_run_in_its_file_and_live_in_the_demo() {
    let mode = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap()["runMode"].clone();
    assert_eq!((mode(BATCH), mode(&sample().unwrap())), ("dry_run".into(), "live".into()));
}
