//! The folder that pictures are saved in, and the small file in it that says whose pictures they are.
//!
//! Owns what makes a repeated command go on instead of paying again: before a batch is sent, the folder durably holds the
//! name under which it is sent; once it is answered, the batch's id. What turns out to be refused leaves the folder as it
//! was. Refuses to mix the pictures of two batches, and to
//! be used by two processes at once.

use std::fs::{File, TryLockError};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::failure::{Failure, of_file};
use crate::domain::ids::BatchId;
use crate::domain::time::Timestamp;
use crate::durable;

/// The file. No picture has such a name: theirs start with a letter or a digit.
const STATE: &str = ".orchestrator.json";
/// The service remembers the name of a submission for 24 h; after less, nobody relies on it any more.
const NAME_IS_GOOD_FOR: Duration = Duration::from_hours(23);

/// What the file says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct State {
    batch_id: Option<BatchId>,
    submission: Option<Submission>,
}

/// What was sent, or is about to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Submission {
    /// The file that it came from, for people.
    pub(super) file: String,
    /// The hash of everything that is sent.
    pub(super) request: String,
    /// Where it is sent to.
    pub(super) url: String,
    /// The name under which it is sent.
    pub(super) idempotency_key: String,
    /// When it was named, in Unix milliseconds.
    pub(super) named_at: i64,
}

/// How a submission goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Next {
    /// Send it, under its name.
    Send(Submission),
    /// It was accepted as this batch.
    Follow(BatchId),
}

/// A folder that this process alone works on.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    /// Locked; the lock ends with the process, however it ends.
    _lock: File,
    state: Option<State>,
    /// What was here before this process named something to be sent.
    before: Option<State>,
    /// Whether it did that, and does not know yet what came of it.
    is_named_now: bool,
}

