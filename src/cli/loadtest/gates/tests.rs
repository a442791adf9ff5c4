use serde_json::{Value, json};

use super::*;
use crate::cli::sse::Frame;
use crate::domain::money::MicroUsd;

const BATCH: &str = "bat_01KB0000000000000000000000";
const SOON: &str = "2026-11-24T12:00:00Z";

const PLAN: Plan = Plan { rows: 21, variants: 1, model: None };

fn scene(row: u32) -> String {
    format!("load-{row:04}")
}

fn prompt(row: u32) -> String {
    PLAN.rows().find(|(name, _)| *name == scene(row)).unwrap().1
}

fn image(row: u32, state: &str, billing: &str, cost: f64) -> Value {
    json!({"variant": 1, "state": state, "url": "/a", "thumbnailUrl": null, "permalink": format!("/p/{row}"), "bytes": 1,
        "sha256": format!("{row:02}"), "cost": cost, "billing": billing, "attempts": 1, "error": null})
}

fn line(row: u32) -> LedgerLine {
    let id = format!("01KB0000000000000000000{row:03}");
    serde_json::from_value(json!({"id": format!("chg_{id}"), "ts": 1, "userId": "u", "jobId": BATCH,
        "sceneId": scene(row), "variant": 1, "attemptId": format!("att_{id}"), "prompt": "", "images": 1,
        "cost": 0.05, "model": "m", "outcome": "charged", "requestId": null}))
    .unwrap()
}

fn event(number: u64, kind: &str, row: u32) -> Frame {
    let data = json!({"type": kind, "batchId": BATCH, "seq": number, "ts": number, "sceneId": scene(row),
        "variant": 1, "urlExpiresAt": SOON});
    Frame { id: number.to_string(), event: kind.to_owned(), data: data.to_string() }
}

fn budget(spent: f64, reserved: f64) -> Budget {
    let scope = json!({"dailyLimit": null, "spent": spent, "reserved": reserved, "remaining": null, "unknown": 0});
    serde_json::from_value(json!({"day": "2026-11-24", "resetsAt": "", "everyone": scope, "user": null})).unwrap()
}

/// Twenty-one pictures, of which one failed at no cost: all is right.
fn right() -> Observed {
    let mut course = Course::new(BATCH.parse().unwrap(), 21);
    course.take(&event(1, "started", 0));
    for row in 1..=20 {
        course.take(&event(u64::from(row) + 1, "image_complete", row));
    }
    course.take(&event(22, "image_failed", 21));
    course.take(&event(23, "done", 0));
    let mut rows: Vec<Value> = (1..=20)
        .map(|row| json!({"sceneId": scene(row), "prompt": prompt(row), "images": [image(row, "completed", "charged", 0.05)]}))
        .collect();
    let mut failed = image(21, "failed", "not_charged", 0.0);
    failed["error"] = json!({"code": "provider_error"});
    rows.push(json!({"sceneId": scene(21), "prompt": prompt(21), "images": [failed]}));
    let counts = json!({"total": 21, "queued": 0, "running": 0, "completed": 20, "failed": 1, "cancelled": 0});
    let batch = json!({"batchId": BATCH, "state": "partial", "estimatedCost": 1.05, "actualCost": 1,
        "unknownCost": 0, "lastEvent": 23, "counts": counts});
    let before = Metrics {
        requests: 7,
        errors: 1,
        images_generated: 3,
        images_failed: 2,
        ledger_lines: 3,
        ..Metrics::default()
    };
    let after =
        Metrics { requests: 107, errors: 1, images_generated: 23, images_failed: 3, ledger_lines: 23, ..before };
    Observed {
        plan: PLAN,
        model: "m".into(),
        made_with: "m".into(),
        is_rehearsal: true,
        deadline: Duration::from_mins(10),
        took: Duration::from_secs(3),
        watched: Duration::from_secs(4),
        end: End::Done,
        batch: serde_json::from_value(batch).unwrap(),
        course,
        streams: 3,
        rows: serde_json::from_value(rows.into()).unwrap(),
        metrics: (before, after),
        answered: 100,
        unanswered: 0,
        server_errors: 0,
        budget: (budget(7.0, 0.5), budget(8.0, 0.5)),
        ledger: Some(Lines { place: "data".into(), lines: Ok((1..=20).map(line).collect()) }),
        ledger_trouble: None,
        links: Some(Checked { pictures: 20, permalinks: 20, without_thumbnail: 20, ..Checked::default() }),
        shared: false,
    }
}

