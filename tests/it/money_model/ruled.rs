//! A machine without a database: the domain's `decide`, ends, counts and sums, on rows in memory.
//!
//! It does with a settlement what it says, and nothing else: what the reference knows by itself (how many
//! tries, what an unknown outcome costs, when a picture was put off for too long) it asks the domain.

use std::time::Duration;

use orchestrator::domain::ids::{AttemptId, BatchId, ImageKey};
use orchestrator::domain::money::MicroUsd;
use orchestrator::domain::outcome::{BACKOFF_BASE, Charge as Cost, Claim, History, Next, Settlement, decide};
use orchestrator::domain::state::{AttemptState, Billing, Counts, ErrorCode, ImageState};
use orchestrator::domain::time::Timestamp;
use ulid::Ulid;

use super::ends::outcome;
use super::steps::{End, Step};
use super::world::{Answer, Attempt, Batch, Books, Charge, Hands, Picture, Purse, World};

/// Who takes a picture up so long after it was due does not believe that it was put off all the while.
const NOT_ASKED: Duration = Duration::from_mins(5);

/// What is known of a picture beside the books.
#[derive(Clone, Copy, Default)]
struct Row {
    due: Timestamp,
    throttled_since: Option<Timestamp>,
    /// As its holder knows it.
    history: History,
    worker: usize,
}

/// Books that the domain keeps.
#[derive(Default)]
pub(crate) struct Ruled {
    pub(crate) books: Books,
    rows: Vec<Row>,
}

fn plus(left: i64, right: i64) -> i64 {
    MicroUsd::from_micros(left).plus(MicroUsd::from_micros(right)).expect("small amounts").micros()
}

fn at(minutes: i64) -> Timestamp {
    Timestamp::from_millis(minutes * 60_000)
}

/// The clock of whoever does a step.
fn hands(world: &World, worker: usize) -> Hands {
    world.clocks[world.process(worker)]
}

fn today(world: &World, worker: usize) -> i64 {
    at(hands(world, worker).believed).day().number()
}

impl Ruled {
    /// Does what the step says; `world` is how things are after it, of which only clocks and limits are read.
    pub(crate) fn step(&mut self, world: &World, step: &Step) -> Answer {
        match step {
            Step::Submit { by, user, pictures, price } => self.submit(world, *by, *user, *pictures, *price),
            Step::Claim { worker, user } => self.claim(world, *worker, *user),
            Step::Start { picture, .. } => {
                let picture = &mut self.books.pictures[*picture];
                (picture.state, picture.calls) = (ImageState::Running, picture.calls + 1);
                picture.attempt().state = AttemptState::Started;
                Answer::Done
            }
            Step::Settle { worker, ends } => self.settle(world, *worker, ends),
            Step::Cancel { by, batch, user } => self.cancel(world, *by, *batch, *user),
            Step::Retry { by, batch, price } => self.retry(world, *by, *batch, *price),
            Step::GiveBack { worker } => self.give_back(*worker),
            Step::TakeOver { dead, heir } => self.take_over(world, *dead, *heir),
            Step::Crash { process } => {
                (0..2).filter(|worker| world.process(*worker) == *process).for_each(|worker| {
                    self.take_over(world, worker, worker);
                });
                Answer::Done
            }
            Step::Late { .. } => {
                // Fences are the database's, and so is who looks at the day in vain.
                self.books.everyone = self.books.everyone.on(world.books.everyone.day);
                Answer::Done
            }
            Step::Pass { .. } | Step::Ahead { .. } | Step::Jump { .. } | Step::Limits { .. } => Answer::Done,
        }
    }

    /// Reserves in both scopes, or in none.
    fn reserve(&mut self, world: &World, by: usize, user: usize, amount: i64) -> Result<(), Answer> {
        let today = today(world, by);
        let everyone = Self::with(self.books.everyone.on(today), amount, world.limits[0], false)?;
        let own = Self::with(self.books.users[user].on(today), amount, world.limits[1], true)?;
        (self.books.everyone, self.books.users[user]) = (everyone, own);
        Ok(())
    }

    fn with(purse: Purse, amount: i64, limit: Option<i64>, user_limit: bool) -> Result<Purse, Answer> {
        let limit = limit.map_or(MicroUsd::MAX, MicroUsd::from_micros);
        let reserved = plus(purse.reserved, amount);
        let fits = MicroUsd::from_micros(plus(purse.spent, reserved)) <= limit;
        let over = Answer::OverBudget(user_limit, purse.spent, purse.reserved);
        if fits { Ok(Purse { reserved, ..purse }) } else { Err(over) }
    }

