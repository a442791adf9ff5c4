//! What `--help` teaches beside the options: examples, variables, exit codes.

use super::output;
use crate::provider::synthetic::MARKERS;

const VARIABLES: &str = "\
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
  ORCHESTRATOR_URL       the service that is asked       [http://127.0.0.1:9090]
  ORCHESTRATOR_KEY       the key that is shown to it     [none]
  ORCHESTRATOR_TOKEN     an identity token, on Cloud Run [none]

Exit codes: 0 all went well, 1 something failed, 2 wrong command line, 64 wrong configuration or file. Of commands that
ask a service also: 1 pictures were not made or not saved, 69 the service is away, 75 the budget is used up, 77 the key
is refused, 130 stopped by Ctrl-C.";

/// Commands to begin with; `{}` is how the program was called.
const EXAMPLES: &[(&str, &str)] = &[
    ("{} demo", "see everything work, free and offline"),
    ("{} demo --exit", "the same for a script: exit code 0 if all went well"),
    ("PORT=8080 {}", "serve on another port"),
    ("DAILY_BUDGET_USD=5 {} serve", "never spend more than five dollars a day"),
    ("{} submit rows.csv", "what the rows of a spreadsheet would cost"),
    ("{} submit rows.csv --live --out pictures", "make them, and save them as they come"),
    ("{} watch last", "the progress of the newest batch"),
    ("{} ledger verify", "check that ledger and database have the same charges"),
    ("{} keys new --name alice", "make an API key; from then on nobody is let in without one"),
    ("{} ledger report --by user", "what each user spent, by the ledger"),
    ("{} loadtest --report run.html", "100 pictures, and whether all of it was right"),
];

/// The end of `--help`: examples, variables, exit codes, and what the synthetic provider can be told.
pub(super) fn program() -> String {
    let program = output::program();
    let examples =
        EXAMPLES.iter().map(|(command, what)| [format!("  {}", command.replace("{}", &program)), what.to_string()]);
    let examples = output::table(&examples.map(Vec::from).collect::<Vec<_>>());
    let markers = MARKERS.iter().map(|(marker, what)| format!("  {marker:<16} {what}\n"));
    let markers = markers.collect::<String>();
    format!("Examples:\n{examples}\n\n{VARIABLES}\n\nMarkers in a prompt, for the synthetic provider:\n{markers}")
}

/// What `submit` does, at length.
pub(super) const ABOUT_SUBMIT: &str = "\
Price a file of rows, or with --live make its pictures.

Without --live nothing is written or spent: the answer is what each row would cost at most, and what is left of today's
budget. What is wrong with a file is told with its line.

With --out each picture is saved when it is made, under a name like s-001_v1.png, and the folder remembers which batch it
is for: the same command given again goes on where it was stopped, at whatever moment, and pays for nothing twice.

Each file is a batch of its own; none is sent before all are in order. Of several files, each has a folder of its own in
--out, named after it.";

/// Examples of `submit`.
pub(super) const SUBMIT: &str = "\
Examples:
  orchestrator submit rows.csv                                what it would cost
  orchestrator submit rows.csv --live --out pictures          make it, and save the pictures as they come
  orchestrator submit 'spring/*.csv' --live --watch           a batch for each file
  orchestrator submit --format jsonl - --live --json < rows   from another program, for another program
  orchestrator submit batch.json --model synthetic            with another model than the file says

Exit codes: 0 every picture was made (and saved), 1 some were not, 64 a file is wrong, 69 the service is away, 75 the
budget is used up, 77 the key is refused, 130 stopped by Ctrl-C; the batch goes on then.";

/// Examples of `watch`.
pub(super) const WATCH: &str = "\
Lost connections are made again, also when the service is started anew; nothing is missed meanwhile. Ctrl-C leaves the
batch as it is.

Examples:
  orchestrator watch last
  orchestrator watch bat_01KB0000000000000000000000 --out pictures";

/// Examples of `download`.
pub(super) const DOWNLOAD: &str = "\
What is in the folder already, whole and right, is not fetched again.

Examples:
  orchestrator download last
  orchestrator download bat_01KB0000000000000000000000 --out pictures";

/// Examples of `cancel`.
pub(super) const CANCEL: &str = "\
Pictures that are being made are paid for, and come to their end.

Examples:
  orchestrator cancel bat_01KB0000000000000000000000
  orchestrator cancel bat_01KB0000000000000000000000 --out pictures   and save what was made";

/// Examples of `retry`.
pub(super) const RETRY: &str = "\
Examples:
  orchestrator retry last --out pictures                all that may work the next time
  orchestrator retry last --code safety_blocked         those that were refused";

/// What `loadtest` does, at length.
pub(super) const ABOUT_LOADTEST: &str = "\
Send a batch to test a service with, and check that all of it was right.

A live batch of --rows rows is submitted and followed by its progress stream, over two reconnects on purpose. What came of
it is held against gates: batch, pictures, events, counters, budget, ledger and links have to agree. Each is shown with what
was measured and its limit. The run passes if a gate passed and every other one did too or was left out by --skip: one that
was not judged, as the batch did not end or cannot be read, has not passed. A batch that is not done by --deadline, or cannot
be followed any further, is cancelled; if that fails, how to stop it is said.

Without --live nothing is spent: where pictures cost money, the run is priced and refused.

The service has to run with BUDGET_LEDGER_ENABLED=true, which is not the default; else leave its gate out: --skip ledger.

The gates:
  time          the batch ended within --deadline
  asked         rows, prompts, pictures and model are those that were asked for, and no picture is another one's: a permalink
                each, and a file each where the synthetic provider draws them (elsewhere equal files are only counted)
  errors        fewer than 5 % of the pictures were not made
  progress      every event came once, in order, without a hole; as many image_complete as pictures
  requests      /metrics-lite counted the requests of this test
  images        … the pictures that were made and those that failed
  http-errors   … the answers of 500 and more that this test got
  refreshes     … no link that was minted anew before it was old
  ledger        … one exported ledger line for each charge
  ledger-lines  the ledger itself has one line for each charge; with --ledger
  sums          batch, pictures, budget and ledger name the same amount, and nothing stays reserved
  links         every picture has the right bytes, by its link and by its permalink

A run expects to be alone on one instance: counters are those of the process that answers, and move by this run's own
requests (and one in five seconds for probes). With --shared others may move them and the budget further. Behind a balancer
leave the counters out: --skip requests --skip images --skip http-errors --skip refreshes --skip ledger.

The times: a submission is measured to its whole answer, twenty dry runs and the live one; a picture by the service's
own clock from the batch's `started` event to its `image_complete`, so that waiting for others is part of it; a request to
the headers of its answer. Quantiles are times that were measured (nearest rank): of fewer than a hundred, p99 is the
longest.";

/// Examples of `loadtest`.
pub(super) const LOADTEST: &str = "\
Examples:
  orchestrator loadtest                                          100 pictures; free on a synthetic service
  orchestrator loadtest --rows 500 --variants 2 --report run.html --report run.json
  orchestrator loadtest --live --model gemini-nano-banana-2.1 --deadline 10m
  orchestrator loadtest --ledger ./data                          reads the ledger's lines too; also gs://BUCKET
  ORCHESTRATOR_TOKEN=$(gcloud auth print-identity-token) orchestrator loadtest --url https://… --live

Exit codes: 0 gates passed and none failed, 1 one failed or was not judged, 2 or 64 what was asked cannot be done, 69 the
service is away, 75 the budget is used up, 77 the key is refused, also where that comes in the middle of a run, which is
reported as far as it went; 130 stopped by Ctrl-C, SIGTERM or SIGHUP: the batch goes on then, and how to stop it is said.";

/// How completions are set up.
pub(super) const COMPLETIONS: &str = "\
Examples:
  orchestrator completions bash > ~/.local/share/bash-completion/completions/orchestrator
  orchestrator completions zsh > ~/.zfunc/_orchestrator
  orchestrator completions fish > ~/.config/fish/completions/orchestrator.fish";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ClientConfig, Config};

    #[test]
    fn the_help_names_only_variables_that_are_read() {
        let names = [Config::names(), ClientConfig::names()].concat();
        let words = VARIABLES.split(|c: char| !c.is_ascii_uppercase() && c != '_');
        for word in words.filter(|word| word.len() > 3 && *word != "PATH") {
            assert!(names.contains(&word), "{word} is no variable");
        }
    }
}
