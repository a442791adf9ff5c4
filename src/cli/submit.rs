//! `orchestrator submit`: batches from files, priced or made.
//!
//! Owns what a file becomes on the wire, and the order of things: nothing is sent live before every file is known to be
//! in order, and nothing is sent without its name being where a repeated command finds it.

mod input;
mod json;

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use clap::Args;
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use self::input::{Format, Input};
use super::client::Body;
use super::failure::{Failure, Fault};
use super::folder::{Folder, Next, Submission};
use super::output::{complain, program, quoted, say, table};
use super::remote::{Connection, Remote, Watching};
use super::saver::hex;
use super::view::{Budget, Estimate};
use crate::clock::{Clock as _, IdSource as _, RandomIds, SystemClock};
use crate::domain::ids::BatchId;
use crate::domain::spec::RunMode;

/// Rows of an estimate that are shown; the sum is that of all.
const SHOWN_ROWS: usize = 50;

/// Files to submit.
#[derive(Debug, Args)]
pub(super) struct SubmitArguments {
    /// Files of rows: .csv, .jsonl, or .json with a whole batch; patterns like 'rows/*.csv'; - for standard input.
    #[arg(value_name = "FILE", required = true)]
    files: Vec<String>,
    /// Make the pictures, and spend money for them. Without it a batch is only priced, whatever its file says.
    #[arg(long)]
    live: bool,
    #[command(flatten)]
    watching: Watching,
    /// Begin a new batch in --out, where another one's pictures are.
    #[arg(long, requires = "out")]
    new: bool,
    /// The model; else the one that the file names, else the service's own.
    #[arg(long)]
    model: Option<String>,
    /// How the rows are written; else the file's ending says it.
    #[arg(long, value_enum)]
    format: Option<Format>,
    #[command(flatten)]
    pub(super) connection: Connection,
}

/// A file as it is sent.
struct Request {
    path: String,
    content_type: &'static str,
    bytes: Bytes,
}

impl Request {
    fn new(input: &Input, mode: RunMode, model: Option<&str>) -> Self {
        let content_type = input.format.content_type();
        if input.format == Format::Json {
            let bytes = json::batch(&input.bytes, mode, model);
            return Self { path: "/images".to_owned(), content_type, bytes: bytes.into() };
        }
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.append_pair("runMode", mode.as_str());
        if let Some(model) = model {
            query.append_pair("model", model);
        }
        Self { path: format!("/images?{}", query.finish()), content_type, bytes: input.bytes.clone().into() }
    }

    /// The same for the same request.
    fn hash(&self) -> String {
        let mut hash = Sha256::new();
        for part in [self.path.as_bytes(), self.content_type.as_bytes(), &self.bytes] {
            hash.update(part.len().to_be_bytes());
            hash.update(part);
        }
        hex(hash)
    }

    /// Sends it under `name`; without one it must be a dry run.
    async fn send<T: serde::de::DeserializeOwned>(&self, remote: &Remote, name: Option<&str>) -> Result<T, Failure> {
        let body = Body { content_type: self.content_type, bytes: self.bytes.clone() };
        match name {
            Some(name) => remote.client.post_once(&self.path, Some(body), Some(name)).await,
            None => remote.client.post_again(&self.path, Some(body)).await,
        }
    }
}

/// Submits the files.
pub(super) async fn run(wanted: &SubmitArguments, remote: &Remote) -> Result<(), Failure> {
    let inputs = input::read(&wanted.files, wanted.format)?;
    if wanted.live {
        return make(wanted, &inputs, remote).await;
    }
    for input in &inputs {
        price(wanted, input, remote).await?;
    }
    if !remote.json {
        say(&format!("Nothing was spent. To make the pictures: {}", live_command(wanted)));
    }
    Ok(())
}

/// The command that makes the pictures.
fn live_command(wanted: &SubmitArguments) -> String {
    let mut command = format!("{} submit --live", program());
    let out = wanted.watching.out.as_ref().map(|out| ("--out", out.to_string_lossy()));
    let model = wanted.model.as_ref().map(|model| ("--model", model.into()));
    let format = wanted.format.map(|format| ("--format", format.as_str().into()));
    for (option, value) in out.into_iter().chain(model).chain(format) {
        command = format!("{command} {option} {}", quoted(&value));
    }
    if wanted.new {
        command += " --new";
    }
    if !wanted.watching.is_on() {
        command += " --watch";
    }
    command += &wanted.connection.as_option();
    wanted.files.iter().fold(command, |command, file| format!("{command} {}", quoted(file)))
}

