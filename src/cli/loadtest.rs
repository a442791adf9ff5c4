//! `orchestrator loadtest`: a batch like those to come, sent to a running service, and gates that say whether it was good.
//!
//! Owns the arguments, what is asked before money is spent, and where the verdict goes. It sees what any client sees, and
//! the ledger where it is told to look.

mod chart;
mod course;
mod faults;
mod follow;
mod gates;
mod links;
mod page;
mod plan;
mod quantiles;
mod report;
mod run;
mod view;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::Args;

use self::gates::Name;
use self::plan::Plan;
use self::report::{About, Report};
use self::run::{Price, Run, Wanted};
use super::failure::{Failure, of_file};
use super::output::{complain, say};
use super::remote::{Connection, Remote};
use crate::app::storage;
use crate::config::{ClientConfig, DURATION, duration};

/// A batch to test a service with.
#[derive(Debug, Args)]
pub(super) struct LoadtestArguments {
    /// Rows of the batch.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rows: u32,
    /// Pictures of each row.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    variants: u32,
    /// The model; else the service's own.
    #[arg(long)]
    model: Option<String>,
    /// Spend money, where the service's provider costs any. Without it a run that does is only priced, and refused.
    #[arg(long)]
    live: bool,
    /// When the batch has to be done; then it is cancelled, and the gate `time` fails.
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = span)]
    deadline: Duration,
    /// Write the report here too: a page if it ends in .html, data if it ends in .json. May be given several times.
    #[arg(long, value_name = "FILE")]
    report: Vec<ReportFile>,
    /// Read the ledger itself: `gs://BUCKET`, or the service's data folder.
    #[arg(long, value_name = "PLACE")]
    ledger: Option<String>,
    /// How long charges have to come to the ledger after the batch ended.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = span)]
    ledger_wait: Duration,
    /// Leave a gate out. May be given several times.
    #[arg(long, value_name = "GATE", value_enum)]
    skip: Vec<Name>,
    /// Others use the service meanwhile: counters and the budget may move further than by this run.
    #[arg(long)]
    shared: bool,
    #[command(flatten)]
    pub(super) connection: Connection,
}

fn span(text: &str) -> Result<Duration, String> {
    duration(text).filter(|span| !span.is_zero()).ok_or_else(|| format!("expected {DURATION}"))
}

/// Where a report goes, and in which form.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ReportFile {
    path: PathBuf,
    is_page: bool,
}

impl FromStr for ReportFile {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let path = PathBuf::from(text);
        let is_page = match path.extension().and_then(|ending| ending.to_str()) {
            Some("html") => true,
            Some("json") => false,
            _ => return Err("expected a file that ends in .html or .json".to_owned()),
        };
        Ok(Self { path, is_page })
    }
}

impl ReportFile {
    /// Whether it can be written, as far as that can be known before.
    fn check(&self) -> Result<(), Failure> {
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if self.path.is_dir() || !folder.is_dir() {
            return Err(Failure::Usage(format!("{} cannot be written: there is no such folder", self.path.display())));
        }
        Ok(())
    }

    fn write(&self, report: &Report) -> Result<(), Failure> {
        let text = if self.is_page { page::of(report) } else { format!("{:#}\n", report.as_json()) };
        std::fs::write(&self.path, text).map_err(of_file("write", &self.path))
    }
}

/// Tests the service.
pub(super) async fn run(
    wanted: &LoadtestArguments,
    remote: &Remote,
    variables: &HashMap<String, String>,
) -> Result<(), Failure> {
    for file in &wanted.report {
        file.check()?;
    }
    let plan = Plan { rows: wanted.rows, variants: wanted.variants, model: wanted.model.clone() };
    let ledger = match &wanted.ledger {
        Some(place) => {
            let opened = storage::ledger_at(place, &ClientConfig::parse(variables).storage).await;
            Some((place.clone(), opened.map_err(|error| Failure::Usage(format!("--ledger: {error:#}")))?))
        }
        None => None,
    };
    let todo = Wanted {
        plan,
        deadline: wanted.deadline,
        ledger_wait: wanted.ledger_wait,
        shared: wanted.shared,
        follows_links: !wanted.skip.contains(&Name::Links),
        waits_for_ledger: !wanted.skip.contains(&Name::Ledger),
        ledger,
    };
    let run = Run::new(remote, &todo);
    let price = run.price().await?;
    allow(&price, wanted)?;
    let mut outcome = run.make(&price).await?;
    let broken = outcome.broken.take();
    let gates = outcome.observed.judge(&wanted.skip);
    let about = About {
        url: remote.client.base().to_owned(),
        model: price.estimate.model,
        rehearsal: price.is_free,
        rows: wanted.rows,
        variants: wanted.variants,
    };
    let report = Report::new(about, outcome, gates);
    tell(&report, wanted, remote)?;
    match broken {
        Some(failure) => Err(failure),
        None if report.passed => Ok(()),
        None => Err(Failure::Gates(report.reasons())),
    }
}

/// Shows what the run costs at most.
///
/// # Errors
/// If that is money, and nobody said that it may be spent.
fn allow(price: &Price, wanted: &LoadtestArguments) -> Result<(), Failure> {
    let (model, most) = (&price.estimate.model, price.estimate.estimated_cost);
    let pictures = u64::from(wanted.rows) * u64::from(wanted.variants);
    let said = format!("{} rows, {pictures} pictures with {model}, at most {most} US dollars", wanted.rows);
    if price.is_free {
        complain(&format!("{said}; the synthetic provider makes them, and nothing is paid."));
        return Ok(());
    }
    if wanted.live {
        complain(&format!("{said}."));
        return Ok(());
    }
    Err(Failure::Usage(format!("{said}: this is real money, and nothing was spent. To spend it, add --live")))
}

/// Says what was found, and writes it where that was asked.
///
/// # Errors
/// If a file cannot be written.
fn tell(report: &Report, wanted: &LoadtestArguments, remote: &Remote) -> Result<(), Failure> {
    say(&if remote.json { report.as_json().to_string() } else { report.as_text() });
    for file in &wanted.report {
        file.write(report)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_says_by_its_ending_what_it_is() {
        let of = |text: &str| text.parse::<ReportFile>().map(|file| file.is_page);
        assert_eq!((of("a/b.html"), of("b.json")), (Ok(true), Ok(false)));
        assert!(of("b.txt").is_err() && of("html").is_err());
        let nowhere: ReportFile = "/nowhere/at-all/r.json".parse().unwrap();
        assert_eq!(nowhere.check().unwrap_err().exit_code(), 64);
    }

    #[test]
    fn a_time_without_a_unit_is_none() {
        assert_eq!(span("10m"), Ok(Duration::from_mins(10)));
        assert!(span("10").is_err() && span("0s").is_err() && span("soon").is_err());
    }
}
