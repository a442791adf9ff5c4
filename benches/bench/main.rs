//! What the service costs beside the simplest program that does the same. Each measurement runs beside its baseline,
//! in turn, several times; medians and ratios are printed. `scripts/bench` builds and runs this.
//!
//! Everything is measured from outside: wall time by this program, processor time and memory of each process by the
//! system's books. The exception is the settling of calls, which is too fast to be seen through HTTP.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    reason = "a measurement that cannot go on says so by ending"
)]

mod bare;
mod job;
mod large;
mod ledger;
mod limits;
mod pictures;
mod service;
mod settles;
mod start;
mod status;
mod streams;
mod submit;
mod table;

#[path = "../../tests/it/bench.rs"]
#[expect(dead_code, reason = "shared with the tests, which use more of it")]
mod bench;
#[path = "../../tests/it/engines.rs"]
#[expect(dead_code, unused_macros, unused_imports, reason = "shared with the tests, which use more of it")]
mod engines;
#[path = "../../tests/it/fake_gemini.rs"]
#[expect(dead_code, reason = "shared with the tests, which use more of it")]
mod fake_gemini;
#[path = "../../tests/it/process.rs"]
#[expect(dead_code, reason = "shared with the tests, which use more of it")]
mod process;

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

use self::table::Table;

/// The parts that are measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Section {
    /// 100 pictures of 1.3 MB at 1 s a call, 16 at once: against the ideal, and a bare loop.
    Job,
    /// The same by the size of pictures, the time of a call, and how many at once: 18 jobs.
    Matrix,
    /// Submissions by their size.
    Submit,
    /// Status reads while a batch runs, against a bare server.
    Status,
    /// 1,000 and 5,000 progress streams at 20 events a second, against a bare broadcast.
    Streams,
    /// Settled calls a second, on SQLite and on Postgres.
    Settles,
    /// Ledger lines exported a second.
    Ledger,
    /// From the start of the process to its first answer.
    Start,
    /// 10,000 rows of three pictures: submission, first event, memory.
    Large,
    /// A provider with limits, and one whose limit changes.
    Limits,
    /// Three rows alone, and beside 2,000.
    Fairness,
    /// Memory over 100,000 pictures. Takes many minutes; only by name.
    Soak,
}

/// Measures the service beside the simplest program that does the same.
#[derive(Parser, Clone)]
struct Arguments {
    /// What to measure; all but the matrix and the soak unless named.
    #[arg(value_enum)]
    sections: Vec<Section>,
    /// Rounds of each measurement; the median counts.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Of the jobs, only those whose name has this in it.
    #[arg(long)]
    job: Option<String>,
    /// A setting of the service, as NAME=VALUE; may be given more than once.
    #[arg(long)]
    set: Vec<String>,
    /// Writes the numbers to this file, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Adds the numbers to this file, a line each, with the day and the commit: something to plot.
    #[arg(long)]
    history: Option<PathBuf>,
    /// Pictures of the soak.
    #[arg(long, default_value_t = 100_000)]
    soak_pictures: usize,
    /// Runs a baseline instead; used by this program itself.
    #[arg(long, hide = true, num_args = 1.., allow_hyphen_values = true)]
    bare: Option<Vec<String>>,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Arguments {
    /// The settings of the service that were given.
    fn settings(&self) -> Vec<(String, String)> {
        let pairs = self.set.iter().filter_map(|setting| setting.split_once('='));
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    /// Whether the job of this name is to be run.
    fn is_wanted(&self, job: &str) -> bool {
        self.job.as_ref().is_none_or(|part| job.contains(part.as_str()))
    }

    fn sections(&self) -> Vec<Section> {
        let all = Section::value_variants().iter().copied();
        let usual = all.filter(|section| !matches!(section, Section::Soak | Section::Matrix));
        if self.sections.is_empty() { usual.collect() } else { self.sections.clone() }
    }
}

fn main() {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        match &arguments.bare {
            Some(words) => bare::run(words).await,
            None => measure(&arguments).await,
        }
    });
}

async fn measure(arguments: &Arguments) {
    service::raise_file_limit();
    let mut table = Table::default();
    for section in arguments.sections() {
        match section {
            Section::Job => job::usual(arguments, &mut table).await,
            Section::Matrix => job::matrix(arguments, &mut table).await,
            Section::Submit => submit::measure(arguments, &mut table).await,
            Section::Status => status::measure(arguments, &mut table).await,
            Section::Streams => streams::measure(arguments, &mut table).await,
            Section::Settles => settles::measure(arguments, &mut table).await,
            Section::Ledger => ledger::measure(arguments, &mut table).await,
            Section::Start => start::measure(arguments, &mut table).await,
            Section::Large => large::measure(arguments, &mut table).await,
            Section::Limits => limits::measure(arguments, &mut table).await,
            Section::Fairness => limits::fairness(arguments, &mut table).await,
            Section::Soak => large::soak(arguments, &mut table).await,
        }
    }
    service::remove_folders();
    table.keep(arguments.json.as_deref(), arguments.history.as_deref());
}