    fn submit(&mut self, world: &World, by: usize, user: usize, pictures: usize, price: i64) -> Answer {
        let estimated = MicroUsd::from_micros(price).times(u32::try_from(pictures).unwrap()).unwrap().micros();
        if let Err(over) = self.reserve(world, by, user, estimated) {
            return over;
        }
        let batch = self.books.batches.len();
        self.books.batches.push(Batch { user, cancelled: false, estimated, actual: 0, unknown: 0 });
        self.books.pictures.extend((0..pictures).map(|_| Picture::new(batch, price)));
        self.rows.resize(self.books.pictures.len(), Row::default());
        Answer::Done
    }

    fn claim(&mut self, world: &World, worker: usize, user: usize) -> Answer {
        let waits = |books: &Books, index: &usize| {
            books.user_of(*index) == user && books.pictures[*index].state == ImageState::Queued
        };
        let waiting: Vec<usize> = (0..self.rows.len()).filter(|index| waits(&self.books, index)).collect();
        for &index in &waiting {
            self.books.pictures[index].state = ImageState::Claimed;
            self.hold(world, index, worker);
        }
        Answer::Pictures(waiting.len())
    }

    fn hold(&mut self, world: &World, index: usize, worker: usize) {
        let (picture, row) = (&self.books.pictures[index], &mut self.rows[index]);
        let late = at(hands(world, worker).wall).since(row.due) >= NOT_ASKED;
        row.worker = worker;
        row.history = History {
            failures: picture.failures,
            unknown_retries: picture.unknown_retries,
            interruptions: picture.interruptions,
            throttled_since: row.throttled_since.filter(|_| !late),
        };
    }

    fn settle(&mut self, world: &World, worker: usize, ends: &[(usize, End)]) -> Answer {
        let now = at(hands(world, worker).wall);
        let image = ImageKey { batch: BatchId::new(Ulid::nil()), ordinal: 1, variant: 1 };
        let claim = Claim { image, fence: 1, attempt: AttemptId::new(Ulid::nil()) };
        let mut fresh = Vec::new();
        for (index, end) in ends {
            let settlement = decide(claim, outcome(*end), self.rows[*index].history, now, BACKOFF_BASE, 0.0);
            if self.close(world, worker, *index, settlement) {
                fresh.push(*index);
            }
        }
        for index in fresh {
            let (user, reserve) = (self.books.user_of(index), self.books.pictures[index].attempt().reserved);
            let reserved = self.reserve(world, worker, user, reserve);
            let picture = &mut self.books.pictures[index];
            if reserved.is_ok() {
                picture.attempts.push(Attempt::held(reserve));
            } else {
                (picture.state, picture.error) = (ImageState::Failed, Some(ErrorCode::BudgetExhausted));
            }
        }
        Answer::Done
    }

    /// Writes one settlement. Whether it wants a fresh reservation.
    fn close(&mut self, world: &World, worker: usize, index: usize, settlement: Settlement) -> bool {
        let user = self.books.user_of(index);
        let (picture, row) = (&mut self.books.pictures[index], &mut self.rows[index]);
        let batch = &mut self.books.batches[picture.batch];
        let running = picture.state == ImageState::Running;
        let reserve = picture.attempt().reserved;
        let (cost, billing, attempt) = match settlement.charge {
            Cost::Nothing => (None, Billing::NotCharged, AttemptState::Released),
            Cost::Known(cost) => (Some(cost.micros()), Billing::Charged, AttemptState::Settled),
            Cost::Reserve => (Some(reserve), Billing::Unknown, AttemptState::Unknown),
        };
        row.throttled_since = settlement.history.throttled_since;
        picture.failures = settlement.history.failures;
        picture.unknown_retries = settlement.history.unknown_retries;
        picture.interruptions = settlement.history.interruptions;
        // What becomes of the picture, whether its reserve goes on, whether the same attempt goes on.
        let goes_on = !batch.cancelled;
        let (state, error, due, keeps, waits) = match settlement.next {
            Next::Complete(_) => (ImageState::Completed, None, None, false, false),
            Next::Fail(error) => (ImageState::Failed, Some(error.code), None, false, false),
            Next::Wait(_) | Next::Again(_) | Next::AgainReserved if !goes_on => {
                (ImageState::Cancelled, None, None, false, false)
            }
            Next::Wait(until) => (ImageState::Queued, None, Some(until), true, true),
            Next::Again(until) => (ImageState::Queued, None, Some(until), true, false),
            Next::AgainReserved => (ImageState::Queued, None, Some(at(hands(world, worker).wall)), false, false),
        };
        (picture.state, picture.error, row.due) = (state, error, due.unwrap_or_default());
        if waits {
            picture.attempt().state = AttemptState::Held;
            picture.calls -= u32::from(running);
        } else {
            (picture.attempt().state, picture.attempt().cost) = (attempt, cost);
            let first = running.then_some(billing);
            picture.billing = picture.billing.map_or(first, |earlier| Some(earlier.then(billing)));
        }
        if picture.billing.is_some() {
            picture.cost = Some(plus(picture.cost.unwrap_or(0), cost.unwrap_or(0)));
        }
        if keeps && !waits {
            picture.attempts.push(Attempt::held(reserve));
        }
        let unknown = billing == Billing::Unknown;
        batch.actual = plus(batch.actual, cost.unwrap_or(0));
        batch.unknown = plus(batch.unknown, if unknown { cost.unwrap_or(0) } else { 0 });
        self.pay(
            today(world, worker),
            user,
            if keeps { 0 } else { reserve },
            cost.map(|cost| (cost, reserve, unknown)),
        );
        state == ImageState::Queued && !keeps
    }