/// Shows what a file would cost.
async fn price(wanted: &SubmitArguments, input: &Input, remote: &Remote) -> Result<(), Failure> {
    let mut answer: Value = dry_run(wanted, input, remote).await?;
    if remote.json {
        answer["file"] = input.name.as_str().into();
        say(&answer.to_string());
        return Ok(());
    }
    let estimate = Estimate::deserialize(&answer)
        .map_err(|error| Failure::Unexpected(format!("the service answered something unexpected: {error}")))?;
    say(&format!("{} with {}, at most, in US dollars:", input.name, estimate.model));
    say(&as_table(&estimate));
    // Whoever may not read the budget may still submit.
    if let Ok(budget) = remote.client.get::<Budget>("/budget").await
        && let Some(left) = budget.remaining()
    {
        let fits = if estimate.estimated_cost <= left { "" } else { ", which is too little for it" };
        say(&format!("Of today's budget {left} are left{fits}."));
    }
    Ok(())
}

async fn dry_run(wanted: &SubmitArguments, input: &Input, remote: &Remote) -> Result<Value, Failure> {
    let request = Request::new(input, RunMode::DryRun, wanted.model.as_deref());
    request.send(remote, None).await.map_err(|failure| placed(failure, input))
}

fn as_table(estimate: &Estimate) -> String {
    let heading = ["row", "variants", "cost"].map(str::to_owned).to_vec();
    let row = |name: &str, pictures: u64, cost| vec![name.to_owned(), pictures.to_string(), format!("{cost}")];
    let shown = estimate.items.iter().take(SHOWN_ROWS);
    let mut rows = vec![heading];
    rows.extend(shown.map(|item| row(&item.scene_id, item.variants.into(), item.estimated_cost)));
    let hidden = estimate.items.len().saturating_sub(SHOWN_ROWS);
    if hidden > 0 {
        rows.push(vec![format!("and {hidden} more rows")]);
    }
    let pictures = estimate.items.iter().map(|item| u64::from(item.variants)).sum();
    rows.push(row("total", pictures, estimate.estimated_cost));
    table(&rows)
}

/// A file that is to be made.
struct Job<'a> {
    input: &'a Input,
    request: Request,
    folder: Option<Folder>,
    next: Next,
}

/// Makes the pictures of every file.
async fn make(wanted: &SubmitArguments, inputs: &[Input], remote: &Remote) -> Result<(), Failure> {
    if inputs.len() > 1 {
        // One file that is out of order keeps all of them back.
        for input in inputs {
            dry_run(wanted, input, remote).await?;
        }
    }
    let mut jobs = jobs(wanted, inputs, remote)?;
    let (mut accepted, mut refused) = (Vec::new(), Ok(()));
    for job in &mut jobs {
        match submit(job, wanted, remote).await {
            Ok(batch) => accepted.push((&*job, batch)),
            Err(failure) => {
                refused = Err(failure);
                break;
            }
        }
    }
    if let (Err(failure), false) = (&refused, accepted.is_empty()) {
        complain(&failure.to_string());
    }
    if wanted.watching.is_on() {
        for (job, batch) in accepted {
            let watch = remote.watch(batch, job.folder.as_ref());
            let found = watch.to_the_end(if inputs.len() > 1 { &job.input.name } else { "" }).await?;
            let reported = watch.report(&found, Some(&job.input.name), remote);
            refused = refused.and(reported);
        }
    }
    refused
}

/// Opens the folders, where there are any, and finds out how each file goes on.
fn jobs<'a>(wanted: &SubmitArguments, inputs: &'a [Input], remote: &Remote) -> Result<Vec<Job<'a>>, Failure> {
    let (clock, ids) = (SystemClock::new(), RandomIds::default());
    let mut places = HashSet::new();
    let mut jobs = Vec::new();
    for input in inputs {
        let request = Request::new(input, RunMode::Live, wanted.model.as_deref());
        let submission = Submission {
            file: input.name.clone(),
            request: request.hash(),
            url: remote.client.base().to_owned(),
            idempotency_key: ids.next().to_string(),
            named_at: clock.now().millis(),
        };
        let place = wanted.watching.out.as_deref().map(|out| place(out, input, &submission.request, inputs.len()));
        let Some(place) = place.transpose()? else {
            jobs.push(Job { input, request, folder: None, next: Next::Send(submission) });
            continue;
        };
        if !places.insert(place.clone()) {
            let place = place.display();
            return Err(Failure::Usage(format!(
                "{} and another file would both go to {place}: rename one, or submit it with another --out",
                input.name
            )));
        }
        let folder = Folder::open(&place)?;
        let next = folder.plan(submission, wanted.new)?;
        jobs.push(Job { input, request, folder: Some(folder), next });
    }
    Ok(jobs)
}

/// Where the pictures of a file go: to `out`, or below it where there are several files; but to where they are already,
/// if the same file was submitted with others before, or alone.
fn place(out: &Path, input: &Input, request: &str, files: usize) -> Result<PathBuf, Failure> {
    let own = out.join(&input.stem);
    let (usual, other) = if files > 1 { (own, out.to_owned()) } else { (out.to_owned(), own) };
    Ok(if !Folder::holds(&usual, request)? && Folder::holds(&other, request)? { other } else { usual })
}

