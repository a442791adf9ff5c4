use super::super::gates::Name;
use super::super::page;
use super::*;

fn report(verdict: Verdict) -> Report {
    let gates = vec![
        Gate {
            name: Name::Time,
            verdict: Verdict::Passed,
            measured: "3.0 s".into(),
            limit: "under 600.0 s".into(),
            hint: None,
        },
        Gate {
            name: Name::HttpErrors,
            verdict,
            measured: "errors +1 <script>alert(1)</script>\u{1b}[2J".into(),
            limit: "0, as seen".into(),
            hint: Some("\"why\" & 'how'".into()),
        },
    ];
    Report {
        passed: passed(&gates),
        url: "https://o.example".into(),
        version: "1",
        ended_at: Timestamp::from_millis(0),
        model: "m".into(),
        rehearsal: true,
        rows: 2,
        variants: 1,
        shared: false,
        batch_id: "bat_01KB0000000000000000000000".parse().unwrap(),
        state: BatchState::Completed,
        counts: Counts { total: 2, completed: 2, ..Counts::default() },
        estimated_cost: MicroUsd::from_micros(100_000),
        actual_cost: MicroUsd::from_micros(100_000),
        unknown_cost: MicroUsd::ZERO,
        took: Duration::from_secs(3),
        gates,
        submissions: Times::new(vec![Duration::from_micros(1_500)]),
        pictures: Times::new(vec![Duration::from_secs(1), Duration::from_secs(2)]),
        requests: Times::new(vec![Duration::from_millis(2); 3]),
    }
}

#[test]
fn a_program_gets_gates_quantiles_and_every_time() {
    let json = report(Verdict::Failed).as_json();
    assert_eq!(
        (&json["passed"], &json["tookMs"], &json["endedAt"]),
        (&json!(false), &json!(3_000.0), &json!("1970-01-01T00:00:00Z"))
    );
    assert_eq!(
        json["gates"][0],
        json!({"name": "time", "verdict": "passed", "measured": "3.0 s", "limit": "under 600.0 s"})
    );
    assert_eq!((&json["gates"][1]["name"], &json["gates"][1]["verdict"]), (&json!("http-errors"), &json!("failed")));
    assert_eq!(
        json["pictures"],
        json!({"count": 2, "p50Ms": 1_000.0, "p95Ms": 2_000.0, "p99Ms": 2_000.0,
        "maxMs": 2_000.0, "timesMs": [1_000.0, 2_000.0]})
    );
    assert_eq!((&json["batchId"], &json["counts"]["total"]), (&json!("bat_01KB0000000000000000000000"), &json!(2)));
}

#[test]
fn a_person_reads_which_gate_failed_and_why() {
    let text = report(Verdict::Failed).as_text();
    for part in [
        "gate         verdict  measured",
        "time         passed   3.0 s",
        "http-errors  FAILED   errors +1",
        "http-errors: \"why\" & 'how'",
        "a picture, from the batch's start",
        "2 of 2 pictures with m in 3.00 s, 0.7 a second; priced at 0.1 US dollars, nothing paid. Failed: http-errors.",
    ] {
        assert!(text.contains(part), "{part}:\n{text}");
    }
    let text = report(Verdict::Skipped).as_text();
    assert!(text.contains("skipped") && text.contains("No gate failed."), "{text}");
}

#[test]
fn what_was_not_judged_is_not_passed_and_neither_is_nothing() {
    let of_time = |time: Verdict, other: Verdict| {
        let mut report = report(other);
        report.gates[0].verdict = time;
        report.passed = passed(&report.gates);
        (report.passed, report.reasons())
    };
    assert_eq!(of_time(Verdict::Passed, Verdict::Skipped), (true, vec![]));
    assert_eq!(of_time(Verdict::Skipped, Verdict::NotJudged), (false, vec!["1 gate not judged".to_owned()]));
    assert_eq!(of_time(Verdict::Passed, Verdict::NotJudged), (false, vec!["1 gate not judged".to_owned()]));
    assert_eq!(of_time(Verdict::NotJudged, Verdict::NotJudged), (false, vec!["2 gates not judged".to_owned()]));
    assert_eq!(of_time(Verdict::Skipped, Verdict::Skipped), (false, vec!["every gate was skipped".to_owned()]));
    let text = report(Verdict::NotJudged).as_text();
    assert!(text.contains("Failed: 1 gate not judged.") && !text.contains("No gate failed"), "{text}");
}

#[test]
fn the_page_is_whole_by_itself_and_nothing_in_it_is_markup_but_its_own() {
    let page = page::of(&report(Verdict::Failed));
    assert!(page.contains("<h1 class=\"failed\">Load test failed</h1>"));
    assert_eq!(page.matches("<svg").count(), 3);
    for outside in ["<script", "src=", "href=", "url(", "@import", "http-equiv=\"refresh"] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert!(
        page.contains("&lt;script&gt;alert(1)&lt;/script&gt;") && page.contains("&quot;why&quot; &amp; &#39;how&#39;")
    );
    assert!(!page.contains('\u{1b}'));
    assert!(page.contains("default-src 'none'") && page.contains("prefers-color-scheme:dark"));
    for tag in
        ["html", "head", "body", "table", "tbody", "thead", "tr", "td", "th", "dl", "dd", "svg", "h2", "title", "text"]
    {
        let opened = page.matches(&format!("<{tag}>")).count() + page.matches(&format!("<{tag} ")).count();
        assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "{tag}");
    }
}

#[test]
fn a_time_is_written_with_a_unit_that_fits() {
    for (micros, expected) in
        [(1_500, "1.5 ms"), (12_345, "12 ms"), (999_400, "999 ms"), (1_234_000, "1.23 s"), (123_456_000, "123 s")]
    {
        assert_eq!(readable(Duration::from_micros(micros)), expected);
    }
}
