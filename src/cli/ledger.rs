//! `orchestrator ledger`: compare the ledger with the database, sum it, take it in.
//!
//! Owns the arguments of the three and how their results are shown. Data goes to standard output, all that
//! is said about it to standard error.

mod show;

use anyhow::{bail, ensure};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use super::output::{complain, program, say};
use crate::app::{books, storage};
use crate::config::Config;
use crate::domain::comparison::DayFindings;
use crate::domain::report::Grouping;
use crate::domain::time::Day;
use crate::service::report;

const ABOUT_VERIFY: &str = "\
Compare the ledger with the database, line by line, and name every difference.

Nothing is changed, and a service may run meanwhile. A charge that waits to be exported is counted, and is no
difference. Exit code 0 if all agrees, 1 if anything differs.";

const EXAMPLES_VERIFY: &str = "\
What is named:
  missing in the ledger    it was exported, and its line is gone
  missing in the database  the ledger has it, the database does not: see `ledger import`
  twice                    two lines of one charge
  altered                  line and database say different things, and in which fields
  out of order             a line is not where it was written
  of another day           the charge belongs to the ledger of another day
  torn                     the last line does not end: a crash, which the next export mends
  no JSON, no charge       a line that cannot be read

Examples:
  orchestrator ledger verify
  orchestrator ledger verify --day 2026-11-24 --json";

const ABOUT_REPORT: &str = "\
Sum the ledger by day, user, model, batch or outcome.

The sums are the ledger's own; the database is not looked at. Unknown cost, which is part of the cost, is what was
charged for calls whose outcome nobody can know. A day of any length is read piece by piece.";

const EXAMPLES_REPORT: &str = "\
Examples:
  orchestrator ledger report
  orchestrator ledger report --by user --from 2026-11-01 --to 2026-11-30
  orchestrator ledger report --day 2026-11-24 --by batch --format csv > batches.csv";

const ABOUT_IMPORT: &str = "\
Take the ledger's lines of a day into the database, each that is not there.

For a database that was lost, or set back to an older state: it knows again what was spent. Charges are told apart
by their ids, so that a second run changes nothing. The service does this for today when it starts. Stop a service
on SQLite first; on Postgres it may run.";

/// What `orchestrator ledger` can do.
#[derive(Subcommand)]
pub(super) enum LedgerCommand {
    #[command(about = first_line(ABOUT_VERIFY), long_about = ABOUT_VERIFY, after_help = called(EXAMPLES_VERIFY))]
    Verify {
        /// Only this day; else every day that ledger or database know.
        #[arg(long, value_name = "YYYY-MM-DD")]
        day: Option<Day>,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    #[command(about = first_line(ABOUT_REPORT), long_about = ABOUT_REPORT, after_help = called(EXAMPLES_REPORT))]
    Report(ReportArguments),
    #[command(about = first_line(ABOUT_IMPORT), long_about = ABOUT_IMPORT)]
    Import {
        /// The day; else today, which is a UTC day.
        #[arg(long, value_name = "YYYY-MM-DD")]
        day: Option<Day>,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
}

/// What is summed, and how it is shown.
#[derive(Args)]
pub(super) struct ReportArguments {
    /// Only this day; else every day of the ledger.
    #[arg(long, value_name = "YYYY-MM-DD", conflicts_with_all = ["from", "to"])]
    day: Option<Day>,
    /// The first day.
    #[arg(long, value_name = "YYYY-MM-DD")]
    from: Option<Day>,
    /// The last day.
    #[arg(long, value_name = "YYYY-MM-DD")]
    to: Option<Day>,
    /// What the lines are summed by.
    #[arg(long, value_enum, default_value_t = By::Day)]
    by: By,
    /// How the sums are written.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Short for `--format json`.
    #[arg(long, conflicts_with = "format")]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum By {
    Day,
    User,
    Model,
    Batch,
    Outcome,
}

impl From<By> for Grouping {
    fn from(by: By) -> Self {
        match by {
            By::Day => Self::Day,
            By::User => Self::User,
            By::Model => Self::Model,
            By::Batch => Self::Batch,
            By::Outcome => Self::Outcome,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
    Csv,
}

/// Examples that work where they are read.
fn called(examples: &str) -> String {
    examples.replace("orchestrator ", &format!("{} ", program()))
}

fn first_line(text: &'static str) -> &'static str {
    text.lines().next().unwrap_or_default().trim_end_matches('.')
}

/// Runs one of the commands.
pub(super) async fn run(command: &LedgerCommand, config: &Config) -> anyhow::Result<()> {
    match command {
        LedgerCommand::Verify { day, json } => verify(config, *day, *json).await,
        LedgerCommand::Report(arguments) => report(config, arguments).await,
        LedgerCommand::Import { day, json } => import(config, *day, *json).await,
    }
}

async fn verify(config: &Config, day: Option<Day>, as_json: bool) -> anyhow::Result<()> {
    let found = books::verify(config, day).await?;
    let ledger = storage::ledger_reader(config).await?;
    let located: Vec<(&DayFindings, String)> = found.iter().map(|of| (of, ledger.location(of.day))).collect();
    say(&if as_json { show::findings_json(&located)? } else { show::findings(&located) });
    if found.iter().any(|of| of.waiting > 0) && !config.features.budget_ledger {
        complain("Charges wait because BUDGET_LEDGER_ENABLED is false here; a service where it is true exports them.");
    }
    let differing = found.iter().filter(|of| !of.differences.is_empty()).count();
    if differing > 0 {
        let differences: usize = found.iter().map(|of| of.differences.len()).sum();
        let of = if found.len() == 1 { "1 day".to_owned() } else { format!("{differing} of {} days", found.len()) };
        bail!("the ledger and the database differ: {} on {of}", show::counted(differences as u64, "difference"));
    }
    Ok(())
}

async fn report(config: &Config, arguments: &ReportArguments) -> anyhow::Result<()> {
    let ReportArguments { day, from, to, by, format, json } = arguments;
    ensure!(from.zip(*to).is_none_or(|(from, to)| from <= to), "--from is later than --to: there is no day between");
    let (from, to) = (day.or(*from), day.or(*to));
    let wanted = |of: Day| from.is_none_or(|from| from <= of) && to.is_none_or(|to| of <= to);
    let ledger = storage::ledger_reader(config).await?;
    let summed = report::sum(&ledger, wanted, (*by).into()).await?;
    for line in show::about(&summed, &config.data.dir) {
        complain(&line);
    }
    say(&match if *json { Format::Json } else { *format } {
        Format::Table => show::table(&summed.report),
        Format::Json => show::json(&summed)?,
        Format::Csv => show::csv(&summed.report),
    });
    Ok(())
}

async fn import(config: &Config, day: Option<Day>, as_json: bool) -> anyhow::Result<()> {
    let (day, new) = books::import(config, day).await?;
    let text = match new {
        0 => format!("The database knows every charge of the ledger of {day}: nothing was changed."),
        new => format!("Took {} of {day} from the ledger.", show::counted(new, "charge")),
    };
    say(&if as_json { json!({"day": day, "new": new}).to_string() } else { text });
    Ok(())
}