/// Sends a file, if it was not accepted before.
async fn submit(job: &mut Job<'_>, wanted: &SubmitArguments, remote: &Remote) -> Result<BatchId, Failure> {
    let submission = match &job.next {
        Next::Follow(batch) => {
            remote.screen.say(&format!("{} was submitted before: going on with {batch}", job.input.name));
            return Ok(*batch);
        }
        Next::Send(submission) => submission,
    };
    if let Some(folder) = &mut job.folder {
        folder.sends(submission)?;
    }
    remote.goes_on(match &job.folder {
        Some(_) => "Repeat the same command to go on: nothing is paid twice.".to_owned(),
        None => "Whether the batch was accepted is not known: GET /images lists what there is.".to_owned(),
    });
    let answer: Value = match job.request.send(remote, Some(&submission.idempotency_key)).await {
        Ok(answer) => answer,
        Err(failure) => {
            if failure.is_for_certain() {
                job.folder.as_mut().map(Folder::forget).transpose()?;
            }
            return Err(placed(failure, job.input));
        }
    };
    let batch = BatchId::deserialize(&answer["batchId"])
        .map_err(|_| Failure::Unexpected("the service accepted the batch and did not name it".to_owned()))?;
    if let Some(folder) = &mut job.folder {
        folder.accepted(batch)?;
    }
    if wanted.watching.is_on() {
        remote.screen.say(&format!("{} is {batch}", job.input.name));
    } else if remote.json {
        let mut answer = answer;
        answer["file"] = job.input.name.as_str().into();
        say(&answer.to_string());
    } else {
        let (pictures, cost) = (&answer["counts"]["total"], &answer["estimatedCost"]);
        say(&format!("{} is {batch}: {pictures} pictures, at most {cost} US dollars.", job.input.name));
        say(&format!("To get them: {} watch {batch} --out DIR{}", program(), remote.at));
    }
    Ok(batch)
}

/// The failure, with the places in the file at which something is wrong.
fn placed(mut failure: Failure, input: &Input) -> Failure {
    if let Failure::Refused(refusal) = &mut failure {
        refusal.places = refusal.problem.errors.iter().map(|fault| placed_fault(fault, input)).collect();
    }
    failure
}

fn placed_fault(fault: &Fault, input: &Input) -> String {
    let line = fault.line.or_else(|| input.line_of(fault.pointer.as_deref().unwrap_or_default()));
    match line {
        Some(line) => format!("{}:{line}: {fault}", input.name),
        None => format!("{}: {fault}", input.name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(format: Format, text: &str) -> Input {
        Input { name: "rows".into(), stem: "rows".into(), format, bytes: text.into() }
    }

    #[test]
    fn the_command_line_decides_whether_money_is_spent_not_the_file() {
        let batch = input(Format::Json, r#"{"runMode":"live","items":[]}"#);
        let request = Request::new(&batch, RunMode::DryRun, None);
        assert_eq!((&*request.path, &*request.bytes), ("/images", &br#"{"runMode":"dry_run","items":[]}"#[..]));
        for format in [Format::Csv, Format::Jsonl] {
            let request = Request::new(&input(format, "rows"), RunMode::Live, Some("a b"));
            assert_eq!((&*request.path, &*request.bytes), ("/images?runMode=live&model=a+b", &b"rows"[..]));
        }
    }

    #[test]
    fn whatever_changes_the_request_changes_its_hash() {
        let hash = |format, text, model| Request::new(&input(format, text), RunMode::Live, model).hash();
        let all = [
            hash(Format::Csv, "a", None),
            hash(Format::Csv, "b", None),
            hash(Format::Csv, "a", Some("m")),
            hash(Format::Jsonl, "a", None),
        ];
        assert_eq!(HashSet::from(all.clone()).len(), all.len());
        assert_eq!(hash(Format::Csv, "a", None), all[0]);
    }

    #[test]
    fn a_fault_is_at_a_line_of_the_file() {
        let fault = |pointer: &str, line| Fault {
            pointer: Some(pointer.into()),
            line,
            detail: "is bad".into(),
            ..Fault::default()
        };
        let csv = input(Format::Csv, "");
        assert_eq!(placed_fault(&fault("/items/0/prompt", Some(7)), &csv), "rows:7: /items/0/prompt: is bad");
        assert_eq!(placed_fault(&fault("", None), &csv), "rows: is bad");
        let json = input(Format::Json, "{\n\"items\":[\n{}]}");
        assert_eq!(placed_fault(&fault("/items/0/prompt", None), &json), "rows:3: /items/0/prompt: is bad");
        assert_eq!(placed_fault(&fault("", None), &json), "rows: is bad");
    }
}