    fn pay(&mut self, today: i64, user: usize, released: i64, charge: Option<(i64, i64, bool)>) {
        let (cost, reserve, unknown) = charge.unwrap_or_default();
        let day = self.books.everyone.on(today).day;
        for purse in [&mut self.books.everyone, &mut self.books.users[user]] {
            *purse = purse.on(day);
            purse.spent = plus(purse.spent, cost);
            purse.unknown = plus(purse.unknown, if unknown { cost } else { 0 });
            purse.overrun = plus(purse.overrun, (cost - reserve).max(0));
            purse.reserved -= released;
        }
        self.books.charges.extend(charge.map(|_| Charge { day, user, cost, unknown }));
    }

    fn counts(&self, batch: usize) -> Counts {
        let mut counts = Counts::default();
        let own = self.books.pictures.iter().filter(|picture| picture.batch == batch);
        own.for_each(|picture| counts.add(picture.state, 1));
        counts
    }

    fn cancel(&mut self, world: &World, by: usize, batch: usize, user: usize) -> Answer {
        let known = &self.books.batches[batch];
        if known.user != user || known.cancelled || self.counts(batch).is_finished() {
            return Answer::Refused;
        }
        self.books.batches[batch].cancelled = true;
        let (mut stopped, mut released) = (0, 0);
        for picture in self.books.pictures.iter_mut().filter(|picture| picture.batch == batch) {
            match picture.state {
                ImageState::Queued | ImageState::Claimed => {
                    (picture.state, picture.attempt().state) = (ImageState::Cancelled, AttemptState::Released);
                    (stopped, released) = (stopped + 1, plus(released, picture.attempt().reserved));
                }
                ImageState::Running | ImageState::Completed | ImageState::Failed | ImageState::Cancelled => {}
            }
        }
        self.pay(today(world, by), user, released, None);
        Answer::Pictures(stopped)
    }

    fn retry(&mut self, world: &World, by: usize, batch: usize, price: i64) -> Answer {
        let failed = self.counts(batch).failed;
        let (cancelled, user) = (self.books.batches[batch].cancelled, self.books.batches[batch].user);
        if cancelled || failed == 0 {
            return Answer::Refused;
        }
        let total = MicroUsd::from_micros(price).times(failed).unwrap().micros();
        if let Err(over) = self.reserve(world, by, user, total) {
            return over;
        }
        self.books.batches[batch].estimated = plus(self.books.batches[batch].estimated, total);
        for (picture, row) in self.books.pictures.iter_mut().zip(&mut self.rows) {
            if picture.batch == batch && picture.state == ImageState::Failed {
                picture.begin_again(price);
                *row = Row::default();
            }
        }
        Answer::Pictures(usize::try_from(failed).unwrap())
    }

    fn give_back(&mut self, worker: usize) -> Answer {
        for (picture, row) in self.books.pictures.iter_mut().zip(&self.rows) {
            if picture.state == ImageState::Claimed && row.worker == worker {
                picture.state = ImageState::Queued;
            }
        }
        Answer::Done
    }

    fn take_over(&mut self, world: &World, dead: usize, heir: usize) -> Answer {
        self.give_back(dead);
        for index in 0..self.rows.len() {
            if self.books.pictures[index].state == ImageState::Running && self.rows[index].worker == dead {
                self.hold(world, index, heir);
            }
        }
        Answer::Done
    }
}
