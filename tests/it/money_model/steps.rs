//! What can happen, and what of it can happen next.

use orchestrator::domain::state::ImageState;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use proptest::strategy::Union;
use proptest_state_machine::ReferenceStateMachine;

use super::world::{DAY, FIRST_DAY, World};

/// How an attempt ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// A picture, at this cost.
    Made(i64),
    /// A picture, and the answer has no usage.
    MadeUnpriced,
    /// The picture of an earlier call.
    Found,
    /// An answer without a picture, at this cost.
    Vain(i64),
    Refused,
    Failed,
    Throttled,
    Postponed,
    Unknown,
    Interrupted,
}

/// One thing that happens. `by` and `worker` are one of two workers, each in its process.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Submit {
        by: usize,
        user: usize,
        pictures: usize,
        price: i64,
    },
    /// Takes up all that waits of a user.
    Claim {
        worker: usize,
        user: usize,
    },
    Start {
        worker: usize,
        picture: usize,
    },
    /// In one transaction.
    Settle {
        worker: usize,
        ends: Vec<(usize, End)>,
    },
    /// Whoever had this picture earlier starts it, and settles it, as if it still had it.
    Late {
        worker: usize,
        picture: usize,
    },
    Cancel {
        by: usize,
        batch: usize,
        user: usize,
    },
    Retry {
        by: usize,
        batch: usize,
        price: i64,
    },
    GiveBack {
        worker: usize,
    },
    TakeOver {
        dead: usize,
        heir: usize,
    },
    /// The process forgets all it knows, and begins again by what the wall clock shows.
    Crash {
        process: usize,
    },
    /// On every clock; a whole day is midnight.
    Pass {
        minutes: i64,
    },
    /// Time passes for one process that for the other does not: their days differ.
    Ahead {
        process: usize,
    },
    /// The wall clock is set; a running process does not believe it.
    Jump {
        process: usize,
        days: i64,
    },
    Limits {
        everyone: Option<i64>,
        user: Option<i64>,
    },
}

/// The machine with so many processes.
pub(crate) struct Machine<const PROCESSES: usize>;

const OPEN: [ImageState; 2] = [ImageState::Claimed, ImageState::Running];

fn price() -> impl Strategy<Value = i64> {
    select(vec![10_i64, 25, 40])
}

/// Below, at and above any reserve.
fn cost() -> impl Strategy<Value = i64> {
    select(vec![0_i64, 7, 10, 25, 40, 55])
}

fn end_of_a_call() -> impl Strategy<Value = End> {
    prop_oneof![
        4 => cost().prop_map(End::Made),
        1 => Just(End::MadeUnpriced),
        1 => cost().prop_map(End::Vain),
        2 => Just(End::Refused),
        3 => Just(End::Failed),
        3 => Just(End::Throttled),
        4 => Just(End::Unknown),
        1 => Just(End::Interrupted),
    ]
}

/// How a picture ends whose call was not sent.
fn end_before_a_call() -> impl Strategy<Value = End> {
    prop_oneof![Just(End::Found), Just(End::Refused), Just(End::Failed), Just(End::Postponed)]
}

fn settle(world: &World, worker: usize) -> Option<BoxedStrategy<Step>> {
    let held: Vec<(usize, bool)> = world
        .held(worker, &OPEN)
        .into_iter()
        .map(|picture| (picture, world.books.pictures[picture].state == ImageState::Running))
        .collect();
    let most = held.len().min(3);
    if most == 0 {
        return None;
    }
    let ends = vec((end_of_a_call(), end_before_a_call()), most);
    let settle = (subsequence(held, 1..=most), ends).prop_map(move |(pictures, ends)| {
        let end = |((picture, running), (called, not_called))| (picture, if running { called } else { not_called });
        Step::Settle { worker, ends: pictures.into_iter().zip(ends).map(end).collect() }
    });
    Some(settle.boxed())
}

