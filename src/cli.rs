//! The command line: what a person or a script can ask of the program.
//!
//! Owns the commands, the set-up of log and runtime, and the exit codes: 0 all went well, 1 something
//! failed, 2 the command line is wrong, 64 the configuration or a file is wrong; those of client commands are in
//! [`failure`]. May use anything.

mod backoff;
mod batches;
mod client;
mod demo;
mod failure;
mod folder;
mod found;
mod healthcheck;
mod keys;
mod ledger;
mod loadtest;
mod output;
mod prices;
mod remote;
mod saver;
mod screen;
mod sse;
mod submit;
mod teaching;
mod view;
mod watch;

use std::collections::HashMap;
use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{CommandFactory as _, Parser, Subcommand};

use self::failure::Failure;
use self::remote::Remote;
use crate::app::{self, App};
use crate::clock::SystemClock;
use crate::config::{Config, ConfigErrors, LogFormat};
use crate::telemetry::logs::{self, LogForm, Traced};

/// The configuration cannot be used (`EX_USAGE` of sysexits.h).
const EXIT_CONFIG: u8 = 64;
/// How long threads that are still blocked have when the work is over.
const LAST_THREADS: Duration = Duration::from_millis(500);

/// Makes pictures in batches with paid image models: bounded money, durable work, gapless progress.
#[derive(Parser)]
#[command(name = "orchestrator", version, after_help = teaching::program())]
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
    #[command(flatten)]
    Client(ClientCommand),
    /// Write what a shell needs to complete commands, options and their values.
    #[command(after_help = teaching::COMPLETIONS)]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// What asks a running service.
#[derive(Subcommand)]
enum ClientCommand {
    /// Price a file of rows, or with --live make its pictures.
    #[command(long_about = teaching::ABOUT_SUBMIT, after_help = teaching::SUBMIT)]
    Submit(submit::SubmitArguments),
    /// Show the progress of a batch until every picture is made.
    #[command(after_help = teaching::WATCH)]
    Watch(batches::WatchArguments),
    /// Save the pictures that a batch has by now.
    #[command(after_help = teaching::DOWNLOAD)]
    Download(batches::DownloadArguments),
    /// Stop what has not started, and release its money.
    #[command(after_help = teaching::CANCEL)]
    Cancel(batches::CancelArguments),
    /// Try failed pictures again, with a fresh reservation.
    #[command(after_help = teaching::RETRY)]
    Retry(batches::RetryArguments),
    /// Show what is left of today's money.
    Budget(remote::Connection),
    /// Send a batch to test a service with, and check that all of it was right.
    #[command(long_about = teaching::ABOUT_LOADTEST, after_help = teaching::LOADTEST)]
    Loadtest(loadtest::LoadtestArguments),
}

impl ClientCommand {
    const fn connection(&self) -> &remote::Connection {
        match self {
            Self::Submit(wanted) => &wanted.connection,
            Self::Watch(wanted) => &wanted.connection,
            Self::Download(wanted) => &wanted.connection,
            Self::Cancel(wanted) => &wanted.connection,
            Self::Retry(wanted) => &wanted.connection,
            Self::Budget(connection) => connection,
            Self::Loadtest(wanted) => &wanted.connection,
        }
    }

    async fn run(&self, remote: &Remote, variables: &HashMap<String, String>) -> Result<(), Failure> {
        match self {
            Self::Submit(wanted) => submit::run(wanted, remote).await,
            Self::Watch(wanted) => batches::watch(wanted, remote).await,
            Self::Download(wanted) => batches::download(wanted, remote).await,
            Self::Cancel(wanted) => batches::cancel(wanted, remote).await,
            Self::Retry(wanted) => batches::retry(wanted, remote).await,
            Self::Budget(_) => batches::budget(remote).await,
            Self::Loadtest(wanted) => loadtest::run(wanted, remote, variables).await,
        }
    }
}

/// Runs the program.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let command = arguments.command.unwrap_or(Command::Serve);
    let variables = match &command {
        Command::Completions { shell } => return complete(*shell),
        Command::Client(command) => return ask(command, &Config::environment()),
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

fn complete(shell: clap_complete::Shell) -> ExitCode {
    let mut command = Arguments::command();
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut script);
    output::say(String::from_utf8_lossy(&script).trim_end());
    ExitCode::SUCCESS
}

/// Asks a running service; the configuration of a service plays no part.
fn ask(command: &ClientCommand, variables: &HashMap<String, String>) -> ExitCode {
    let asked = || {
        let mut remote = Remote::new(command.connection(), variables)?;
        if matches!(command, ClientCommand::Loadtest(_)) {
            remote.client = remote.client.measured();
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::Unexpected(error.to_string()))?;
        let ended = runtime.block_on(remote.unless_stopped(command.run(&remote, variables)));
        runtime.shutdown_timeout(LAST_THREADS);
        ended
    };
    match asked() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output::complain(&format!("orchestrator: {failure}"));
            ExitCode::from(failure.exit_code())
        }
    }
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
        Command::Client(_) | Command::Completions { .. } => return Ok(()),
        Command::Healthcheck | Command::Keys(_) | Command::Ledger(_) => {}
        Command::Serve | Command::Demo { .. } | Command::Migrate => start_log(&config)?,
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
            Command::Prices { .. } | Command::Client(_) | Command::Completions { .. } => Ok(()),
        }
    });
    runtime.shutdown_timeout(LAST_THREADS);
    result
}

async fn serve(config: Config) -> anyhow::Result<()> {
    App::start(config).await?.run().await
}

fn start_log(config: &Config) -> anyhow::Result<()> {
    let (logging, terminal) = (&config.logging, std::io::stderr().is_terminal());
    let traced = Traced { project: logging.project.clone(), collected: config.traces.endpoint.is_some() };
    let form = match logging.format {
        LogFormat::Json => LogForm::Json(traced),
        LogFormat::ByTerminal if !terminal => LogForm::Json(traced),
        LogFormat::Pretty | LogFormat::ByTerminal => LogForm::Pretty { colour: terminal },
    };
    Ok(logs::install(form, &logging.filter, Arc::new(SystemClock::new()))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed_and_serves_by_default() {
        Arguments::command().debug_assert();
        assert!(Arguments::try_parse_from(["orchestrator"]).unwrap().command.is_none());
        let demo = Arguments::try_parse_from(["orchestrator", "demo", "--exit"]).unwrap().command;
        assert!(matches!(demo, Some(Command::Demo { exit: true })));
    }
}