/// The gates that fail after a change.
fn failed(change: impl Fn(&mut Observed)) -> Vec<String> {
    let mut observed = right();
    change(&mut observed);
    let gates = observed.judge(&[]);
    gates.iter().filter(|gate| gate.verdict == Verdict::Failed).map(|gate| gate.name.text()).collect()
}

/// What a gate says after a change.
fn gate(name: Name, change: impl Fn(&mut Observed)) -> Gate {
    let mut observed = right();
    change(&mut observed);
    observed.judge(&[]).into_iter().find(|gate| gate.name == name).unwrap()
}

#[test]
fn a_run_in_which_all_is_right_passes_every_gate() {
    let gates = right().judge(&[]);
    assert_eq!(gates.len(), Name::value_variants().len());
    for gate in gates {
        assert_eq!(gate.verdict, Verdict::Passed, "{gate:?}");
        assert!(!gate.measured.is_empty() && !gate.limit.is_empty() && gate.hint.is_none(), "{gate:?}");
    }
}

#[test]
fn whatever_is_wrong_fails_its_own_gate_and_no_other() {
    type Change = Box<dyn Fn(&mut Observed)>;
    let cases: Vec<(&str, Change)> = vec![
        ("time", Box::new(|of| of.took = of.deadline)),
        ("requests", Box::new(|of| of.metrics.1.requests -= 1)),
        ("requests", Box::new(|of| of.metrics.1.requests += 1)),
        ("requests", Box::new(|of| of.metrics.1.requests = 0)),
        ("images", Box::new(|of| of.metrics.1.images_generated += 20)),
        ("images", Box::new(|of| of.metrics.1.images_failed -= 1)),
        ("http-errors", Box::new(|of| of.metrics.1.errors += 1)),
        ("http-errors", Box::new(|of| of.server_errors += 1)),
        ("refreshes", Box::new(|of| of.metrics.1.url_refreshes += 1)),
        ("ledger", Box::new(|of| of.metrics.1.ledger_lines -= 1)),
        ("ledger", Box::new(|of| of.metrics.1.ledger_lines += 20)),
        ("sums", Box::new(|of| of.budget.1 = budget(8.05, 0.5))),
        ("sums", Box::new(|of| of.budget.1 = budget(7.95, 0.5))),
        ("sums", Box::new(|of| of.budget.1 = budget(8.0, 0.55))),
        ("sums", Box::new(|of| of.budget.1 = budget(8.0, 0.0))),
        ("sums", Box::new(|of| of.batch.actual_cost = MicroUsd::from_micros(1_000_001))),
        ("sums", Box::new(|of| of.rows[3].images[0].cost = None)),
        ("progress", Box::new(|of| of.course.is_done = false)),
        ("progress", Box::new(|of| of.course.left = 0)),
        ("progress", Box::new(|of| of.course.completed = 19)),
        ("progress", Box::new(|of| of.batch.last_event = 24)),
        (
            "progress",
            Box::new(|of| {
                of.course.take(&event(23, "done", 0));
            }),
        ),
        ("links", Box::new(|of| of.links.as_mut().unwrap().faults.push("load-0001 v1: gone".into()))),
        ("links", Box::new(|of| of.links.as_mut().unwrap().pictures -= 1)),
        ("links", Box::new(|of| of.links = None)),
    ];
    for (at, (name, change)) in cases.iter().enumerate() {
        assert_eq!(failed(change), [*name], "case {at}");
    }
}

#[test]
fn five_in_a_hundred_failed_pictures_are_too_many() {
    let with = |total: u32, completed: u32| {
        let gate = gate(Name::Errors, |of| {
            of.batch.counts.total = total;
            of.batch.counts.completed = completed;
        });
        (gate.verdict, gate.measured)
    };
    assert_eq!(with(100, 96).0, Verdict::Passed);
    assert_eq!(with(100, 95).0, Verdict::Failed);
    assert_eq!(with(19, 18).0, Verdict::Failed);
    assert_eq!(with(21, 20), (Verdict::Passed, "1 of 21 pictures not made: 1 provider_error".to_owned()));
    assert_eq!(with(u32::MAX, 0).0, Verdict::Failed, "whatever a service counts");
}

