//! The state of one day's export, and every step that can change it.

use std::collections::BTreeSet;

/// Most charges that may arrive, by id; a lower one may arrive later.
const MOST_CHARGES: usize = 4;
/// `store::ledger::LINES_A_CHUNK`.
const LINES_A_CHUNK: usize = 2;

/// The lines of a chunk or of an object, by the charges' ids.
type Lines = Vec<u8>;

/// What becomes of the exporters when the database falls back to its backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rollback {
    Never,
    /// Every process starts again.
    Restarted,
    /// They go on, in the middle of what they do.
    Running,
}

/// What happens next, to which charge or at which exporter.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step {
    Settles(usize),
    BacksUp,
    FallsBack,
    Dies(usize),
    Works(usize),
    IsNotAnswered(usize),
    Fails(usize),
}

/// The rules of the export. The default ones are the service's.
#[expect(clippy::struct_excessive_bools, reason = "each is a rule that can be broken alone")]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    pub(crate) charges: usize,
    /// Processes that die and start again.
    pub(crate) crashes: u8,
    pub(crate) asks_for_generation: bool,
    /// Otherwise also a chunk whose first lines are there, as after an append that was torn.
    pub(crate) appends_only_what_is_next: bool,
    pub(crate) looks_at_last_chunk: bool,
    /// An import gives a line that it reads twice the first of its positions.
    pub(crate) keeps_first_position: bool,
    pub(crate) rollback: Rollback,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            charges: 2,
            crashes: 2,
            asks_for_generation: true,
            appends_only_what_is_next: true,
            looks_at_last_chunk: true,
            keeps_first_position: true,
            rollback: Rollback::Never,
        }
    }
}

/// A chunk; it is its own name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Chunk {
    from: usize,
    lines: Lines,
}

impl Chunk {
    const fn to(&self) -> usize {
        self.from + self.lines.len() - 1
    }
}

/// The rows of `ledger` and `ledger_days`.
#[expect(clippy::option_option, reason = "a charge that has not settled; a charge without a position; both")]
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Database {
    /// The position of each charge that has settled.
    lines: [Option<Option<usize>>; MOST_CHARGES],
    count: usize,
    pending: Option<Chunk>,
}

/// The day's object and its metadata.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Object {
    generation: u8,
    lines: Lines,
    count: usize,
    last_chunk: Option<Chunk>,
}

/// Where an exporter is: what it does next, and all it remembers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
enum At {
    /// `Exporter::import`, at the start of a process: `settled_count`.
    #[default]
    Start,
    /// `may_hold_more`; so much the database knows.
    Count { known: usize },
    /// `head`, before an import.
    ImportHead,
    /// `export_day`: step A.
    Idle,
    /// `export_chunk`: step B, `head` and what `place` makes of it.
    Head { chunk: Chunk },
    /// `write_chunk`.
    Write { chunk: Chunk, generation: u8, count: usize },
    /// `append`.
    Append { chunk: Chunk, generation: u8, count: usize },
    /// `confirm_chunk`: step D.
    Confirm { chunk: Chunk },
    /// `sweep`: step E.
    Sweep { to: usize },
    /// `is_pending`, in `place`.
    Ask { chunk: Chunk, count: usize },
    /// `read_day`, first the chunks.
    ReadChunks { exported: usize, starts: bool },
    /// `read_day`, then the object.
    ReadObject { exported: usize, starts: bool, chunks: Vec<Chunk> },
    /// `import_lines`.
    Import { exported: usize, starts: bool, lines: Lines },
}

/// The whole of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct State {
    database: Database,
    object: Object,
    chunks: BTreeSet<Chunk>,
    writers: [At; 2],
    crashes: u8,
    backup: Option<Box<Database>>,
    fell_back: bool,
    /// Charges that the backup does not know.
    forgotten: [bool; MOST_CHARGES],
}

impl Database {
    /// `pending_chunk`: step A.
    fn pending_chunk(&mut self) -> Option<Chunk> {
        if self.pending.is_none() {
            let mut end = self.count;
            let unpositioned = self.lines.iter_mut().flatten().filter(|position| position.is_none());
            for position in unpositioned.take(LINES_A_CHUNK) {
                end += 1;
                *position = Some(end);
            }
            let lines: Lines = (self.count + 1..=end).map(|position| self.at(position)).collect();
            self.pending = (end > self.count).then_some(Chunk { from: self.count + 1, lines });
        }
        self.pending.clone()
    }

    fn at(&self, position: usize) -> u8 {
        let line = self.lines.iter().position(|line| *line == Some(Some(position)));
        u8::try_from(line.expect("positions have no hole")).unwrap()
    }

