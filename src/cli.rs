//! The command line: what a person or a script can ask of the program.
//!
//! Owns the commands, the set-up of log and runtime, and the exit codes: 0 all went well, 1 something
//! failed, 2 the command line is wrong, 64 the configuration is wrong. May use anything.

mod client;
mod demo;
mod healthcheck;
mod keys;
mod ledger;
mod output;
mod prices;
mod sse;

use std::collections::HashMap;
use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::app::{self, App};
use crate::clock::SystemClock;
use crate::config::{Config, ConfigErrors, LogFormat, LoggingConfig};
use crate::provider::synthetic::MARKERS;
use crate::telemetry::logs::{self, LogForm};

/// The configuration cannot be used (`EX_USAGE` of sysexits.h).
const EXIT_CONFIG: u8 = 64;
/// How long threads that are still blocked have when the work is over.
const LAST_THREADS: Duration = Duration::from_millis(500);

const TEACHING: &str = "\
The most important environment variables (.env.example has them all):
  PORT, HOST             where to listen                 [9090, 127.0.0.1]
  DATA_DIR               pictures, ledger, database      [./data]
  DATABASE_URL           sqlite:PATH or postgres://…     [sqlite:$DATA_DIR/orchestrator.db]
  AUTH, API_KEYS         how callers are known, and keys [open on loopback without keys]
  RUN_MODE               dry_run or live                 [live with synthetic, which is free; else dry_run]
  PROVIDER               synthetic or gemini             [gemini with GEMINI_API_KEY, else synthetic]
  DAILY_BUDGET_USD       the hard cap of a UTC day       [100]
  BUDGET_LEDGER_ENABLED  write each charge to the ledger [false]
  LOG_LEVEL, LOG_FORMAT  info, debug, …; pretty or json  [info, by terminal]

Exit codes: 0 all went well, 1 something failed, 2 wrong command line, 64 wrong configuration.";

/// Commands to begin with; `{}` is how the program was called.
const EXAMPLES: &[(&str, &str)] = &[
    ("{} demo", "see everything work, free and offline"),
    ("{} demo --exit", "the same for a script: exit code 0 if all went well"),
    ("PORT=8080 {}", "serve on another port"),
    ("DAILY_BUDGET_USD=5 {} serve", "never spend more than five dollars a day"),
    ("{} ledger verify", "check that ledger and database have the same charges"),
    ("{} keys new --name alice", "make an API key; from then on nobody is let in without one"),
    ("{} ledger report --by user", "what each user spent, by the ledger"),
    ("curl -N localhost:9090/images/BATCH/events", "follow a batch"),
];

/// The end of `--help`: examples, variables, exit codes, and what the synthetic provider can be told.
fn teaching() -> String {
    let program = output::program();
    let examples =
        EXAMPLES.iter().map(|(command, what)| [format!("  {}", command.replace("{}", &program)), what.to_string()]);
    let examples = output::table(&examples.map(Vec::from).collect::<Vec<_>>());
    let markers = MARKERS.iter().map(|(marker, what)| format!("  {marker:<16} {what}\n"));
    let markers = markers.collect::<String>();
    format!("Examples:\n{examples}\n\n{TEACHING}\n\nMarkers in a prompt, for the synthetic provider:\n{markers}")
}

/// Makes pictures in batches with paid image models: bounded money, durable work, gapless progress.
#[derive(Parser)]
#[command(name = "orchestrator", version, after_help = teaching())]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Serve requests until a stop signal (the default).
    Serve,
    /// Make a sample batch with everything embedded, check the money, and keep serving.
    Demo {
        /// End when the batch is checked.
        #[arg(long)]
        exit: bool,
    },
    /// Show what pictures cost, and where each price came from.
    Prices {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Compare the ledger with the database, sum it, or take it in.
    #[command(subcommand)]
    Ledger(ledger::LedgerCommand),
    /// Make, list and revoke API keys.
    #[command(subcommand)]
    Keys(keys::KeysCommand),
    /// Bring the database's schema up to date, and end.
    Migrate,
    /// Ask the service on HOST and PORT whether it is alive; exit code 0 if it is.
    Healthcheck,
}

/// Runs the program.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let command = arguments.command.unwrap_or(Command::Serve);
    let variables = match &command {
        Command::Demo { .. } => demo::defaults(Config::environment()),
        _ => Config::environment(),
    };
    let config = app::configure(&variables).and_then(|config| match &command {
        Command::Demo { .. } => demo::check(config),
        _ => Ok(config),
    });
    match config {
        Ok(config) => run(&command, config, &variables),
        Err(errors) => refuse(&errors),
    }
}

/// Reports a configuration that cannot be used, one problem a line.
fn refuse(errors: &ConfigErrors) -> ExitCode {
    output::complain(&errors.to_string());
    ExitCode::from(EXIT_CONFIG)
}

fn run(command: &Command, config: Config, variables: &HashMap<String, String>) -> ExitCode {
    match execute(command, config, variables) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::complain(&format!("orchestrator: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn execute(command: &Command, config: Config, variables: &HashMap<String, String>) -> anyhow::Result<()> {
    match command {
        Command::Prices { json } => return prices::show(&config.prices, *json),
        Command::Healthcheck | Command::Keys(_) | Command::Ledger(_) => {}
        Command::Serve | Command::Demo { .. } | Command::Migrate => start_log(&config.logging)?,
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        match command {
            Command::Serve => serve(config).await,
            Command::Demo { exit } => demo::run(config, variables, *exit).await,
            Command::Migrate => app::migrate(&config).await,
            Command::Keys(command) => keys::run(command, &config).await,
            Command::Ledger(command) => ledger::run(command, &config).await,
            Command::Healthcheck => healthcheck::run(&config).await,
            Command::Prices { .. } => Ok(()),
        }
    });
    runtime.shutdown_timeout(LAST_THREADS);
    result
}

async fn serve(config: Config) -> anyhow::Result<()> {
    App::start(config).await?.run().await
}

fn start_log(logging: &LoggingConfig) -> anyhow::Result<()> {
    let terminal = std::io::stderr().is_terminal();
    let form = match logging.format {
        LogFormat::Json => LogForm::Json,
        LogFormat::ByTerminal if !terminal => LogForm::Json,
        LogFormat::Pretty | LogFormat::ByTerminal => LogForm::Pretty { colour: terminal },
    };
    Ok(logs::install(form, &logging.filter, Arc::new(SystemClock::new()))?)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed_and_serves_by_default() {
        Arguments::command().debug_assert();
        assert!(Arguments::try_parse_from(["orchestrator"]).unwrap().command.is_none());
        let demo = Arguments::try_parse_from(["orchestrator", "demo", "--exit"]).unwrap().command;
        assert!(matches!(demo, Some(Command::Demo { exit: true })));
    }

    #[test]
    fn the_help_names_only_variables_that_are_read() {
        let names = Config::names();
        let words = TEACHING.split(|c: char| !c.is_ascii_uppercase() && c != '_');
        for word in words.filter(|word| word.len() > 3 && !["BATCH", "PATH"].contains(word)) {
            assert!(names.contains(&word), "{word} is no variable");
        }
    }
}