#[test]
fn lines_of_the_ledger_that_are_missing_or_doubled_are_found() {
    fn lines(of: &mut Observed) -> &mut Vec<LedgerLine> {
        of.ledger.as_mut().unwrap().lines.as_mut().unwrap()
    }
    assert_eq!(failed(|of| drop(lines(of).remove(4))), ["ledger-lines", "sums"]);
    assert_eq!(failed(|of| lines(of).push(line(3))), ["ledger-lines", "sums"]);
    assert_eq!(failed(|of| lines(of)[0].attempt_id = line(2).attempt_id), ["ledger-lines"]);
    assert_eq!(
        failed(|of| lines(of)[0] = LedgerLine { scene_id: "other".parse().unwrap(), ..line(1) }),
        ["ledger-lines"]
    );
    assert_eq!(failed(|of| of.ledger.as_mut().unwrap().lines = Err("line 3 cannot be read".into())), ["ledger-lines"]);
    let sums = gate(Name::Sums, |of| drop(lines(of).remove(4)));
    assert_eq!(sums.hint.as_deref(), Some("the ledger differs: see ledger-lines"));
    let gate = gate(Name::LedgerLines, |of| drop(lines(of).remove(4)));
    assert_eq!(gate.measured, "19 lines in data; none for load-0005 v1 and 0 other charged pictures");
}

#[test]
fn what_was_not_asked_for_fails_the_gate_that_names_it() {
    fn first(of: &mut Observed) -> &mut Image {
        &mut of.rows[0].images[0]
    }
    type Change = fn(&mut Observed);
    let cases: [(Change, &str); 10] = [
        (|of| of.plan.rows = 22, "the batch counts 21 pictures; load-0022 is missing"),
        (|of| of.batch.counts.total = 1, "; the batch counts 1 picture"),
        (|of| of.plan.variants = 2, "the batch counts 21 pictures; load-0001 has other variants"),
        (|of| of.made_with = "cheap".into(), "; the model is cheap"),
        (|of| of.rows[0].prompt = "x".into(), "; load-0001 has another prompt"),
        (|of| of.rows[0].scene_id = scene(2), "load-0002 was not asked for, or not twice"),
        (
            |of| drop(of.rows.remove(3)),
            "20 rows, 20 pictures, 20 permalinks, 19 different files of 19; load-0004 is missing",
        ),
        (|of| first(of).variant = 2, "; load-0001 has other variants"),
        (
            |of| first(of).permalink = "/p/2".into(),
            "21 pictures, 20 permalinks, 20 different files of 20; pictures share a permalink",
        ),
        (|of| first(of).sha256 = Some("02".into()), "19 different files of 20; pictures are the same file"),
    ];
    for (at, (change, expected)) in cases.into_iter().enumerate() {
        let gate = gate(Name::Asked, change);
        assert_eq!(gate.verdict, Verdict::Failed, "case {at}: {gate:?}");
        assert!(gate.measured.contains(expected), "case {at}: {gate:?}");
    }
    // Of a provider that is paid nobody knows whether it draws the same twice; it is told all the same.
    let paid = gate(Name::Asked, |of| {
        of.is_rehearsal = false;
        first(of).sha256 = Some("02".into());
    });
    assert_eq!(paid.verdict, Verdict::Passed);
    assert_eq!(paid.measured, "21 rows, 21 pictures, 21 permalinks, 19 different files of 20");
}

#[test]
fn where_the_ledger_alone_differs_others_are_not_blamed() {
    let hint = |change: fn(&mut Observed)| gate(Name::Sums, change).hint.unwrap();
    let cut = hint(|of| drop(of.ledger.as_mut().unwrap().lines.as_mut().unwrap().remove(4)));
    assert!(cut.contains("see ledger-lines") && !cut.contains("--shared"), "{cut}");
    let spent = hint(|of| of.budget.1 = budget(8.05, 0.5));
    assert!(spent.contains("--shared"), "{spent}");
}

#[test]
fn a_ledger_that_is_off_names_its_switch() {
    let gate = gate(Name::Ledger, |of| of.metrics.1.ledger_lines = of.metrics.0.ledger_lines);
    assert_eq!(gate.verdict, Verdict::Failed);
    assert!(gate.hint.unwrap().contains("BUDGET_LEDGER_ENABLED=true"));
    let waiting = super::tests::gate(Name::Ledger, |of| {
        of.metrics.1.ledger_lines -= 1;
        of.ledger_trouble = Some("charges wait since noon".into());
    });
    assert_eq!(waiting.hint.as_deref(), Some("charges wait since noon"));
}

