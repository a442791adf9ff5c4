//! What should happen to money and pictures, in plain integers: the reference for every real machine.
//!
//! It knows the promises and no SQL: a purse for everyone and one for each user, pictures with their
//! attempts, charges. It calls nothing of the service but names of states.

use orchestrator::domain::state::{AttemptState, Billing, ErrorCode, ImageState};

use super::steps::{End, Step};

/// Minutes of a day.
pub(crate) const DAY: i64 = 1_440;
/// The day on which every run begins; earlier ones are there for clocks that go back.
pub(crate) const FIRST_DAY: i64 = 4;
/// The clocks begin so many minutes after midnight: no run is long enough to cross the next one unasked.
const BEGIN: i64 = 10;
/// An automatic retry after an unknown outcome, and those after an interruption, for each picture.
const UNKNOWN_RETRIES: u32 = 1;
const INTERRUPTED_RETRIES: u32 = 3;
/// Calls that fail without a charge before a picture fails.
const TRIES: u32 = 3;

/// The clock of one process, in minutes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hands {
    /// What it goes by: where the wall clock was at its start, and what passed since.
    pub(crate) believed: i64,
    /// What the wall clock shows.
    pub(crate) wall: i64,
}

/// The money of one scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Purse {
    pub(crate) day: i64,
    pub(crate) spent: i64,
    pub(crate) reserved: i64,
    pub(crate) unknown: i64,
    pub(crate) overrun: i64,
}

impl Purse {
    /// The purse as it is on `today`; a day never goes back.
    pub(crate) fn on(self, today: i64) -> Self {
        if self.day < today { Self { day: today, reserved: self.reserved, ..Self::default() } } else { self }
    }

    fn fits(self, amount: i64, limit: Option<i64>) -> bool {
        limit.is_none_or(|limit| self.spent + self.reserved + amount <= limit)
    }
}

/// One paid call, or the right to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attempt {
    pub(crate) state: AttemptState,
    pub(crate) reserved: i64,
    pub(crate) cost: Option<i64>,
}

impl Attempt {
    pub(crate) const fn held(reserved: i64) -> Self {
        Self { state: AttemptState::Held, reserved, cost: None }
    }

    pub(crate) const fn is_open(self) -> bool {
        matches!(self.state, AttemptState::Held | AttemptState::Started)
    }
}

/// What every machine can show of a picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Picture {
    pub(crate) batch: usize,
    pub(crate) state: ImageState,
    pub(crate) error: Option<ErrorCode>,
    pub(crate) calls: u32,
    pub(crate) cost: Option<i64>,
    pub(crate) billing: Option<Billing>,
    pub(crate) failures: u32,
    pub(crate) unknown_retries: u32,
    pub(crate) interruptions: u32,
    pub(crate) attempts: Vec<Attempt>,
}

impl Picture {
    pub(crate) fn new(batch: usize, reserve: i64) -> Self {
        let (state, attempts) = (ImageState::Queued, vec![Attempt::held(reserve)]);
        let (calls, failures, unknown_retries, interruptions) = (0, 0, 0, 0);
        let (error, cost, billing) = (None, None, None);
        Self { batch, state, error, calls, cost, billing, failures, unknown_retries, interruptions, attempts }
    }

    pub(crate) fn attempt(&mut self) -> &mut Attempt {
        self.attempts.last_mut().expect("a picture has an attempt")
    }

    /// Back in the queue by a person's wish, as if it were new.
    pub(crate) fn begin_again(&mut self, reserve: i64) {
        (self.state, self.error) = (ImageState::Queued, None);
        (self.failures, self.unknown_retries, self.interruptions) = (0, 0, 0);
        self.attempts.push(Attempt::held(reserve));
    }
}

/// What every machine can show of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Batch {
    pub(crate) user: usize,
    pub(crate) cancelled: bool,
    pub(crate) estimated: i64,
    pub(crate) actual: i64,
    pub(crate) unknown: i64,
}

/// One line of the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Charge {
    pub(crate) day: i64,
    pub(crate) user: usize,
    pub(crate) cost: i64,
    pub(crate) unknown: bool,
}

/// All that is written down.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Books {
    pub(crate) everyone: Purse,
    pub(crate) users: [Purse; 2],
    pub(crate) batches: Vec<Batch>,
    pub(crate) pictures: Vec<Picture>,
    /// In no order that matters.
    pub(crate) charges: Vec<Charge>,
}

impl Books {
    pub(crate) fn user_of(&self, picture: usize) -> usize {
        self.batches[self.pictures[picture].batch].user
    }
}

/// What a request is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Done,
    Refused,
    /// It does not fit: whether the user's own limit, and what is spent and reserved.
    OverBudget(bool, i64, i64),
    /// So many pictures.
    Pictures(usize),
}