fn on_batches(world: &World) -> Vec<(u32, BoxedStrategy<Step>)> {
    let batches = world.books.batches.len();
    if batches == 0 {
        return Vec::new();
    }
    vec![
        (
            2,
            (0..2_usize, 0..batches, 0..2_usize).prop_map(|(by, batch, user)| Step::Cancel { by, batch, user }).boxed(),
        ),
        (4, (0..2_usize, 0..batches, price()).prop_map(|(by, batch, price)| Step::Retry { by, batch, price }).boxed()),
    ]
}

fn on_clocks(processes: usize) -> Vec<(u32, BoxedStrategy<Step>)> {
    let limit = || select(vec![None, Some(40_i64), Some(80), Some(120), Some(200)]);
    let process = move || 0..processes;
    vec![
        (1, Just(Step::Pass { minutes: 40 }).boxed()),
        (2, Just(Step::Pass { minutes: DAY }).boxed()),
        (1, process().prop_map(|process| Step::Ahead { process }).boxed()),
        (1, (process(), -2..=2_i64).prop_map(|(process, days)| Step::Jump { process, days }).boxed()),
        (2, process().prop_map(|process| Step::Crash { process }).boxed()),
        (2, (limit(), limit()).prop_map(|(everyone, user)| Step::Limits { everyone, user }).boxed()),
    ]
}

impl<const PROCESSES: usize> ReferenceStateMachine for Machine<PROCESSES> {
    type State = World;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<World> {
        Just(World::new(PROCESSES)).boxed()
    }

    fn transitions(world: &World) -> BoxedStrategy<Step> {
        let submit = (0..2_usize, 0..2_usize, 1..=4_usize, price())
            .prop_map(|(by, user, pictures, price)| Step::Submit { by, user, pictures, price });
        let claim = (0..2_usize, 0..2_usize).prop_map(|(worker, user)| Step::Claim { worker, user });
        let mut steps = vec![(6, submit.boxed()), (6, claim.boxed())];
        steps.extend(on_batches(world));
        steps.extend(on_clocks(PROCESSES));
        for worker in 0..2 {
            let claimed = world.held(worker, &[ImageState::Claimed]);
            if !claimed.is_empty() {
                steps.push((10, select(claimed).prop_map(move |picture| Step::Start { worker, picture }).boxed()));
                steps.push((1, Just(Step::GiveBack { worker }).boxed()));
            }
            if let Some(settle) = settle(world, worker) {
                steps.push((10, settle));
                steps.push((2, Just(Step::TakeOver { dead: worker, heir: 1 - worker }).boxed()));
            }
        }
        let pictures = world.books.pictures.len();
        if pictures > 0 {
            let late = (0..2_usize, 0..pictures).prop_map(|(worker, picture)| Step::Late { worker, picture });
            steps.push((3, late.boxed()));
        }
        Union::new_weighted(steps).boxed()
    }

    fn apply(mut world: World, step: &Step) -> World {
        world.step(step);
        world
    }

    fn preconditions(world: &World, step: &Step) -> bool {
        let holds =
            |worker: usize, picture: &usize, states: &[ImageState]| world.held(worker, states).contains(picture);
        match step {
            Step::Start { worker, picture } => holds(*worker, picture, &[ImageState::Claimed]),
            Step::Settle { worker, ends } => ends.iter().all(|(picture, end)| {
                let states = match end {
                    End::Found | End::Postponed => &OPEN[..1],
                    End::Refused | End::Failed => &OPEN[..],
                    _ => &OPEN[1..],
                };
                holds(*worker, picture, states)
            }),
            Step::Late { picture, .. } => *picture < world.books.pictures.len(),
            Step::Cancel { batch, .. } | Step::Retry { batch, .. } => *batch < world.books.batches.len(),
            Step::Jump { process, days } => {
                let wall = world.clocks[*process].wall + days * DAY;
                wall >= (FIRST_DAY - 2) * DAY
            }
            _ => true,
        }
    }
}