#[test]
fn a_picture_that_took_several_calls_may_have_a_line_for_each() {
    let tried = |lines: u64| {
        failed(move |of| {
            of.ledger = None;
            of.rows[0].images[0].attempts = 3;
            of.metrics.1.ledger_lines = of.metrics.0.ledger_lines + lines;
        })
    };
    for lines in 20..=22 {
        assert_eq!(tried(lines), [""; 0], "{lines}");
    }
    assert_eq!((tried(19), tried(23)), (vec!["ledger".to_owned()], vec!["ledger".to_owned()]));
    // Where the ledger was read, it says how many there are.
    let read = |counted: u64| {
        failed(move |of| {
            of.rows[0].images[0].attempts = 3;
            of.metrics.1.ledger_lines = of.metrics.0.ledger_lines + counted;
        })
    };
    assert_eq!((read(20), read(21)), (vec![], vec!["ledger".to_owned()]));
}

#[test]
fn others_may_add_to_what_is_counted_only_where_that_was_said() {
    let busy = |of: &mut Observed| {
        of.metrics.1.requests += 1_000;
        of.metrics.1.images_generated += 5;
        of.metrics.1.images_failed += 5;
        of.metrics.1.errors += 1;
        of.metrics.1.url_refreshes += 1;
        of.metrics.1.ledger_lines += 5;
        of.budget.1 = budget(9.0, 3.0);
    };
    let counted = ["requests", "images", "http-errors", "refreshes", "ledger", "sums"];
    assert_eq!(failed(busy), counted);
    let shared = |of: &mut Observed| {
        busy(of);
        of.shared = true;
    };
    assert_eq!(failed(shared), [""; 0]);
    // What this run did is still asked for.
    let lost = |of: &mut Observed| {
        of.shared = true;
        of.metrics.1.requests -= 1;
        of.metrics.1.images_generated -= 1;
        of.metrics.1.ledger_lines -= 1;
        of.budget.1 = budget(7.5, 0.5);
    };
    assert_eq!(failed(lost), ["requests", "images", "ledger", "sums"]);
}

#[test]
fn probes_and_lost_answers_may_move_the_counter_of_requests_a_little() {
    let moved_by = |more: u64| {
        failed(move |of| {
            of.watched = Duration::from_secs(59);
            of.unanswered = 2;
            of.metrics.1.requests += more;
        })
    };
    assert_eq!((moved_by(13), moved_by(14)), (vec![], vec!["requests".to_owned()]));
}

#[test]
fn links_that_came_near_their_end_may_have_been_minted_anew() {
    let end: Timestamp = SOON.parse().unwrap();
    let refreshed = |left: Duration, refreshes: u64| {
        failed(move |of| {
            of.metrics.1.ts = end.before(left).millis();
            of.metrics.1.url_refreshes += refreshes;
        })
    };
    assert_eq!(refreshed(Duration::from_mins(6), 1), ["refreshes"]);
    assert_eq!(refreshed(Duration::from_mins(5), 40), [""; 0]);
    assert_eq!(refreshed(Duration::from_mins(5), 41), ["refreshes"]);
}

#[test]
fn on_a_new_day_the_budget_is_not_compared_and_the_rest_is() {
    let midnight = |of: &mut Observed| {
        of.budget.1 = budget(0.1, 0.5);
        of.budget.1.day = "2026-11-25".parse().unwrap();
    };
    assert_eq!(failed(midnight), [""; 0]);
    assert!(gate(Name::Sums, midnight).measured.contains("a new day began"));
}

#[test]
fn after_a_deadline_only_the_time_is_judged_and_nothing_passes() {
    let mut observed = right();
    observed.end = End::Cut("cancelled".into());
    observed.batch.counts.completed = 4;
    let gates = observed.judge(&[Name::Links]);
    for gate in &gates {
        let expected = match gate.name {
            Name::Time => Verdict::Failed,
            Name::Links => Verdict::Skipped,
            _ => Verdict::NotJudged,
        };
        assert_eq!(gate.verdict, expected, "{gate:?}");
    }
    assert_eq!(gates[0].measured, "not ended: 5 of 21 pictures; cancelled");
}

#[test]
fn what_cannot_be_read_leaves_the_time_and_nothing_else_to_judge() {
    let mut observed = right();
    observed.end = End::Unread("gone".into());
    let gates = observed.judge(&[]);
    assert_eq!((gates[0].verdict, &*gates[0].measured), (Verdict::Passed, "3.0 s; gone"));
    assert!(gates[1..].iter().all(|gate| gate.verdict == Verdict::NotJudged), "{gates:?}");
}

#[test]
fn a_gate_that_is_left_out_is_neither_passed_nor_failed() {
    let mut observed = right();
    observed.metrics.1.requests = 0;
    let gates = observed.judge(&[Name::Requests]);
    let verdict = gates.iter().find(|gate| gate.name == Name::Requests).unwrap().verdict;
    assert_eq!(verdict, Verdict::Skipped);
}
