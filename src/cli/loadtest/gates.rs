//! The gates: what has to hold for a run to be good, judged from what was observed. Asks nobody.
//!
//! Counters and sums are compared for equality: a load test expects to be alone. With others on the service, by
//! `--shared`, what they may add to is compared as a lower bound.

mod asked;
mod money;

use std::collections::BTreeMap;
use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;

pub(super) use self::money::is_charged;
use super::course::Course;
use super::links::Checked;
use super::plan::Plan;
use super::view::{Image, Metrics, Row};
use crate::cli::view::{Batch, Budget};
use crate::domain::ledger::LedgerLine;
use crate::domain::state::BatchState;
use crate::domain::time::Timestamp;

/// Failed pictures stay below one in so many: 5 %.
const ONE_IN: u32 = 20;
/// A platform's probes and a scraper may add a request to the counter in so much time.
const BETWEEN_PROBES: Duration = Duration::from_secs(5);
/// A link with less left is minted anew by services that are set up as usual.
const LINK_MIN_LEFT: Duration = Duration::from_mins(5);

/// The gates by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Name {
    /// The batch ended within --deadline.
    Time,
    /// Rows, prompts, pictures and model are those that were asked for, and each picture is one of its own.
    Asked,
    /// Fewer than 5 % of the pictures were not made.
    Errors,
    /// Every event came once, in order, without a hole, over reconnects.
    Progress,
    /// The service counted the requests of this test.
    Requests,
    /// It counted the pictures that were made and those that failed.
    Images,
    /// It counted the answers of 500 and more that this test got.
    HttpErrors,
    /// It minted no link anew.
    Refreshes,
    /// It exported a ledger line for each charge.
    Ledger,
    /// The ledger has one line for each charge (with --ledger).
    LedgerLines,
    /// Batch, pictures, budget and ledger name the same amount, and nothing stays reserved.
    Sums,
    /// Every link leads to its picture.
    Links,
}

impl Name {
    /// As `--skip` and reports have it.
    pub(super) fn text(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

/// What came of a gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    /// It holds.
    Passed,
    /// It does not.
    Failed,
    /// It was left out on purpose.
    Skipped,
    /// It cannot be judged: the batch did not end, or what came of it cannot be read.
    NotJudged,
}

impl Verdict {
    /// As a person reads it.
    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "FAILED",
            Self::Skipped => "skipped",
            Self::NotJudged => "not judged",
        }
    }
}

/// A gate that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Gate {
    /// Which.
    pub(super) name: Name,
    /// What came of it.
    pub(super) verdict: Verdict,
    /// What was measured.
    pub(super) measured: String,
    /// What it is held against.
    pub(super) limit: String,
    /// What may be the matter, where that can be said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) hint: Option<String>,
}

/// How the batch ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// By itself.
    Done,
    /// Not within the deadline; what came of the cancel.
    Cut(String),
    /// It could not be followed to its end; why, and what came of the cancel.
    Broken(String),
    /// By itself, but what came of it cannot be read; why.
    Unread(String),
}

/// What the ledger itself has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lines {
    /// Where it was read.
    pub(super) place: String,
    /// The batch's lines, or why they cannot be read.
    pub(super) lines: Result<Vec<LedgerLine>, String>,
}

/// Everything that was seen of a run.
#[derive(Debug)]
pub(super) struct Observed {
    /// What was asked for.
    pub(super) plan: Plan,
    /// The model that was asked for, or the service's own by its word before.
    pub(super) model: String,
    /// The model that the batch was made with.
    pub(super) made_with: String,
    /// Whether the synthetic provider made the pictures.
    pub(super) is_rehearsal: bool,
    pub(super) deadline: Duration,
    /// From the submission to the last event.
    pub(super) took: Duration,
    /// From the first look at the counters to the last.
    pub(super) watched: Duration,
    pub(super) end: End,
    pub(super) batch: Batch,
    pub(super) course: Course,
    /// Streams that were opened.
    pub(super) streams: u32,
    pub(super) rows: Vec<Row>,
    /// Counters before and after.
    pub(super) metrics: (Metrics, Metrics),
    /// Requests between the two that were answered, the last look included.
    pub(super) answered: u64,
    /// Requests between the two that nobody answered.
    pub(super) unanswered: u64,
    /// Answers of 500 and more among them.
    pub(super) server_errors: u64,
    /// Money before and after.
    pub(super) budget: (Budget, Budget),
    /// The ledger, if it was to be read.
    pub(super) ledger: Option<Lines>,
    /// Why charges wait, by the service's word.
    pub(super) ledger_trouble: Option<String>,
    /// The links, if they were followed.
    pub(super) links: Option<Checked>,
    /// Whether others may use the service.
    pub(super) shared: bool,
}