    fn confirm(&mut self, chunk: &Chunk) {
        if self.pending.as_ref() == Some(chunk) {
            (self.count, self.pending) = (chunk.to(), None);
        }
    }

    /// `import_lines`.
    fn import(&mut self, lines: &[u8], exported: usize, rules: Rules) {
        self.lines.iter_mut().flatten().for_each(|position| *position = None);
        for (position, line) in (1..).zip(lines) {
            if rules.keeps_first_position && lines[..position - 1].contains(line) {
                continue;
            }
            self.lines[usize::from(*line)] = Some((position <= exported).then_some(position));
        }
        (self.count, self.pending) = (exported, None);
    }
}

impl State {
    /// What must hold at any time and does not.
    pub(crate) fn wrong(&self) -> Option<&'static str> {
        let object = &self.object;
        if object.lines.iter().collect::<BTreeSet<_>>().len() < object.lines.len() {
            return Some("a line is there twice");
        }
        if object.count != object.lines.len() {
            return Some("the object's metadata is not true");
        }
        let confirmed =
            self.database.lines.iter().zip(0_u8..).filter_map(|(position, line)| Some(((*position)??, line)));
        let mut confirmed = confirmed.filter(|(position, _)| *position <= self.database.count);
        if self.database.count > object.count || confirmed.any(|(position, line)| object.lines[position - 1] != line) {
            return Some("confirmed and not there");
        }
        None
    }

    /// Nobody is at work and nothing waits for export. More charges may come.
    pub(crate) fn is_at_rest(&self) -> bool {
        let nothing_waits = self.database.pending.is_none() && !self.database.lines.contains(&Some(None));
        nothing_waits && self.writers.iter().all(|writer| *writer == At::Idle)
    }

    /// What must hold at rest and does not.
    pub(crate) fn wrong_at_rest(&self) -> Option<&'static str> {
        let there = |line: &u8| self.object.lines.contains(line);
        let settled = (0_u8..).take(MOST_CHARGES).filter(|line| self.database.lines[usize::from(*line)].is_some());
        if !settled.clone().all(|line| there(&line)) {
            return Some("a charge is not in the ledger");
        }
        // A charge that the database itself forgot is in no promise, wherever else it was written down.
        let promised = |line: &&u8| !self.forgotten[usize::from(**line)];
        if !self.chunks.iter().flat_map(|chunk| &chunk.lines).filter(promised).all(there) {
            return Some("a chunk is left whose lines are not in the ledger");
        }
        None
    }

    /// What a step is, for a person who reads how it came to what.
    pub(crate) fn tell(&self, step: Step) -> String {
        match step {
            Step::Works(writer) => format!("{writer}: {:?}", self.writers[writer]),
            Step::IsNotAnswered(writer) => format!("{writer}: {:?}, and the answer is lost", self.writers[writer]),
            Step::Fails(writer) => format!("{writer}: {:?} fails", self.writers[writer]),
            Step::Settles(charge) => format!("charge {charge} settles"),
            Step::Dies(writer) => format!("{writer} dies and starts again"),
            Step::BacksUp => "the database is backed up".to_owned(),
            Step::FallsBack => "the database falls back to its backup".to_owned(),
        }
    }

    /// A day without charges; both processes start, or have long been running where none is to die.
    pub(crate) fn first(rules: Rules) -> Self {
        let at = if rules.crashes == 0 { At::Idle } else { At::Start };
        Self { writers: [at.clone(), at], ..Self::default() }
    }

    /// Every step that can come next, with what it leads to.
    pub(crate) fn steps(&self, rules: Rules) -> Vec<(Step, Self)> {
        let mut steps = Vec::new();
        for line in 0..rules.charges {
            if self.database.lines[line].is_none() && !self.forgotten[line] {
                let mut after = self.clone();
                after.database.lines[line] = Some(None);
                steps.push((Step::Settles(line), after));
            }
        }
        self.fall_back(rules, &mut steps);
        for writer in 0..2 {
            self.work(writer, rules, &mut steps);
            if self.crashes < rules.crashes && self.writers[writer] != At::Start {
                let mut after = self.clone();
                (after.crashes, after.writers[writer]) = (self.crashes + 1, At::Start);
                steps.push((Step::Dies(writer), after));
            }
        }
        // Which of the two is which makes no difference.
        for (_, after) in &mut steps {
            after.writers.sort();
        }
        steps
    }

    fn fall_back(&self, rules: Rules, steps: &mut Vec<(Step, Self)>) {
        if rules.rollback == Rollback::Never || self.fell_back {
            return;
        }
        let mut after = self.clone();
        match &self.backup {
            None => {
                after.backup = Some(Box::new(self.database.clone()));
                steps.push((Step::BacksUp, after));
            }
            Some(backup) => {
                (after.database, after.backup, after.fell_back) = (Database::clone(backup), None, true);
                for line in 0..MOST_CHARGES {
                    after.forgotten[line] = self.database.lines[line].is_some() && backup.lines[line].is_none();
                }
                if rules.rollback == Rollback::Restarted {
                    after.writers = Default::default();
                }
                steps.push((Step::FallsBack, after));
            }
        }
    }

    /// One step of an exporter: it works; its answer is lost; it fails.
    fn work(&self, writer: usize, rules: Rules, steps: &mut Vec<(Step, Self)>) {
        let at = &self.writers[writer];
        let mut after = self.clone();
        after.writers[writer] = after.take(at.clone(), rules);
        // An error of step C goes back to B, any other ends this export; the next one begins at A.
        let error = match at {
            At::Write { chunk, .. } | At::Append { chunk, .. } => At::Head { chunk: chunk.clone() },
            // A process whose import fails does not start.
            At::Start
            | At::Count { .. }
            | At::ImportHead
            | At::ReadChunks { starts: true, .. }
            | At::ReadObject { starts: true, .. }
            | At::Import { starts: true, .. } => At::Start,
            _ => At::Idle,
        };
        let mut lost = after.clone();
        lost.writers[writer] = error.clone();
        let mut failed = self.clone();
        failed.writers[writer] = error;
        for (step, next) in [(Step::IsNotAnswered(writer), lost), (Step::Fails(writer), failed)] {
            if next != after && next != *self {
                steps.push((step, next));
            }
        }
        steps.push((Step::Works(writer), after));
    }

    /// Does what an exporter does at `at`, and says where it is then.
    fn take(&mut self, at: At, rules: Rules) -> At {
        match at {
            At::Start if self.database.pending.is_some() => At::Idle,
            At::Start => At::Count { known: self.database.count },
            At::Count { known } => {
                let behind = self.chunks.iter().map(Chunk::to).filter(|to| *to > self.object.count).max();
                if behind.unwrap_or(self.object.count) <= known { At::Idle } else { At::ImportHead }
            }
            At::ImportHead => At::ReadChunks { exported: self.object.count, starts: true },
            At::Idle => self.database.pending_chunk().map_or(At::Idle, |chunk| At::Head { chunk }),
            At::Head { chunk } => self.place(chunk, rules),
            At::Write { chunk, generation, count } => {
                // A 412 is success: the name is the content.
                self.chunks.insert(chunk.clone());
                At::Append { chunk, generation, count }
            }
            At::Append { chunk, generation, count: _ } => {
                let moved = rules.asks_for_generation && generation != self.object.generation;
                if !moved && self.chunks.contains(&chunk) {
                    self.object.generation += 1;
                    self.object.lines.extend(&chunk.lines);
                    (self.object.count, self.object.last_chunk) = (chunk.to(), Some(chunk.clone()));
                }
                At::Head { chunk }
            }
            At::Confirm { chunk } => {
                self.database.confirm(&chunk);
                At::Sweep { to: chunk.to() }
            }
            At::Sweep { to } => {
                self.chunks.retain(|chunk| chunk.to() > to);
                At::Idle
            }
            At::Ask { chunk, count } => {
                let dropped = self.database.pending.as_ref() != Some(&chunk);
                // Fewer lines than were confirmed is an error; `wrong` says that it cannot be.
                if dropped || count + 1 < chunk.from {
                    At::Idle
                } else {
                    At::ReadChunks { exported: count, starts: false }
                }
            }
            At::ReadChunks { exported, starts } => {
                At::ReadObject { exported, starts, chunks: self.chunks.iter().cloned().collect() }
            }
            At::ReadObject { exported, starts, chunks } => {
                let mut lines = self.object.lines.clone();
                for chunk in chunks {
                    let known = (lines.len() + 1).saturating_sub(chunk.from);
                    lines.extend(chunk.lines.iter().skip(known));
                }
                At::Import { exported, starts, lines }
            }
            At::Import { exported, lines, .. } => {
                self.database.import(&lines, exported, rules);
                At::Idle
            }
        }
    }

    /// `Exporter::place`.
    fn place(&self, chunk: Chunk, rules: Rules) -> At {
        let (generation, count) = (self.object.generation, self.object.count);
        let mine = !rules.looks_at_last_chunk || self.object.last_chunk.as_ref() == Some(&chunk);
        let is_next = count + 1 == chunk.from;
        let is_torn = !rules.appends_only_what_is_next && count + 1 >= chunk.from && count < chunk.to();
        if count == chunk.to() && mine {
            At::Confirm { chunk }
        } else if is_next || is_torn {
            At::Write { chunk, generation, count }
        } else {
            At::Ask { chunk, count }
        }
    }
}
