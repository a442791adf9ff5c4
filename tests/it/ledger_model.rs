//! Every order in which two exporters can take the ledger's steps A to E, searched to the end.
//!
//! The steps are those of `service::ledger` and of the bucket's adapter, one at a time: between any two
//! of them the other exporter may do anything, a charge may arrive, a call may fail before or after it
//! took effect, processes may die and start again, and once the database may fall back to a backup.
//! In each state nothing may be confirmed that the day's object does not hold, and no line may be there
//! twice; from each state the export must be able to come to rest, and at rest every charge is there.
//! Broken rules must be found out: a search that finds nothing wrong with them is worth nothing.

mod export;

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use self::export::{Rollback, Rules, State, Step};

/// What a search saw.
struct Search {
    states: usize,
    at_rest: usize,
    /// What is wrong, and how it came to that.
    wrong: Option<String>,
}

/// Visits every state that can be reached under `rules`, nearest first.
fn search(rules: Rules) -> Search {
    let first = State::first(rules);
    let mut numbers = HashMap::from([(first.clone(), 0)]);
    let mut states = vec![first];
    let mut from: Vec<(usize, Option<Step>)> = vec![(0, None)];
    let mut edges: Vec<(usize, usize)> = Vec::new();
    let mut at_rest = Vec::new();
    let mut next = 0;
    while next < states.len() {
        let state = states[next].clone();
        let wrong = state.wrong().or_else(|| state.is_at_rest().then(|| state.wrong_at_rest()).flatten());
        if let Some(wrong) = wrong {
            return Search {
                states: states.len(),
                at_rest: 0,
                wrong: Some(format!("{wrong}\n{}", path(&states, &from, next))),
            };
        }
        if state.is_at_rest() {
            at_rest.push(next);
        }
        for (step, after) in state.steps(rules) {
            let number = states.len();
            let number = match numbers.entry(after) {
                Entry::Occupied(known) => *known.get(),
                Entry::Vacant(new) => {
                    states.push(new.key().clone());
                    from.push((next, Some(step)));
                    *new.insert(number)
                }
            };
            edges.push((number, next));
        }
        next += 1;
    }
    let wrong = stuck(states.len(), &edges, &at_rest)
        .map(|number| format!("the export never comes to rest\n{}", path(&states, &from, number)));
    Search { states: states.len(), at_rest: at_rest.len(), wrong }
}

/// The steps that lead to a state, one a line.
fn path(states: &[State], from: &[(usize, Option<Step>)], mut number: usize) -> String {
    let mut steps = Vec::new();
    while let (before, Some(step)) = from[number] {
        steps.push(format!("  {}\n", states[before].tell(step)));
        number = before;
    }
    steps.into_iter().rev().collect()
}

/// The first state from which no state at rest can be reached. `edges` lead backwards.
fn stuck(states: usize, edges: &[(usize, usize)], at_rest: &[usize]) -> Option<usize> {
    let mut before = vec![Vec::new(); states];
    for (to, from) in edges {
        before[*to].push(*from);
    }
    let (mut reaches, mut open) = (vec![false; states], at_rest.to_vec());
    while let Some(state) = open.pop() {
        if !std::mem::replace(&mut reaches[state], true) {
            open.extend(&before[state]);
        }
    }
    reaches.iter().position(|reaches| !reaches)
}

#[track_caller]
fn holds(rules: Rules) {
    let found = search(rules);
    eprintln!("{} states, {} of them at rest", found.states, found.at_rest);
    if let Some(wrong) = found.wrong {
        panic!("{wrong}");
    }
    assert!(found.at_rest > 0);
}

/// Shows that the search finds out about a broken rule, and in what way.
#[track_caller]
fn is_found_out(rules: Rules, how: &str) {
    let found = search(rules);
    let wrong = found.wrong.expect("a broken rule was not found out");
    eprintln!("found out after {} states: {wrong}", found.states);
    assert!(wrong.starts_with(how), "{wrong}");
}

/// As many crashes as a build has time for; `MODEL_CASES` is set where there is more of it.
fn crashes(in_a_build: u8) -> u8 {
    if std::env::var("MODEL_CASES").is_ok() { 1 } else { in_a_build }
}

#[test]
fn two_exporters_that_die_and_start_again_write_each_line_once_in_order() {
    holds(Rules::default());
}

#[test]
fn two_exporters_write_more_lines_than_a_chunk_holds() {
    holds(Rules { charges: 3, crashes: crashes(0), ..Rules::default() });
}

#[test]
fn a_database_that_fell_back_takes_in_what_the_ledger_holds() {
    holds(Rules { crashes: crashes(0), rollback: Rollback::Restarted, ..Rules::default() });
}

#[test]
fn a_database_that_fell_back_under_running_exporters_confirms_nothing_that_is_not_there() {
    holds(Rules { crashes: crashes(0), rollback: Rollback::Running, ..Rules::default() });
}

#[test]
fn an_append_that_does_not_ask_for_the_generation_is_found_out() {
    is_found_out(Rules { asks_for_generation: false, ..Rules::default() }, "a line is there twice");
}

#[test]
fn an_append_into_the_middle_of_a_chunk_is_found_out() {
    is_found_out(Rules { appends_only_what_is_next: false, ..Rules::default() }, "a line is there twice");
}

#[test]
fn an_import_that_gives_a_line_its_last_position_is_found_out() {
    is_found_out(Rules { keeps_first_position: false, ..Rules::default() }, "a line is there twice");
}

#[test]
fn a_confirmation_without_a_look_at_the_last_chunk_is_found_out() {
    let rules = Rules { looks_at_last_chunk: false, rollback: Rollback::Running, ..Rules::default() };
    is_found_out(rules, "confirmed and not there");
}