/// A gate before it is known whether it counts.
struct Judged {
    holds: bool,
    measured: String,
    limit: String,
    hint: Option<String>,
}

impl Judged {
    fn new(holds: bool, measured: impl Into<String>, limit: impl Into<String>) -> Self {
        Self { holds, measured: measured.into(), limit: limit.into(), hint: None }
    }

    /// Says what may be the matter, where it does not hold.
    fn or(self, hint: impl Into<String>) -> Self {
        Self { hint: (!self.holds).then(|| hint.into()), ..self }
    }
}

impl Observed {
    /// Judges every gate but those in `skip`; that of the ledger's lines only where they were read.
    pub(super) fn judge(&self, skip: &[Name]) -> Vec<Gate> {
        let names = Name::value_variants().iter().copied();
        let asked = names.filter(|name| *name != Name::LedgerLines || self.ledger.is_some());
        asked.map(|name| self.gate(name, skip.contains(&name))).collect()
    }

    fn gate(&self, name: Name, is_skipped: bool) -> Gate {
        let without = |verdict| Gate { name, verdict, measured: String::new(), limit: String::new(), hint: None };
        if is_skipped {
            return without(Verdict::Skipped);
        }
        if name != Name::Time && self.end != End::Done {
            return without(Verdict::NotJudged);
        }
        let Judged { holds, measured, limit, hint } = self.look_at(name);
        Gate { name, verdict: if holds { Verdict::Passed } else { Verdict::Failed }, measured, limit, hint }
    }

    fn images(&self) -> impl Iterator<Item = &Image> {
        self.rows.iter().flat_map(|row| &row.images)
    }

    fn look_at(&self, name: Name) -> Judged {
        match name {
            Name::Time => self.time(),
            Name::Asked => self.asked(),
            Name::Errors => self.errors(),
            Name::Progress => self.progress(),
            Name::Requests => self.requests(),
            Name::Images => self.pictures(),
            Name::HttpErrors => self.http_errors(),
            Name::Refreshes => self.refreshes(),
            Name::Ledger => self.exported(),
            Name::LedgerLines => self.ledger_lines(),
            Name::Sums => self.sums(),
            Name::Links => self.followed(),
        }
    }

    fn time(&self) -> Judged {
        let limit = format!("under {}", seconds(self.deadline));
        let counts = &self.batch.counts;
        let ended = counts.completed.saturating_add(counts.failed);
        let not_ended = |why: &str| format!("not ended: {ended} of {} pictures; {why}", counts.total);
        let is_in_time = self.took < self.deadline;
        match &self.end {
            End::Done => Judged::new(is_in_time, seconds(self.took), limit),
            End::Unread(why) => Judged::new(is_in_time, format!("{}; {why}", seconds(self.took)), limit),
            End::Broken(why) => Judged::new(false, not_ended(why), limit),
            End::Cut(cancelled) => Judged::new(false, not_ended(cancelled), limit)
                .or("the service's log and GET /readyz say why calls wait"),
        }
    }

    fn errors(&self) -> Judged {
        let counts = &self.batch.counts;
        let bad = counts.total.saturating_sub(counts.completed);
        let mut codes: BTreeMap<&str, u32> = BTreeMap::new();
        for code in self.images().filter_map(|image| image.error.as_ref()).map(|error| &*error.code) {
            *codes.entry(code).or_default() += 1;
        }
        let codes: Vec<String> = codes.iter().map(|(code, count)| format!("{count} {code}")).collect();
        let why = if codes.is_empty() { String::new() } else { format!(": {}", codes.join(", ")) };
        let measured = format!("{bad} of {} pictures not made{why}", counts.total);
        Judged::new(bad.saturating_mul(ONE_IN) < counts.total, measured, "under 5 %")
    }

    fn progress(&self) -> Judged {
        let (course, batch) = (&self.course, &self.batch);
        let told = (course.completed, course.failed) == (batch.counts.completed, batch.counts.failed);
        let is_whole = course.is_done && course.last() == batch.last_event && course.left > 0;
        let faults = course.faults();
        let measured = format!(
            "{} events over {} streams, {} left on purpose: {} image_complete, {} image_failed{}{}",
            course.last(),
            self.streams,
            course.left,
            course.completed,
            course.failed,
            if course.is_done { "" } else { ", no done" },
            faults.as_ref().map(|faults| format!("; {faults}")).unwrap_or_default()
        );
        let limit = format!(
            "{} events, each once and in order: {} image_complete, {} image_failed",
            batch.last_event, batch.counts.completed, batch.counts.failed
        );
        let judged = Judged::new(told && is_whole && faults.is_none(), measured, limit);
        if course.last() == 0 { judged.or("no event came: are streams switched off (SSE_ENABLED)?") } else { judged }
    }