/// Who has a picture, and what it knew when it took it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Hold {
    pub(crate) worker: usize,
    /// Since when the provider has put the picture off, as far as its worker knows.
    throttled_since: Option<i64>,
    /// How many claims the picture has had.
    claims: usize,
}

/// The reference: the books, and what is known beside them.
#[derive(Debug, Clone)]
pub(crate) struct World {
    pub(crate) books: Books,
    pub(crate) clocks: Vec<Hands>,
    /// Of everyone, of each user.
    pub(crate) limits: [Option<i64>; 2],
    /// Who has each picture, while it is claimed or running.
    pub(crate) holds: Vec<Hold>,
    /// When each waits for, and since when it is put off.
    waits: Vec<(i64, Option<i64>)>,
    /// The limit under which money was last admitted, and what was charged above its reserve since: everyone, users.
    pub(crate) bounds: [Option<i64>; 3],
    pub(crate) answer: Answer,
}

impl World {
    pub(crate) fn new(processes: usize) -> Self {
        let begin = FIRST_DAY * DAY + BEGIN;
        Self {
            books: Books::default(),
            clocks: vec![Hands { believed: begin, wall: begin }; processes],
            limits: [Some(200), Some(120)],
            holds: Vec::new(),
            waits: Vec::new(),
            bounds: [None; 3],
            answer: Answer::Done,
        }
    }

    pub(crate) fn process(&self, worker: usize) -> usize {
        worker % self.clocks.len()
    }

    fn today(&self, worker: usize) -> i64 {
        self.clocks[self.process(worker)].believed.div_euclid(DAY)
    }

    fn now(&self, worker: usize) -> i64 {
        self.clocks[self.process(worker)].wall
    }

    /// The pictures that a worker has claimed or is running.
    pub(crate) fn held(&self, worker: usize, states: &[ImageState]) -> Vec<usize> {
        let pictures = self.books.pictures.iter().zip(&self.holds).enumerate();
        let held = pictures.filter(|(_, (picture, hold))| hold.worker == worker && states.contains(&picture.state));
        held.map(|(index, _)| index).collect()
    }

    /// What each process says of everyone's money: its day, spent, reserved, and whether no call may start.
    pub(crate) fn views(&self) -> Vec<(i64, i64, i64, bool)> {
        let view = |process| {
            let purse = self.books.everyone.on(self.today(process));
            let is_over = purse.overrun > 0 && !purse.fits(0, self.limits[0]);
            (purse.day, purse.spent, purse.reserved, is_over)
        };
        (0..self.clocks.len()).map(view).collect()
    }

    pub(crate) fn step(&mut self, step: &Step) {
        self.answer = Answer::Done;
        match step {
            Step::Submit { by, user, pictures, price } => self.submit(*by, *user, *pictures, *price),
            Step::Claim { worker, user } => self.claim(*worker, *user),
            Step::Start { worker: _, picture } => self.start(*picture),
            Step::Settle { worker, ends } => self.settle(*worker, ends),
            Step::Late { worker, picture } => self.late(*worker, *picture),
            Step::Cancel { by, batch, user } => self.cancel(*by, *batch, *user),
            Step::Retry { by, batch, price } => self.retry(*by, *batch, *price),
            Step::GiveBack { worker } => self.give_back(*worker),
            Step::TakeOver { dead, heir } => self.take_over(*dead, *heir),
            Step::Crash { process } => {
                self.clocks[*process].believed = self.clocks[*process].wall;
                for worker in (0..2).filter(|worker| self.process(*worker) == *process).collect::<Vec<_>>() {
                    self.take_over(worker, worker);
                }
            }
            Step::Pass { minutes } => (0..self.clocks.len()).for_each(|process| self.pass(process, *minutes)),
            Step::Ahead { process } => self.pass(*process, DAY),
            Step::Jump { process, days } => self.clocks[*process].wall += days * DAY,
            Step::Limits { everyone, user } => self.limits = [*everyone, *user],
        }
    }

    fn pass(&mut self, process: usize, minutes: i64) {
        self.clocks[process].believed += minutes;
        self.clocks[process].wall += minutes;
    }

    /// Reserves for everyone and for the user, or says what is in the way.
    fn reserve(&mut self, by: usize, user: usize, amount: i64) -> Result<(), Answer> {
        let today = self.today(by);
        let purses = [self.books.everyone.on(today), self.books.users[user].on(today)];
        for (user_limit, (purse, limit)) in [false, true].into_iter().zip(purses.into_iter().zip(self.limits)) {
            if !purse.fits(amount, limit) {
                return Err(Answer::OverBudget(user_limit, purse.spent, purse.reserved));
            }
        }
        let [everyone, own] = purses.map(|purse| Purse { reserved: purse.reserved + amount, ..purse });
        (self.books.everyone, self.books.users[user]) = (everyone, own);
        (self.bounds[0], self.bounds[user + 1]) = (self.limits[0], self.limits[1]);
        Ok(())
    }

