//! One day's ledger against the charges of the database, and every difference by name.
//!
//! Both sides are given piece by piece, roughly in step, and joined by charge: what is held is an id for
//! each charge and the text of those that have not met their other side yet.
//!
//! What waits to be exported is no difference. For that to hold while an exporter is at work, the
//! confirmed count is to be read before the ledger, and a charge after the line that it may be in: a line
//! is in the database before it is in the ledger, and confirmed only when it is there.

mod difference;

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use self::difference::{Difference, FieldChange, Place};
use super::ids::{AttemptId, ChargeId};
use super::ledger::LedgerLine;
use super::time::Day;

/// The longest value of an altered field that is shown.
const LONGEST_VALUE: usize = 60;

/// A charge as the database has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BookedCharge {
    /// The charge.
    pub id: ChargeId,
    /// Its position in its day, counting from 1; none while it waits for one.
    pub position: Option<u64>,
    /// The line that is exported for it.
    pub line: String,
}

/// What the comparison of a day came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DayFindings {
    /// The day.
    pub day: Day,
    /// Lines of the day's object that end.
    pub lines: u64,
    /// Lines that are as the database has them, wherever they are.
    pub agreeing: u64,
    /// Charges that are not in the ledger yet, and need not be.
    pub waiting: u64,
    /// Every difference, by line.
    pub differences: Vec<Difference>,
}

/// A line that has not met its charge.
#[derive(Debug)]
struct LooseLine {
    number: u64,
    text: Vec<u8>,
}

/// Compares one day.
#[derive(Debug)]
pub struct Comparison {
    day: Day,
    /// How many lines were known to be in the ledger before it was read.
    confirmed: u64,
    /// Every charge that a line named, and the first line that did.
    seen: HashMap<ChargeId, u64>,
    loose_lines: BTreeMap<ChargeId, LooseLine>,
    loose_charges: BTreeMap<ChargeId, BookedCharge>,
    /// Lines of chunks; they are looked at only where the database does not know them.
    chunked: BTreeMap<ChargeId, u64>,
    /// Which charge is on which line, and its place by the database.
    order: Vec<(ChargeId, u64, u64)>,
    lines: u64,
    agreeing: u64,
    differences: Vec<Difference>,
}

/// The least that a line needs to be looked for.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Named {
    id: ChargeId,
}

impl Comparison {
    /// Starts with nothing on either side; `confirmed` lines were known to be in the ledger before.
    #[must_use]
    pub fn new(day: Day, confirmed: u64) -> Self {
        Self {
            day,
            confirmed,
            seen: HashMap::new(),
            loose_lines: BTreeMap::new(),
            loose_charges: BTreeMap::new(),
            chunked: BTreeMap::new(),
            order: Vec::new(),
            lines: 0,
            agreeing: 0,
            differences: Vec::new(),
        }
    }

    /// Takes the next line of the day's object, without its newline.
    pub fn line(&mut self, number: u64, text: &[u8]) {
        self.lines += 1;
        let Some(id) = self.name(Place::Line(number), text) else { return };
        if let Some(&first) = self.seen.get(&id) {
            self.differences.push(Difference::Twice { charge: id, line: number, first });
            return;
        }
        self.seen.insert(id, number);
        match self.loose_charges.remove(&id) {
            Some(charge) => self.meet(number, text, &charge),
            None => {
                self.loose_lines.insert(id, LooseLine { number, text: text.to_vec() });
            }
        }
    }

    /// Takes a line of a chunk that is not appended yet.
    pub fn chunk_line(&mut self, number: u64, text: &[u8]) {
        if let Some(id) = self.name(Place::Chunk(number), text)
            && !self.loose_charges.contains_key(&id)
        {
            self.chunked.insert(id, number);
        }
    }

    /// Takes note of a last line that does not end.
    pub fn torn(&mut self, line: u64) {
        self.differences.push(Difference::Torn { line });
    }

    /// Takes a charge of the day.
    pub fn charge(&mut self, charge: BookedCharge) {
        self.chunked.remove(&charge.id);
        match self.loose_lines.remove(&charge.id) {
            Some(line) => self.meet(line.number, &line.text, &charge),
            None => {
                self.loose_charges.insert(charge.id, charge);
            }
        }
    }

    /// The charges in the ledger that have not met one of the day: the database may know their day.
    #[must_use]
    pub fn strangers(&self) -> Vec<ChargeId> {
        let chunked = self.chunked.keys().filter(|id| !self.seen.contains_key(*id));
        self.loose_lines.keys().chain(chunked).copied().collect()
    }

    /// Takes note that a stranger is a charge of `day`.
    pub fn belongs_to(&mut self, charge: ChargeId, day: Day) {
        let chunk = self.chunked.remove(&charge).map(Place::Chunk);
        let line = self.loose_lines.remove(&charge).map(|line| Place::Line(line.number));
        if let Some(place) = line.or(chunk) {
            self.differences.push(Difference::AnotherDay { charge, place, day });
        }
    }

    /// Says what the two sides came to.
    #[must_use]
    pub fn finish(mut self) -> DayFindings {
        self.pair_by_attempt();
        for (charge, line) in std::mem::take(&mut self.loose_lines) {
            self.differences.push(Difference::MissingInDatabase { charge, place: Place::Line(line.number) });
        }
        for (charge, number) in std::mem::take(&mut self.chunked) {
            if !self.seen.contains_key(&charge) {
                self.differences.push(Difference::MissingInDatabase { charge, place: Place::Chunk(number) });
            }
        }
        let mut waiting = 0;
        for (charge, booked) in std::mem::take(&mut self.loose_charges) {
            match booked.position.filter(|position| *position <= self.confirmed) {
                Some(position) => self.differences.push(Difference::MissingInLedger { charge, position }),
                None => waiting += 1,
            }
        }
        self.find_misplaced();
        self.differences.sort_by_key(Difference::number);
        let Self { day, lines, agreeing, differences, .. } = self;
        DayFindings { day, lines, agreeing, waiting, differences }
    }

