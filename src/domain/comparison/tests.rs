use ulid::Ulid;

use super::*;
use crate::domain::ids::BatchId;
use crate::domain::ledger::ChargeOutcome;
use crate::domain::money::MicroUsd;

const DAY: Day = Day::from_number(20_000);

fn id(number: u64) -> ChargeId {
    ChargeId::new(Ulid::from_parts(1, number.into()))
}

fn text(number: u64) -> String {
    let line = LedgerLine {
        id: id(number),
        ts: 1,
        user_id: "local".to_owned(),
        job_id: BatchId::new(Ulid::nil()),
        scene_id: "s-1".parse().unwrap(),
        variant: 1,
        attempt_id: AttemptId::new(Ulid::from_parts(2, number.into())),
        prompt: "a cup".to_owned(),
        images: 1,
        cost: MicroUsd::from_micros(50_000),
        model: "synthetic".to_owned(),
        outcome: ChargeOutcome::Charged,
        request_id: None,
    };
    serde_json::to_string(&line).unwrap()
}

fn booked(number: u64, position: Option<u64>) -> BookedCharge {
    BookedCharge { id: id(number), position, line: text(number) }
}

/// The charges 1 to `count` in the database, all confirmed, against `lines`; in step, or one side first.
fn compare(count: u64, lines: &[String]) -> DayFindings {
    let charges = || (1..=count).map(|number| booked(number, Some(number)));
    let numbered = || (1..).zip(lines);
    let mut charges_first = Comparison::new(DAY, count);
    charges().for_each(|charge| charges_first.charge(charge));
    numbered().for_each(|(number, line)| charges_first.line(number, line.as_bytes()));
    let mut lines_first = Comparison::new(DAY, count);
    numbered().for_each(|(number, line)| lines_first.line(number, line.as_bytes()));
    charges().for_each(|charge| lines_first.charge(charge));
    let mut in_step = Comparison::new(DAY, count);
    let mut rest = charges();
    for (number, line) in numbered() {
        in_step.line(number, line.as_bytes());
        rest.next().into_iter().for_each(|charge| in_step.charge(charge));
    }
    rest.for_each(|charge| in_step.charge(charge));
    let found = in_step.finish();
    assert_eq!(found, charges_first.finish());
    assert_eq!(found, lines_first.finish());
    found
}

fn lines(numbers: &[u64]) -> Vec<String> {
    numbers.iter().copied().map(text).collect()
}

/// What was found, in words.
fn words(found: &DayFindings) -> Vec<String> {
    found.differences.iter().map(ToString::to_string).collect()
}

#[test]
fn what_is_the_same_agrees_however_it_is_written() {
    let mut same = lines(&[1, 2, 3]);
    same[1] = same[1].replace(':', ": ").replace("0.05", "0.0500");
    let found = compare(3, &same);
    assert_eq!((found.lines, found.agreeing, found.waiting), (3, 3, 0));
    assert!(found.differences.is_empty(), "{found:?}");
    assert!(compare(0, &[]).differences.is_empty());
}

#[test]
fn a_line_that_is_gone_is_named_and_those_behind_it_are_not() {
    let found = compare(5, &lines(&[1, 2, 4, 5]));
    assert_eq!(found.differences, [Difference::MissingInLedger { charge: id(3), position: 3 }]);
    let found = compare(3, &[]);
    assert_eq!(found.differences.len(), 3);
}

#[test]
fn a_line_that_the_database_does_not_know_is_named() {
    let found = compare(2, &lines(&[1, 9, 2]));
    assert_eq!(found.differences, [Difference::MissingInDatabase { charge: id(9), place: Place::Line(2) }]);
}

#[test]
fn a_line_that_is_there_twice_is_named_and_those_behind_it_are_not() {
    let found = compare(4, &lines(&[1, 2, 3, 2, 4]));
    assert_eq!(found.differences, [Difference::Twice { charge: id(2), line: 4, first: 2 }]);
    assert_eq!(found.agreeing, 4);
}