    /// By how much a counter moved; `None` if it went back.
    fn moved(&self, counter: impl Fn(&Metrics) -> u64) -> Option<u64> {
        counter(&self.metrics.1).checked_sub(counter(&self.metrics.0))
    }

    /// Whether a counter moved as it should; further only because of others.
    fn counted(&self, moved: Option<u64>, expected: u64) -> bool {
        moved.is_some_and(|moved| moved == expected || self.shared && moved > expected)
    }

    /// What a counter should have moved by, in words.
    fn expected(&self, count: u64) -> String {
        if self.shared { format!("{count} or more") } else { count.to_string() }
    }

    fn requests(&self) -> Judged {
        let moved = self.moved(|metrics| metrics.requests);
        let probes = self.watched.as_secs() / BETWEEN_PROBES.as_secs();
        let most = self.answered + self.unanswered + probes;
        let holds = moved.is_some_and(|moved| self.answered <= moved && (self.shared || moved <= most));
        let limit = if self.shared {
            self.expected(self.answered)
        } else if most == self.answered {
            format!("{most}, as sent")
        } else {
            format!("{} as sent, to {most} with unanswered ones and probes", self.answered)
        };
        Judged::new(holds, change("requests", moved), limit).or(COUNTER_HINT)
    }

    fn pictures(&self) -> Judged {
        let (made, failed) =
            (self.moved(|metrics| metrics.images_generated), self.moved(|metrics| metrics.images_failed));
        let counts = (u64::from(self.batch.counts.completed), u64::from(self.batch.counts.failed));
        let measured = format!("{}, {}", change("imagesGenerated", made), change("imagesFailed", failed));
        let limit = format!("{} and {}", self.expected(counts.0), self.expected(counts.1));
        Judged::new(self.counted(made, counts.0) && self.counted(failed, counts.1), measured, limit).or(COUNTER_HINT)
    }

    fn http_errors(&self) -> Judged {
        let moved = self.moved(|metrics| metrics.errors);
        let limit = format!("{}, as seen", self.expected(self.server_errors));
        Judged::new(self.counted(moved, self.server_errors), change("errors", moved), limit).or(COUNTER_HINT)
    }

    fn refreshes(&self) -> Judged {
        let moved = self.moved(|metrics| metrics.url_refreshes);
        let now = Timestamp::from_millis(self.metrics.1.ts).after(LINK_MIN_LEFT);
        let old = self.course.link_ends.iter().filter(|end| **end <= now).count() as u64;
        // A picture and its thumbnail have a link each.
        let most = old * 2;
        let holds = moved.is_some_and(|moved| self.shared || moved <= most);
        let limit = if self.shared {
            "not compared: others may have old links".to_owned()
        } else if most > 0 {
            format!("at most {most}: {old} pictures' links came near their end")
        } else {
            "0".to_owned()
        };
        Judged::new(holds, change("urlRefreshes", moved), limit).or("links are minted again before they are old")
    }

    fn followed(&self) -> Judged {
        let made = self.images().filter(|image| image.state == BatchState::Completed).count() as u64;
        let limit = format!("{made} pictures with the right bytes, by link and by permalink");
        let Some(links) = &self.links else { return Judged::new(false, "not followed", limit) };
        let mut measured =
            format!("{} pictures, {} permalinks, {} thumbnails", links.pictures, links.permalinks, links.thumbnails);
        if links.without_thumbnail > 0 {
            measured = format!("{measured} ({} have none)", links.without_thumbnail);
        }
        if let Some(faults) = links.told() {
            measured = format!("{measured}; {faults}");
        }
        let is_whole = links.pictures == made && links.permalinks == made;
        Judged::new(links.faults.is_empty() && is_whole, measured, limit)
    }
}

const COUNTER_HINT: &str = "counters are of one process: another caller (--shared), another instance or a restart \
     explains it; behind a balancer give --skip";

fn change(name: &str, moved: Option<u64>) -> String {
    moved.map_or_else(|| format!("{name} went back"), |moved| format!("{name} +{moved}"))
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

#[cfg(test)]
mod tests;
