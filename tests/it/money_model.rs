//! Any sequence of what can happen to money, against a reference in plain integers: after every step
//! each purse, picture, attempt and charge is what the reference says, and the sums agree.
//!
//! The same sequences run on the domain's rules in memory, on SQLite and on Postgres. `MODEL_CASES`
//! multiplies how many; a failure prints the shortest sequence that shows it.

mod ends;
mod reading;
mod ruled;
mod steps;
mod stored;
mod world;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use orchestrator::domain::state::ImageState;
use proptest::test_runner::{Config, RngSeed, TestCaseError, TestError, TestRunner};
use proptest::{prop_assert, prop_assert_eq};
use proptest_state_machine::ReferenceStateMachine;

use self::ruled::Ruled;
use self::steps::{Machine, Step};
use self::stored::Stored;
use self::world::{Attempt, Books, Charge, Purse, World};
use crate::engines::{Database, on_postgres, on_sqlite};

/// Steps of the longest sequence.
const STEPS: usize = 25;

/// The same sequences every time; more of them, and other ones, where `MODEL_CASES` multiplies them.
fn config(cases: u32) -> Config {
    let factor: u32 = std::env::var("MODEL_CASES").map_or(1, |factor| factor.parse().expect("MODEL_CASES is a number"));
    let rng_seed = if factor == 1 { RngSeed::Fixed(20_261_124) } else { RngSeed::Fixed(rand::random()) };
    Config { cases: cases * factor, failure_persistence: None, rng_seed, max_shrink_iters: 4_000, ..Config::default() }
}

type Steps<'a> = &'a mut dyn Iterator<Item = &'a Step>;