impl Folder {
    /// Opens the folder at `path`; makes it if it is not there.
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        durable::create_folder(path).map_err(of_file("make the folder", path))?;
        let lock = File::open(path).map_err(of_file("open the folder", path))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => Failure::Usage(format!(
                "another command saves pictures in {}: let it end, or give another --out",
                path.display()
            )),
            TryLockError::Error(error) => of_file("lock the folder", path)(error),
        })?;
        Ok(Self { path: path.to_owned(), _lock: lock, state: read(path)?, before: None, is_named_now: false })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it holds what came of `request` already.
    pub(super) fn holds(path: &Path, request: &str) -> Result<bool, Failure> {
        let held = read(path)?.and_then(|state| state.submission);
        Ok(held.is_some_and(|submission| submission.request == request))
    }

    /// How `wanted` goes on here: if it was sent before, under the name that it had then. With `anew` it takes the place
    /// of what cannot go on. Nothing is changed yet.
    ///
    /// # Errors
    /// If the folder is another batch's, or nobody can know whether `wanted` was accepted.
    pub(super) fn plan(&self, wanted: Submission, anew: bool) -> Result<Next, Failure> {
        match self.state.as_ref().map(|state| self.go_on(state, &wanted)) {
            Some(Ok(next)) => Ok(next),
            Some(Err(failure)) if !anew => Err(failure),
            _ => Ok(Next::Send(wanted)),
        }
    }

    /// Notes that `submission` is about to be sent, in place of what is here.
    pub(super) fn sends(&mut self, submission: &Submission) -> Result<(), Failure> {
        let before = self.state.clone();
        if before.as_ref().is_some_and(|state| state.submission.as_ref() == Some(submission)) {
            return Ok(());
        }
        self.write(State { batch_id: None, submission: Some(submission.clone()) })?;
        (self.before, self.is_named_now) = (before, true);
        Ok(())
    }

    fn go_on(&self, state: &State, wanted: &Submission) -> Result<Next, Failure> {
        let refuse = |what: String| {
            let new = "or --new to start a new batch here, whose pictures take the place of those with the same names";
            Err(Failure::Usage(format!("{}: {what}; give another --out, {new}", self.path.display())))
        };
        let Some(before) = state.submission.as_ref().filter(|before| before.request == wanted.request) else {
            let whose = state.batch_id.map_or("a batch that was sent before".into(), |batch| format!("of {batch}"));
            let from = state.submission.as_ref().map(|before| format!(", which came from {}", before.file));
            let from = from.unwrap_or_default();
            return refuse(format!(
                "the pictures here are {whose}{from}, and {} as it is now asks for something else",
                wanted.file
            ));
        };
        if before.url != wanted.url {
            return refuse(format!("the batch here was sent to {}: use --url for that", before.url));
        }
        match state.batch_id {
            Some(batch) => Ok(Next::Follow(batch)),
            None if is_old(before, wanted) => refuse(
                "the batch here was sent long ago, and the service does not know any more whether it took it; \
                 look at the list of batches (GET /images)"
                    .into(),
            ),
            None => Ok(Next::Send(before.clone())),
        }
    }

    /// Notes that what is here became `batch`.
    pub(super) fn accepted(&mut self, batch: BatchId) -> Result<(), Failure> {
        let submission = self.state.take().and_then(|state| state.submission);
        self.is_named_now = false;
        self.write(State { batch_id: Some(batch), submission })
    }

    /// Notes that what was sent was refused, and is nothing: what was here before is here again. A name that an earlier
    /// process left stays, which may have been accepted by then.
    pub(super) fn forget(&mut self) -> Result<(), Failure> {
        if !std::mem::take(&mut self.is_named_now) {
            return Ok(());
        }
        if let Some(before) = self.before.take() {
            return self.write(before);
        }
        let path = self.path.join(STATE);
        self.state = None;
        std::fs::remove_file(&path).map_err(of_file("remove", &path))
    }

    /// Makes sure that the pictures of `batch` can be saved here, and those of no other.
    pub(super) fn belong_to(&mut self, batch: BatchId) -> Result<(), Failure> {
        match &self.state {
            None => self.write(State { batch_id: Some(batch), submission: None }),
            Some(state) if state.batch_id == Some(batch) => Ok(()),
            Some(state) => {
                let other = state.batch_id.map_or("another batch".into(), |batch| batch.to_string());
                let here = self.path.display();
                Err(Failure::Usage(format!("{here} has the pictures of {other}: give another --out for {batch}")))
            }
        }
    }

    /// Writes the state, all at once and durably.
    fn write(&mut self, state: State) -> Result<(), Failure> {
        let path = self.path.join(STATE);
        let written = || {
            let temporary = self.path.join(format!("{STATE}.part"));
            let mut file = File::create(&temporary)?;
            file.write_all(&serde_json::to_vec_pretty(&state)?)?;
            file.sync_all()?;
            std::fs::rename(&temporary, &path)?;
            durable::sync_folder(&self.path)
        };
        written().map_err(of_file("write", &path))?;
        self.state = Some(state);
        Ok(())
    }
}

fn is_old(before: &Submission, now: &Submission) -> bool {
    Timestamp::from_millis(now.named_at).since(Timestamp::from_millis(before.named_at)) > NAME_IS_GOOD_FOR
}