#[test]
fn altered_fields_are_named_with_both_values_but_not_the_prompt() {
    let mut altered = lines(&[1, 2]);
    altered[1] = altered[1].replace("0.05", "0.04").replace("a cup", "a mug").replace(r#","requestId":null"#, "");
    let found = compare(2, &altered);
    let expected = format!(
        "altered: line 2, {}, has another cost (0.04, in the database 0.05), prompt, \
         requestId (absent, in the database null)",
        id(2)
    );
    assert_eq!(words(&found), [expected]);
    assert_eq!(found.agreeing, 1);
}

#[test]
fn a_charge_under_another_id_is_one_difference() {
    let mut altered = lines(&[1, 2]);
    altered[0] = altered[0].replace(&id(1).to_string(), &id(7).to_string());
    let found = compare(2, &altered);
    let change =
        FieldChange { field: "id".to_owned(), ledger: Some(id(7).to_string()), database: Some(id(1).to_string()) };
    assert_eq!(found.differences, [Difference::Altered { charge: id(1), line: 1, fields: vec![change] }]);
}

#[test]
fn a_field_that_is_there_twice_makes_a_line_no_charge() {
    let mut doubled = lines(&[1]);
    doubled[0] = doubled[0].replace(r#""cost":0.05"#, r#""cost":0.01,"cost":0.05"#);
    let found = compare(1, &doubled);
    assert!(matches!(&found.differences[..], [Difference::NotACharge { place: Place::Line(1), .. }]), "{found:?}");
}

#[test]
fn lines_that_changed_places_are_named_with_their_places() {
    let misplaced = |charge, line, position| Difference::Misplaced { charge, line, position: Some(position) };
    let found = compare(6, &lines(&[1, 5, 3, 4, 2, 6]));
    assert_eq!(found.differences, [misplaced(id(5), 2, 5), misplaced(id(2), 5, 2)]);
    // One line that moved is one difference.
    let found = compare(5, &lines(&[2, 3, 4, 5, 1]));
    assert_eq!(found.differences, [misplaced(id(1), 5, 1)]);
}

#[test]
fn places_that_do_not_fit_are_named_if_nothing_else_explains_them() {
    let mut comparison = Comparison::new(DAY, 2);
    for (number, position) in [(1, 1), (2, 3)] {
        comparison.charge(booked(number, Some(position)));
        comparison.line(number, text(number).as_bytes());
    }
    let found = comparison.finish();
    assert_eq!(found.differences, [Difference::Misplaced { charge: id(2), line: 2, position: Some(3) }]);
}

#[test]
fn lines_that_are_no_json_or_no_charge_are_named_by_their_numbers() {
    let mut broken = lines(&[1, 2, 3, 4]);
    broken[1].truncate(20);
    broken[2] = String::new();
    broken[3] = r#"{"total":1}"#.to_owned();
    let found = compare(1, &broken);
    assert_eq!(found.differences[..2], [2, 3].map(|number| Difference::NotJson { place: Place::Line(number) }));
    assert!(words(&found)[2].starts_with("no charge: line 4 is JSON, but missing field `id`"), "{:?}", words(&found));
}

#[test]
fn what_waits_is_counted_and_no_difference() {
    let mut comparison = Comparison::new(DAY, 2);
    // Two confirmed, two in a pending chunk of which one is appended already, two without a position.
    for (number, position) in [(1, Some(1)), (2, Some(2)), (3, Some(3)), (4, Some(4)), (5, None), (6, None)] {
        comparison.charge(booked(number, position));
    }
    for number in 1..=3 {
        comparison.line(number, text(number).as_bytes());
    }
    comparison.chunk_line(4, text(4).as_bytes());
    let found = comparison.finish();
    assert_eq!((found.agreeing, found.waiting, found.differences), (3, 3, vec![]));
}

#[test]
fn a_line_that_the_database_holds_for_not_exported_is_named() {
    let mut comparison = Comparison::new(DAY, 0);
    comparison.charge(booked(1, None));
    comparison.line(1, text(1).as_bytes());
    let found = comparison.finish();
    assert_eq!(found.differences, [Difference::Misplaced { charge: id(1), line: 1, position: None }]);
}

#[test]
fn strangers_are_of_another_day_or_missing_also_those_in_a_chunk() {
    let mut comparison = Comparison::new(DAY, 0);
    comparison.line(1, text(1).as_bytes());
    comparison.line(2, text(2).as_bytes());
    comparison.chunk_line(3, text(3).as_bytes());
    comparison.chunk_line(4, text(4).as_bytes());
    comparison.chunk_line(5, text(1).as_bytes());
    assert_eq!(comparison.strangers(), [1, 2, 3, 4].map(id));
    let other = Day::from_number(19_999);
    comparison.belongs_to(id(1), other);
    comparison.belongs_to(id(3), other);
    let found = comparison.finish();
    assert_eq!(
        found.differences,
        [
            Difference::AnotherDay { charge: id(1), place: Place::Line(1), day: other },
            Difference::MissingInDatabase { charge: id(2), place: Place::Line(2) },
            Difference::AnotherDay { charge: id(3), place: Place::Chunk(3), day: other },
            Difference::MissingInDatabase { charge: id(4), place: Place::Chunk(4) },
        ]
    );
}

#[test]
fn a_damaged_row_is_named_as_such() {
    let mut comparison = Comparison::new(DAY, 1);
    comparison.charge(BookedCharge { line: "{".to_owned(), ..booked(1, Some(1)) });
    comparison.line(1, text(1).as_bytes());
    assert_eq!(comparison.finish().differences, [Difference::UnreadableRow { charge: id(1) }]);
}

#[test]
fn differences_of_every_kind_at_once_are_all_named_in_the_order_of_the_lines() {
    let mut mixed = lines(&[1, 1, 3, 6, 5, 4, 9]);
    mixed[2] = mixed[2].replace("synthetic", "gemini");
    mixed.insert(1, "#".to_owned());
    let mut comparison = Comparison::new(DAY, 7);
    (1..=7).for_each(|number| comparison.charge(booked(number, Some(number))));
    (1..).zip(&mixed).for_each(|(number, line)| comparison.line(number, line.as_bytes()));
    comparison.torn(9);
    let found = comparison.finish();
    let kinds: Vec<String> = words(&found).iter().map(|word| word.split(':').next().unwrap().to_owned()).collect();
    let expected = [
        "no JSON",               // line 2
        "missing in the ledger", // charge 2
        "twice",                 // line 3
        "altered",               // line 4
        "out of order",
        "out of order",
        "missing in the ledger", // charge 7
        "missing in the database",
        "torn",
    ];
    let mut sorted = kinds.clone();
    let mut wanted = expected.map(str::to_owned).to_vec();
    sorted.sort();
    wanted.sort();
    assert_eq!(sorted, wanted, "{:#?}", words(&found));
    let numbers: Vec<u64> = found.differences.iter().map(Difference::number).collect();
    assert!(numbers.is_sorted(), "{numbers:?}");
}

#[test]
fn the_longest_run_in_order_leaves_out_as_few_as_can_be() {
    for (numbers, expected) in [
        (&[][..], &[][..]),
        (&[1, 2, 3], &[true, true, true]),
        (&[3, 1, 2], &[false, true, true]),
        (&[1, 9, 2, 3], &[true, false, true, true]),
        (&[2, 2, 2], &[true, false, false]),
    ] {
        let chosen = longest_increasing(numbers);
        let count = |flags: &[bool]| flags.iter().filter(|flag| **flag).count();
        assert_eq!(count(&chosen), count(expected), "{numbers:?}");
        let run: Vec<u64> = numbers.iter().zip(&chosen).filter(|(_, chosen)| **chosen).map(|(n, _)| *n).collect();
        assert!(run.windows(2).all(|pair| pair[0] < pair[1]), "{run:?}");
    }
}