    /// The charge that a line names; a line that names none is a difference.
    fn name(&mut self, place: Place, text: &[u8]) -> Option<ChargeId> {
        match serde_json::from_slice::<Named>(text) {
            Ok(named) => Some(named.id),
            Err(error) if error.is_data() => {
                self.differences.push(Difference::NotACharge { place, problem: error.to_string() });
                None
            }
            Err(_) => {
                self.differences.push(Difference::NotJson { place });
                None
            }
        }
    }

    /// Compares a line with its charge.
    fn meet(&mut self, line: u64, text: &[u8], booked: &BookedCharge) {
        let charge = booked.id;
        match booked.position {
            Some(position) => self.order.push((charge, line, position)),
            None => self.differences.push(Difference::Misplaced { charge, line, position: None }),
        }
        if text == booked.line.as_bytes() {
            self.agreeing += 1;
            return;
        }
        let Some(database) = fields(booked.line.as_bytes()) else {
            self.differences.push(Difference::UnreadableRow { charge });
            return;
        };
        let changes = changes(&fields(text).unwrap_or_default(), &database);
        if !changes.is_empty() {
            self.differences.push(Difference::Altered { charge, line, fields: changes });
        } else if let Err(error) = serde_json::from_slice::<LedgerLine>(text) {
            // A field twice, of which only the last was looked at.
            let problem = error.to_string();
            self.differences.push(Difference::NotACharge { place: Place::Line(line), problem });
        } else {
            self.agreeing += 1;
        }
    }

    /// Lets a line and a charge meet that are of one paid call, and so differ in the charge's id.
    fn pair_by_attempt(&mut self) {
        if self.loose_lines.is_empty() {
            return;
        }
        let charges = self.loose_charges.values();
        let by_attempt: HashMap<AttemptId, ChargeId> =
            charges.filter_map(|charge| Some((attempt(charge.line.as_bytes())?, charge.id))).collect();
        let pairs: Vec<(ChargeId, ChargeId)> = self
            .loose_lines
            .iter()
            .filter_map(|(id, line)| Some((*id, *by_attempt.get(&attempt(&line.text)?)?)))
            .collect();
        for (line, charge) in pairs {
            if let Some(charge) = self.loose_charges.remove(&charge)
                && let Some(line) = self.loose_lines.remove(&line)
            {
                self.meet(line.number, &line.text, &charge);
            }
        }
    }

    /// Names the fewest lines that would have to move for the rest to be in the order of the database.
    fn find_misplaced(&mut self) {
        self.order.sort_by_key(|(_, line, _)| *line);
        let positions: Vec<u64> = self.order.iter().map(|(_, _, position)| *position).collect();
        let in_order = longest_increasing(&positions);
        // Lines behind one that is missing or too much are not where they were, and nothing is wrong with
        // them; but if nothing else is wrong, each has its own place.
        let all_else_agrees = self.differences.is_empty() && in_order.iter().all(|in_order| *in_order);
        for (index, (charge, line, position)) in std::mem::take(&mut self.order).into_iter().enumerate() {
            if !in_order[index] || (all_else_agrees && line != position) {
                self.differences.push(Difference::Misplaced { charge, line, position: Some(position) });
            }
        }
    }
}

fn fields(text: &[u8]) -> Option<Map<String, Value>> {
    serde_json::from_slice(text).ok()
}

fn attempt(text: &[u8]) -> Option<AttemptId> {
    fields(text)?.get("attemptId")?.as_str()?.parse().ok()
}

/// The fields in which two lines differ, in the order of the alphabet.
fn changes(ledger: &Map<String, Value>, database: &Map<String, Value>) -> Vec<FieldChange> {
    let mut names: Vec<&String> = ledger.keys().chain(database.keys()).collect();
    names.sort();
    names.dedup();
    let differing = names.into_iter().filter(|name| ledger.get(*name) != database.get(*name));
    let shown = |name: &str, side: &Map<String, Value>| side.get(name).filter(|_| name != "prompt").map(show);
    differing
        .map(|name| FieldChange { field: name.clone(), ledger: shown(name, ledger), database: shown(name, database) })
        .collect()
}

fn show(value: &Value) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let text = text.escape_debug().to_string();
    if text.chars().count() <= LONGEST_VALUE { text } else { text.chars().take(LONGEST_VALUE).chain(['…']).collect() }
}

/// Which of `numbers` are in a longest run of ones that grow, in their order (patience sorting).
fn longest_increasing(numbers: &[u64]) -> Vec<bool> {
    // The index of the smallest end of a run of each length, and what came before each in its run.
    let mut ends: Vec<usize> = Vec::new();
    let mut before: Vec<Option<usize>> = Vec::with_capacity(numbers.len());
    for (index, number) in numbers.iter().enumerate() {
        let length = ends.partition_point(|&end| numbers[end] < *number);
        before.push(length.checked_sub(1).map(|shorter| ends[shorter]));
        if length == ends.len() {
            ends.push(index);
        } else {
            ends[length] = index;
        }
    }
    let mut chosen = vec![false; numbers.len()];
    let mut at = ends.last().copied();
    while let Some(index) = at {
        chosen[index] = true;
        at = before[index];
    }
    chosen
}

#[cfg(test)]
mod tests;