fn read(folder: &Path) -> Result<Option<State>, Failure> {
    let path = folder.join(STATE);
    match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| Failure::Usage(format!("{} cannot be read: {error}; give another --out", path.display()))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(of_file("read", &path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;

    fn wanted(request: &str, name: &str, hour: i64) -> Submission {
        Submission {
            file: "rows.csv".into(),
            request: request.into(),
            url: "http://here".into(),
            idempotency_key: name.into(),
            named_at: hour * HOUR,
        }
    }

    fn batch(last: char) -> BatchId {
        format!("bat_01KB000000000000000000000{last}").parse().unwrap()
    }

    fn refusal(result: Result<Next, Failure>) -> String {
        let failure = result.unwrap_err();
        assert_eq!(failure.exit_code(), 64);
        failure.to_string()
    }

    /// What `submit` does before it sends.
    fn send(folder: &mut Folder, wanted: Submission, anew: bool) -> Result<Next, Failure> {
        let next = folder.plan(wanted, anew)?;
        if let Next::Send(submission) = &next {
            folder.sends(submission)?;
        }
        Ok(next)
    }

    fn name(next: Next) -> String {
        let Next::Send(submission) = next else { panic!("{next:?}") };
        submission.idempotency_key
    }

    #[test]
    fn what_was_sent_is_sent_again_under_the_same_name_and_then_followed() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("new/out");
        let mut folder = Folder::open(&path).unwrap();
        assert_eq!(name(send(&mut folder, wanted("a", "first", 0), false).unwrap()), "first");
        drop(folder);
        let mut folder = Folder::open(&path).unwrap();
        assert_eq!(name(send(&mut folder, wanted("a", "second", 23), false).unwrap()), "first");
        folder.accepted(batch('1')).unwrap();
        drop(folder);
        let folder = Folder::open(&path).unwrap();
        assert_eq!(folder.plan(wanted("a", "third", 9_999), false).unwrap(), Next::Follow(batch('1')));
        let elsewhere = Submission { url: "http://there".into(), ..wanted("a", "fourth", 0) };
        assert!(refusal(folder.plan(elsewhere, false)).contains("sent to http://here"));
        assert!(Folder::holds(&path, "a").unwrap() && !Folder::holds(&path, "b").unwrap());
        assert!(!Folder::holds(place.path(), "a").unwrap());
    }

    #[test]
    fn another_request_needs_another_folder_or_says_that_it_is_new() {
        let place = tempfile::tempdir().unwrap();
        let mut folder = Folder::open(place.path()).unwrap();
        send(&mut folder, wanted("a", "first", 0), false).unwrap();
        folder.accepted(batch('1')).unwrap();
        let said = refusal(folder.plan(wanted("b", "second", 0), false));
        for part in ["bat_01KB", "rows.csv", "another --out", "--new"] {
            assert!(said.contains(part), "{said}");
        }
        assert_eq!(name(send(&mut folder, wanted("b", "second", 0), true).unwrap()), "second");
        assert_eq!(name(send(&mut folder, wanted("b", "third", 0), true).unwrap()), "second", "it is the same");
    }

    #[test]
    fn what_is_refused_leaves_the_folder_as_it_was() {
        let place = tempfile::tempdir().unwrap();
        let mut folder = Folder::open(place.path()).unwrap();
        send(&mut folder, wanted("a", "first", 0), false).unwrap();
        folder.forget().unwrap();
        assert_eq!(read(place.path()).unwrap(), None);
        send(&mut folder, wanted("b", "second", 0), false).unwrap();
        folder.accepted(batch('1')).unwrap();
        // Planned and not sent, then sent and refused: the batch that is here is the same all the time.
        folder.plan(wanted("c", "third", 0), true).unwrap();
        assert_eq!(read(place.path()).unwrap().unwrap().batch_id, Some(batch('1')));
        send(&mut folder, wanted("c", "third", 0), true).unwrap();
        folder.forget().unwrap();
        drop(folder);
        let folder = Folder::open(place.path()).unwrap();
        assert_eq!(folder.plan(wanted("b", "fourth", 0), false).unwrap(), Next::Follow(batch('1')));
    }

    #[test]
    fn a_name_that_another_process_may_have_sent_is_not_forgotten() {
        let place = tempfile::tempdir().unwrap();
        send(&mut Folder::open(place.path()).unwrap(), wanted("a", "first", 0), false).unwrap();
        let mut folder = Folder::open(place.path()).unwrap();
        send(&mut folder, wanted("a", "second", 0), false).unwrap();
        folder.forget().unwrap();
        assert_eq!(name(folder.plan(wanted("a", "third", 0), false).unwrap()), "first");
    }

    #[test]
    fn a_name_that_may_be_forgotten_is_not_relied_on() {
        let place = tempfile::tempdir().unwrap();
        let mut folder = Folder::open(place.path()).unwrap();
        send(&mut folder, wanted("a", "first", 0), false).unwrap();
        assert!(refusal(folder.plan(wanted("a", "second", 24), false)).contains("long ago"));
        let elsewhere = Submission { url: "http://there".into(), ..wanted("a", "second", 1) };
        assert!(refusal(folder.plan(elsewhere, false)).contains("sent to http://here"));
    }

    #[test]
    fn a_folder_belongs_to_one_batch_and_one_process() {
        let place = tempfile::tempdir().unwrap();
        let mut folder = Folder::open(place.path()).unwrap();
        folder.belong_to(batch('1')).unwrap();
        folder.belong_to(batch('1')).unwrap();
        assert!(folder.belong_to(batch('2')).unwrap_err().to_string().contains(&batch('1').to_string()));
        assert!(refusal(folder.plan(wanted("a", "first", 0), false)).contains("another --out"));
        assert!(Folder::open(place.path()).unwrap_err().to_string().contains("another command"));
    }
}