/// Runs `test` on sequences of steps of so many processes; a sequence that fails is shown as short as it gets.
fn run<const PROCESSES: usize>(cases: u32, test: impl Fn(World, Steps<'_>) -> Result<(), TestCaseError>) {
    let config = config(cases);
    let seed = config.rng_seed;
    let sequences = Machine::<PROCESSES>::sequential_strategy(1..STEPS);
    let ended = TestRunner::new(config).run(&sequences, |(world, steps, seen)| {
        // Steps that were not reached are cut off first when a failure is made smaller.
        let count = |_: &&Step| _ = seen.as_ref().map(|seen| seen.fetch_add(1, Ordering::SeqCst));
        test(world, &mut steps.iter().inspect(count))
    });
    match ended {
        Ok(()) => {}
        Err(TestError::Fail(reason, (_, steps, _))) => {
            let steps: Vec<String> = steps.iter().map(|step| format!("    {step:?}\n")).collect();
            panic!("{reason}\n  after (seed {seed})\n{}", steps.concat());
        }
        Err(TestError::Abort(reason)) => panic!("{reason}"),
    }
}

async fn on_store(stored: &mut Stored, mut world: World, steps: Steps<'_>) -> Result<(), TestCaseError> {
    stored.begin(&world).await;
    for step in steps {
        world.step(step);
        let answer = stored.step(&world, step).await;
        prop_assert_eq!(answer, world.answer, "the answer to {:?}", step);
        let mut books = stored.look().await;
        compare(&mut books, &mut world, step)?;
        prop_assert_eq!(stored.views(&world).await, world.views(), "what each process says after {:?}", step);
    }
    Ok(())
}

/// Runs sequences on a database that they share.
async fn on_database<const PROCESSES: usize>(database: Arc<Database>, cases: u32) {
    let mut stored = Stored::new(database).await;
    let handle = tokio::runtime::Handle::current();
    let run = move || {
        let stored = std::cell::RefCell::new(&mut stored);
        run::<PROCESSES>(cases, |world, steps| handle.block_on(on_store(&mut stored.borrow_mut(), world, steps)));
    };
    tokio::task::block_in_place(run);
}

#[test]
fn any_sequence_keeps_the_books_by_the_rules_alone() {
    run::<2>(10_000, |mut world, steps| {
        let mut ruled = Ruled::default();
        for step in steps {
            world.step(step);
            prop_assert_eq!(ruled.step(&world, step), world.answer, "the answer to {:?}", step);
            compare(&mut ruled.books, &mut world, step)?;
        }
        Ok(())
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn any_sequence_keeps_the_books_on_sqlite() {
    on_sqlite(|database| on_database::<1>(database, 256)).await;
}
mod postgres {
    #[tokio::test(flavor = "multi_thread")]
    async fn any_sequence_keeps_the_books_of_two_processes() {
        super::on_postgres(|database| super::on_database::<2>(database, 32)).await;
    }
}

/// The machine's books are the reference's, and agree with themselves.
fn compare(books: &mut Books, world: &mut World, step: &Step) -> Result<(), TestCaseError> {
    let expected = &mut world.books;
    books.charges.sort_unstable();
    expected.charges.sort_unstable();
    prop_assert_eq!(books.everyone, expected.everyone, "everyone's money after {:?}", step);
    prop_assert_eq!(books.users, expected.users, "the users' money after {:?}", step);
    prop_assert_eq!(&books.batches, &expected.batches, "the batches after {:?}", step);
    for (index, (picture, expected)) in books.pictures.iter().zip(&expected.pictures).enumerate() {
        prop_assert_eq!(picture, expected, "picture {} after {:?}", index, step);
    }
    prop_assert_eq!(&books.charges, &expected.charges, "the charges after {:?}", step);
    prop_assert_eq!(&*books, &*expected, "the books after {:?}", step);
    promises(books, world)
}

/// What must hold whatever happened; nothing here asks the reference but for the limits under which it admitted.
fn promises(books: &Books, world: &World) -> Result<(), TestCaseError> {
    let users = |user: usize| move |of: usize| of == user;
    purse(books, books.everyone, world.bounds[0], |_| true)?;
    for user in 0..2 {
        purse(books, books.users[user], world.bounds[user + 1], users(user))?;
        prop_assert!(books.users[user].day <= books.everyone.day, "a user's day is ahead");
    }
    for picture in &books.pictures {
        let open: Vec<&Attempt> = picture.attempts.iter().filter(|attempt| attempt.is_open()).collect();
        prop_assert_eq!(open.len(), usize::from(!picture.state.is_final()), "open attempts of {:?}", picture);
        let paid: i64 = picture.attempts.iter().filter_map(|attempt| attempt.cost).sum();
        prop_assert_eq!(picture.cost.unwrap_or(0), paid, "the cost of {:?}", picture);
        prop_assert!(picture.state != ImageState::Running || picture.calls > 0);
    }
    for (number, batch) in books.batches.iter().enumerate() {
        let own = books.pictures.iter().filter(|picture| picture.batch == number);
        prop_assert_eq!(batch.actual, own.filter_map(|picture| picture.cost).sum::<i64>(), "the batch's cost");
    }
    Ok(())
}

/// A purse is the sum of what it is of, and within the limit under which it was last admitted to.
fn purse(books: &Books, purse: Purse, bound: Option<i64>, is_of: impl Fn(usize) -> bool) -> Result<(), TestCaseError> {
    let own = (0..books.pictures.len()).filter(|picture| is_of(books.user_of(*picture)));
    let attempts = own.flat_map(|picture| &books.pictures[picture].attempts);
    let reserved: i64 = attempts.filter(|attempt| attempt.is_open()).map(|attempt| attempt.reserved).sum();
    prop_assert_eq!(purse.reserved, reserved, "reserved is what open attempts hold");
    let of_the_day = |charge: &&Charge| charge.day == purse.day && is_of(charge.user);
    let spent: i64 = books.charges.iter().filter(of_the_day).map(|charge| charge.cost).sum();
    prop_assert_eq!(purse.spent, spent, "spent is what the day's ledger says");
    let unknown: i64 = books.charges.iter().filter(of_the_day).filter(|line| line.unknown).map(|line| line.cost).sum();
    prop_assert_eq!(purse.unknown, unknown, "the part of which nobody knows");
    if let Some(bound) = bound {
        prop_assert!(purse.spent + purse.reserved <= bound, "{:?} is above {}", purse, bound);
    }
    Ok(())
}