    /// Releases and spends in both scopes; the day is everyone's.
    fn pay(&mut self, by: usize, user: usize, released: i64, charge: Option<(i64, i64, bool)>) -> i64 {
        let day = self.books.everyone.on(self.today(by)).day;
        let (cost, reserve, unknown) = charge.unwrap_or_default();
        let overrun = (cost - reserve).max(0);
        for (scope, purse) in [(0, &mut self.books.everyone), (user + 1, &mut self.books.users[user])] {
            let now = purse.on(day);
            *purse = Purse {
                spent: now.spent + cost,
                reserved: now.reserved - released,
                unknown: now.unknown + if unknown { cost } else { 0 },
                overrun: now.overrun + overrun,
                ..now
            };
            self.bounds[scope] = self.bounds[scope].map(|bound| bound + overrun);
        }
        if charge.is_some() {
            self.books.charges.push(Charge { day, user, cost, unknown });
        }
        day
    }

    fn submit(&mut self, by: usize, user: usize, pictures: usize, price: i64) {
        let estimated = price * i64::try_from(pictures).unwrap();
        if let Err(over) = self.reserve(by, user, estimated) {
            self.answer = over;
            return;
        }
        let batch = self.books.batches.len();
        self.books.batches.push(Batch { user, cancelled: false, estimated, actual: 0, unknown: 0 });
        for _ in 0..pictures {
            self.books.pictures.push(Picture::new(batch, price));
            self.holds.push(Hold::default());
            self.waits.push((0, None));
        }
    }

    fn claim(&mut self, worker: usize, user: usize) {
        let mut claimed = 0;
        for index in 0..self.books.pictures.len() {
            if self.books.pictures[index].state == ImageState::Queued && self.books.user_of(index) == user {
                self.books.pictures[index].state = ImageState::Claimed;
                self.hold(index, worker);
                claimed += 1;
            }
        }
        self.answer = Answer::Pictures(claimed);
    }

    /// Who takes a picture up long after it was due does not believe that it was put off all the while.
    fn hold(&mut self, picture: usize, worker: usize) {
        let (due, since) = self.waits[picture];
        let throttled_since = since.filter(|_| self.now(worker) - due < 5);
        self.holds[picture] = Hold { worker, throttled_since, claims: self.holds[picture].claims + 1 };
    }

    /// A claim that was lost writes nothing; but who tries looks at the day, and it may be a new one.
    fn late(&mut self, worker: usize, picture: usize) {
        let open = [ImageState::Claimed, ImageState::Running].contains(&self.books.pictures[picture].state);
        if self.holds[picture].claims > usize::from(open) {
            self.books.everyone = self.books.everyone.on(self.today(worker));
        }
    }

    fn start(&mut self, picture: usize) {
        let picture = &mut self.books.pictures[picture];
        (picture.state, picture.calls) = (ImageState::Running, picture.calls + 1);
        picture.attempt().state = AttemptState::Started;
    }

    fn settle(&mut self, worker: usize, ends: &[(usize, End)]) {
        let mut again = Vec::new();
        for (picture, end) in ends {
            if self.close(worker, *picture, *end) {
                again.push(*picture);
            }
        }
        // Fresh reservations are decided by the money as the whole group leaves it.
        for index in again {
            let user = self.books.user_of(index);
            let reserve = self.books.pictures[index].attempt().reserved;
            let fits = self.reserve(worker, user, reserve).is_ok();
            let picture = &mut self.books.pictures[index];
            if fits {
                picture.attempts.push(Attempt::held(reserve));
            } else {
                (picture.state, picture.error) = (ImageState::Failed, Some(ErrorCode::BudgetExhausted));
            }
        }
    }

    /// Ends one attempt. Whether it wants a fresh reservation.
    fn close(&mut self, worker: usize, index: usize, end: End) -> bool {
        let (now, hold, user) = (self.now(worker), self.holds[index], self.books.user_of(index));
        let cancelled = self.books.batches[self.books.pictures[index].batch].cancelled;
        let picture = &mut self.books.pictures[index];
        let (running, reserve) = (picture.state == ImageState::Running, picture.attempt().reserved);
        let since = hold.throttled_since.unwrap_or(now);
        let put_off_too_long = now - since > 60;
        self.waits[index] = (now, (end == End::Throttled).then_some(since));
        let charge = match end {
            End::Made(cost @ 1..) | End::Vain(cost @ 1..) => Some((cost, reserve, false)),
            End::MadeUnpriced | End::Unknown | End::Interrupted => Some((reserve, reserve, true)),
            End::Made(_) | End::Vain(_) | End::Found | End::Refused | End::Failed | End::Throttled | End::Postponed => {
                None
            }
        };
        match end {
            End::Failed => picture.failures += 1,
            End::Unknown => picture.unknown_retries += 1,
            End::Interrupted => picture.interruptions += 1,
            _ => {}
        }
        let mut fresh = false;
        let (state, error) = match end {
            End::Made(_) | End::MadeUnpriced | End::Found => (ImageState::Completed, None),
            End::Vain(_) | End::Refused => (ImageState::Failed, Some(ErrorCode::NoImage)),
            End::Failed if picture.failures >= TRIES => (ImageState::Failed, Some(ErrorCode::ProviderError)),
            End::Throttled if put_off_too_long => (ImageState::Failed, Some(ErrorCode::QuotaExhausted)),
            End::Unknown if picture.unknown_retries > UNKNOWN_RETRIES => {
                (ImageState::Failed, Some(ErrorCode::ProviderOutcomeUnknown))
            }
            End::Interrupted if picture.interruptions > INTERRUPTED_RETRIES => {
                (ImageState::Failed, Some(ErrorCode::ProviderOutcomeUnknown))
            }
            _ if cancelled => (ImageState::Cancelled, None),
            End::Unknown | End::Interrupted => {
                fresh = true;
                (ImageState::Queued, None)
            }
            End::Failed | End::Throttled | End::Postponed => (ImageState::Queued, None),
        };
        (picture.state, picture.error) = (state, error);
        let waits = state == ImageState::Queued && matches!(end, End::Throttled | End::Postponed);
        let keeps = state == ImageState::Queued && !fresh;
        if waits {
            picture.attempt().state = AttemptState::Held;
            picture.calls -= u32::from(running);
        } else {
            let (latest, state) = match charge {
                None => (Billing::NotCharged, AttemptState::Released),
                Some((.., false)) => (Billing::Charged, AttemptState::Settled),
                Some((.., true)) => (Billing::Unknown, AttemptState::Unknown),
            };
            (picture.attempt().state, picture.attempt().cost) = (state, charge.map(|(cost, ..)| cost));
            picture.billing = match (picture.billing, latest) {
                (None, latest) => running.then_some(latest),
                (earlier, Billing::NotCharged) => earlier,
                (Some(_), latest) => Some(latest),
            };
        }
        let (cost, unknown) = charge.map_or((0, false), |(cost, _, unknown)| (cost, unknown));
        if picture.billing.is_some() {
            picture.cost = Some(picture.cost.unwrap_or(0) + cost);
        }
        if keeps && !waits {
            picture.attempts.push(Attempt::held(reserve));
        }
        let batch = &mut self.books.batches[picture.batch];
        batch.actual += cost;
        batch.unknown += if unknown { cost } else { 0 };
        self.pay(worker, user, if keeps { 0 } else { reserve }, charge);
        fresh
    }

    fn cancel(&mut self, by: usize, batch: usize, user: usize) {
        let open = |picture: &&mut Picture| picture.batch == batch && !picture.state.is_final();
        let known = &self.books.batches[batch];
        if known.user != user || known.cancelled || self.books.pictures.iter_mut().find(open).is_none() {
            self.answer = Answer::Refused;
            return;
        }
        let (mut stopped, mut released) = (0, 0);
        for picture in self.books.pictures.iter_mut().filter(open) {
            if picture.state != ImageState::Running {
                picture.state = ImageState::Cancelled;
                picture.attempt().state = AttemptState::Released;
                stopped += 1;
                released += picture.attempt().reserved;
            }
        }
        self.books.batches[batch].cancelled = true;
        self.pay(by, user, released, None);
        self.answer = Answer::Pictures(stopped);
    }

    fn retry(&mut self, by: usize, batch: usize, price: i64) {
        let failed = |picture: &&mut Picture| picture.batch == batch && picture.state == ImageState::Failed;
        let count = self.books.pictures.iter_mut().filter(failed).count();
        if self.books.batches[batch].cancelled || count == 0 {
            self.answer = Answer::Refused;
            return;
        }
        let total = price * i64::try_from(count).unwrap();
        if let Err(over) = self.reserve(by, self.books.batches[batch].user, total) {
            self.answer = over;
            return;
        }
        self.books.batches[batch].estimated += total;
        for (picture, wait) in self.books.pictures.iter_mut().zip(&mut self.waits) {
            if picture.batch == batch && picture.state == ImageState::Failed {
                picture.begin_again(price);
                *wait = (0, None);
            }
        }
        self.answer = Answer::Pictures(count);
    }

    fn give_back(&mut self, worker: usize) {
        for picture in self.held(worker, &[ImageState::Claimed]) {
            self.books.pictures[picture].state = ImageState::Queued;
        }
    }

    fn take_over(&mut self, dead: usize, heir: usize) {
        self.give_back(dead);
        for picture in self.held(dead, &[ImageState::Running]) {
            self.hold(picture, heir);
        }
    }
}
