//! The store's promises about money, claims and events, each on both engines.

use std::sync::Arc;
use std::time::Duration;

use orchestrator::clock::{Clock as _, FixedClock, IdSource as _};
use orchestrator::domain::event::Event;
use orchestrator::domain::ids::{AttemptId, UserId, WorkerId};
use orchestrator::domain::money::MicroUsd;
use orchestrator::domain::outcome::{Claim, Outcome};
use orchestrator::domain::state::{BatchState, Billing, ErrorCode, ImageError, ImageState};
use orchestrator::domain::time::Timestamp;
use orchestrator::store::{
    Cancelled, DayState, EVERYONE, FreshAttempt, Limits, NewRetry, Queue, RetryOutcome, Settled, Store, SubmitOutcome,
    Unexported, user_scope,
};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::bench::{Bench, RESERVE, failure, is_now, made};
use crate::engines::{Database, on_both_engines, system_clock};

on_both_engines!(
    a_batch_that_does_not_fit_leaves_nothing_behind,
    sixty_four_clients_never_reserve_more_than_fits,
    a_users_own_limit_refuses_without_touching_everyones_money,
    fifty_posts_with_one_key_make_one_batch,
    an_idempotency_key_is_forgotten_after_its_time,
    two_workers_never_claim_the_same_picture,
    a_small_batch_does_not_wait_behind_a_large_one,
    settling_moves_picture_money_ledger_and_events_together,
    a_lost_claim_changes_nothing,
    starts_of_a_group_go_by_their_own_claims,
    rows_that_end_together_are_told_of_each_after_its_last_picture,
    a_transient_failure_keeps_its_reservation,
    a_call_that_was_not_sent_after_all_is_put_back_at_no_cost,
    an_unknown_outcome_is_charged_at_the_reserve_and_reserved_afresh,
    an_unknown_outcome_without_room_fails_the_picture,
    a_cancel_releases_what_has_not_started,
    a_call_under_way_ends_after_a_cancel_and_is_not_tried_again,
    a_dead_workers_claims_go_back_and_its_calls_are_handed_over,
    spent_money_starts_at_zero_on_a_new_day_and_reserves_stay,
    a_charge_above_its_reserve_is_an_overrun,
    a_lowered_limit_admits_nothing_and_takes_nothing_back,
    lines_get_their_positions_once_and_in_order,
    a_database_behind_its_ledger_takes_the_charges_in,
    a_line_of_the_ledger_that_is_read_twice_keeps_its_first_position,
    what_waits_is_counted_by_state_with_the_time_of_the_oldest,
    a_picture_that_is_tried_again_waits_since_then,
    a_charge_is_on_its_way_until_the_ledger_has_it,
    event_numbers_have_no_hole_under_concurrent_settles,
    a_group_of_ends_is_written_together_and_each_gets_its_own_answer,
    the_books_agree_after_any_sequence_of_events,
);

async fn a_batch_that_does_not_fit_leaves_nothing_behind(database: Arc<Database>) {
    let bench = Bench::with_limit(&database, Some(149_999)).await;
    let batch = bench.batch(3, 1);
    let outcome = bench.store.submit(&batch, &bench.limits).await.unwrap();
    assert!(matches!(outcome, SubmitOutcome::OverBudget { user_limit: false, .. }), "{outcome:?}");
    assert!(bench.store.load_batch(batch.id, &batch.owner).await.unwrap().is_none());
    assert!(bench.claim(10).await.is_empty());
    assert_eq!(bench.money().await, (0, 0));
}

async fn sixty_four_clients_never_reserve_more_than_fits(database: Arc<Database>) {
    // 500 pictures fit; each client asks for 10 at a time until it is refused.
    let bench = Arc::new(Bench::with_limit(&database, Some(500 * 50_000)).await);
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let bench = bench.clone();
        clients.spawn(async move {
            let mut accepted = 0_i64;
            for _ in 0..2 {
                let batch = bench.batch(5, 2);
                match bench.store.submit(&batch, &bench.limits).await.unwrap() {
                    SubmitOutcome::Accepted => accepted += 10,
                    SubmitOutcome::OverBudget { budget, .. } => {
                        let used = budget.spent.micros() + budget.reserved.micros();
                        assert!(used <= 500 * 50_000 && used > 490 * 50_000, "refused with room left: {used}");
                    }
                    other => panic!("{other:?}"),
                }
            }
            accepted
        });
    }
    let accepted: i64 = clients.join_all().await.into_iter().sum();
    assert_eq!(accepted, 500);
    assert_eq!(bench.money().await, (0, 500 * 50_000));
}

async fn a_users_own_limit_refuses_without_touching_everyones_money(database: Arc<Database>) {
    let mut bench = Bench::new(&database).await;
    bench.limits.user = Some(MicroUsd::from_micros(100_000));
    bench.submit(2, 1).await;
    let refused = bench.store.submit(&bench.batch(1, 1), &bench.limits).await.unwrap();
    assert!(matches!(refused, SubmitOutcome::OverBudget { user_limit: true, .. }), "{refused:?}");
    assert_eq!(bench.money().await, (0, 100_000));
    let user = bench.store.load_budget(&user_scope(&UserId::local())).await.unwrap();
    assert_eq!(user.reserved.micros(), 100_000);
}

async fn fifty_posts_with_one_key_make_one_batch(database: Arc<Database>) {
    let bench = Arc::new(Bench::new(&database).await);
    let mut posts = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let bench = bench.clone();
        posts.spawn(async move {
            let mut batch = bench.batch(2, 1);
            batch.idempotency = Some(("key".to_owned(), "hash".to_owned()));
            match bench.store.submit(&batch, &bench.limits).await.unwrap() {
                SubmitOutcome::Accepted => (batch.id, true),
                SubmitOutcome::Replayed(earlier) => (earlier, false),
                other => panic!("{other:?}"),
            }
        });
    }
    let answers = posts.join_all().await;
    assert_eq!(answers.iter().filter(|(_, accepted)| *accepted).count(), 1);
    assert!(answers.iter().all(|(batch, _)| *batch == answers[0].0), "{answers:?}");
    assert_eq!(bench.money().await, (0, 100_000));

    let mut other = bench.batch(1, 1);
    other.idempotency = Some(("key".to_owned(), "other hash".to_owned()));
    assert_eq!(bench.store.submit(&other, &bench.limits).await.unwrap(), SubmitOutcome::KeyReused);
}

async fn an_idempotency_key_is_forgotten_after_its_time(database: Arc<Database>) {
    let bench = Bench::new(&database).await;
    let mut first = bench.batch(1, 1);
    first.idempotency = Some(("key".to_owned(), "hash".to_owned()));
    bench.store.submit(&first, &bench.limits).await.unwrap();
    let mut second = bench.batch(1, 1);
    second.idempotency = Some(("key".to_owned(), "another".to_owned()));
    second.forget_keys_before = first.at.after(Duration::from_millis(1));
    assert_eq!(bench.store.submit(&second, &bench.limits).await.unwrap(), SubmitOutcome::Accepted);
}

async fn two_workers_never_claim_the_same_picture(database: Arc<Database>) {
    let bench = Arc::new(Bench::new(&database).await);
    bench.submit(60, 1).await;
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let bench = bench.clone();
        workers.spawn(async move {
            let worker = WorkerId::new(bench.ids.next());
            let mut claimed = Vec::new();
            loop {
                let jobs = bench.store.claim(worker, &UserId::local(), 3, bench.clock.now()).await.unwrap();
                if jobs.is_empty() {
                    return claimed;
                }
                claimed.extend(jobs.into_iter().map(|job| job.claim.image));
            }
        });
    }
    let mut claimed: Vec<_> = workers.join_all().await.into_iter().flatten().collect();
    // With SKIP LOCKED a worker may see an empty queue while others hold its rows; what is left is claimed here.
    claimed.extend(bench.claim(60).await.into_iter().map(|job| job.claim.image));
    let count = claimed.len();
    claimed.sort();
    claimed.dedup();
    assert_eq!((count, claimed.len()), (60, 60));
}

async fn a_small_batch_does_not_wait_behind_a_large_one(database: Arc<Database>) {
    let bench = Bench::new(&database).await;
    bench.submit(500, 1).await;
    bench.claim(100).await;
    let small = bench.submit(3, 1).await;
    let next = bench.claim(6).await;
    assert_eq!(next.iter().filter(|job| job.claim.image.batch == small).count(), 3);
}

async fn settling_moves_picture_money_ledger_and_events_together(database: Arc<Database>) {
    let bench = Bench::new(&database).await;
    let batch = bench.submit(1, 2).await;
    assert_eq!(bench.money().await, (0, 100_000));
    let job = bench.start_one().await;
    assert!(is_now(bench.settle(&job, made(&job, 30_000)).await, ImageState::Completed));
    assert_eq!(bench.money().await, (30_000, 50_000));
    assert_eq!(bench.events(batch).await, ["started", "image_complete"]);
    assert_eq!(bench.state(batch).await, BatchState::Running);

    let job = bench.start_one().await;
    let refused = Outcome::PaidInVain {
        error: ImageError::lasting(ErrorCode::NoImage, "text only"),
        cost: Some(MicroUsd::from_micros(1_000)),
    };
    assert!(is_now(bench.settle(&job, refused).await, ImageState::Failed));
    assert_eq!(bench.money().await, (31_000, 0));
    assert_eq!(bench.events(batch).await, ["started", "image_complete", "image_failed", "item_complete", "done"]);
    assert_eq!(bench.state(batch).await, BatchState::Partial);
    let charges = bench.store.load_charges(bench.budget().await.day).await.unwrap();
    let costs: Vec<i64> = charges.iter().map(|line| line.cost.micros()).collect();
    assert_eq!(costs, [30_000, 1_000]);
    let row = bench.store.load_batch(batch, &UserId::local()).await.unwrap().unwrap();
    assert_eq!((row.actual_cost.micros(), row.unknown_cost.micros()), (31_000, 0));
    assert!(row.finished_at.is_some());
}

async fn a_lost_claim_changes_nothing(database: Arc<Database>) {
    let bench = Bench::new(&database).await;
    let batch = bench.submit(1, 1).await;
    let late = bench.start_one().await;
    let heir = WorkerId::new(bench.ids.next());
    bench.store.take_over(bench.worker, heir).await.unwrap();
    let adopted = bench.store.load_claims(heir).await.unwrap().pop().unwrap();
    assert!(is_now(bench.settle(&adopted, made(&adopted, 30_000)).await, ImageState::Completed));
    let before = (bench.money().await, bench.events(batch).await);
    assert_eq!(bench.settle(&late, made(&late, 30_000)).await, Settled::ClaimLost);
    assert_eq!((bench.money().await, bench.events(batch).await), before);
    assert!(!bench.store.start(&[late.claim], bench.clock.now()).await.unwrap()[0]);
}

async fn starts_of_a_group_go_by_their_own_claims(database: Arc<Database>) {
    let bench = Bench::new(&database).await;
    bench.submit(5, 1).await;
    let late = bench.claim(1).await.pop().unwrap();
    bench.store.give_back(bench.worker).await.unwrap();
    let claimed = bench.claim(4).await;
    assert_eq!(claimed[0].claim.image, late.claim.image, "it is next in its turn");
    assert_eq!(bench.store.start(&[late.claim], bench.clock.now()).await.unwrap(), [false]);
    let mut claims: Vec<Claim> = claimed.iter().map(|job| job.claim).collect();
    claims.insert(2, late.claim);
    let held = bench.store.start(&claims, bench.clock.now()).await.unwrap();
    assert_eq!(held, [true, true, false, true, true]);
    assert!(bench.store.load_claims(bench.worker).await.unwrap().iter().all(|job| job.started));
    assert_eq!(bench.store.start(&claims, bench.clock.now()).await.unwrap(), [false; 5]);
    assert!(bench.store.start(&[], bench.clock.now()).await.unwrap().is_empty());
}

async fn rows_that_end_together_are_told_of_each_after_its_last_picture(database: Arc<Database>) {
    let bench = Bench::new(&database).await;
    let batch = bench.submit(3, 2).await;
    let mut jobs = Vec::new();
    for _ in 0..5 {
        jobs.push(bench.start_one().await);
    }
    let ends: Vec<_> = jobs.iter().rev().map(|job| (job, made(job, 30_000))).collect();
    assert_eq!(bench.settle_all(&ends).await.unwrap().len(), 5);
    let (picture, row) = ("image_complete", "item_complete");
    let told = ["started", picture, picture, row, picture, picture, row, picture];
    assert_eq!(bench.events(batch).await, told);
    assert_eq!(bench.money().await, (150_000, 50_000));
    let last = bench.start_one().await;
    bench.settle(&last, made(&last, 30_000)).await;
    assert_eq!(bench.events(batch).await[8..], [picture, row, "done"]);
}

async fn a_transient_failure_keeps_its_reservation(database: Arc<Database>) {
    let bench = Bench::with_limit(&database, Some(50_000)).await;
    let batch = bench.submit(1, 1).await;
    for number in 1..=3 {
        let job = bench.start_one().await;
        assert_eq!((job.number, job.reserved), (number, RESERVE));
        assert_eq!(bench.money().await, (0, 50_000));
        let expected = if number < 3 { ImageState::Queued } else { ImageState::Failed };
        assert!(is_now(bench.settle(&job, failure()).await, expected));
    }
    assert_eq!(bench.money().await, (0, 0));
    let image = bench.store.load_image(batch, &UserId::local(), &"S-1".parse().unwrap(), 1).await.unwrap().unwrap();
    assert_eq!((image.attempts, image.billing), (3, Some(Billing::NotCharged)));
}

async fn a_call_that_was_not_sent_after_all_is_put_back_at_no_cost(database: Arc<Database>) {
    let bench = Bench::new(&database).await;
    let batch = bench.submit(1, 1).await;
    for outcome in [Outcome::Postponed(Duration::ZERO), Outcome::Throttled(Duration::ZERO)] {
        let job = bench.start_one().await;
        assert!(is_now(bench.settle(&job, outcome).await, ImageState::Queued));
    }
    // A claim that has not started yet can be put back too.
    let claimed = bench.claim(1).await.pop().unwrap();
    assert!(is_now(bench.settle(&claimed, Outcome::Postponed(Duration::ZERO)).await, ImageState::Queued));
    let image = bench.store.load_image(batch, &UserId::local(), &"s-1".parse().unwrap(), 1).await.unwrap().unwrap();
    assert_eq!((image.attempts, image.billing, image.cost), (0, None, None));
    assert_eq!((bench.money().await, bench.start_one().await.number), ((0, 50_000), 1));
}

async fn an_unknown_outcome_is_charged_at_the_reserve_and_reserved_afresh(database: Arc<Database>) {
    let bench = Bench::with_limit(&database, Some(100_000)).await;
    let batch = bench.submit(1, 1).await;
    let job = bench.start_one().await;
    assert!(is_now(bench.settle(&job, Outcome::Unknown).await, ImageState::Queued));
    assert_eq!(bench.money().await, (50_000, 50_000));
    let again = bench.start_one().await;
    assert_eq!(again.earlier_charged, [(job.claim.attempt, 1)]);
    assert!(is_now(bench.settle(&again, made(&again, 20_000)).await, ImageState::Completed));
    assert_eq!(bench.money().await, (70_000, 0));
    let row = bench.store.load_batch(batch, &UserId::local()).await.unwrap().unwrap();
    assert_eq!((row.actual_cost.micros(), row.unknown_cost.micros()), (70_000, 50_000));
    assert_eq!(bench.budget().await.unknown.micros(), 50_000);
}

async fn an_unknown_outcome_without_room_fails_the_picture(database: Arc<Database>) {
    let bench = Bench::with_limit(&database, Some(50_000)).await;
    let batch = bench.submit(1, 1).await;
    let job = bench.start_one().await;
    assert!(is_now(bench.settle(&job, Outcome::Unknown).await, ImageState::Failed));
    assert_eq!(bench.money().await, (50_000, 0));
    let image = bench.store.load_image(batch, &UserId::local(), &"s-1".parse().unwrap(), 1).await.unwrap().unwrap();
    assert_eq!(image.error.unwrap().code, ErrorCode::BudgetExhausted);
    assert_eq!(image.billing, Some(Billing::Unknown));
}

async fn a_cancel_releases_what_has_not_started(database: Arc<Database>) {
    let bench = Bench::new(&database).await;
    let batch = bench.submit(2, 2).await;
    let claimed = bench.claim(1).await.pop().unwrap();
    let cancel = bench.store.cancel(batch, &UserId::local(), bench.clock.now()).await.unwrap();
    assert!(matches!(cancel, Cancelled::Stopped { pictures: 4, .. }));
    assert_eq!(bench.money().await, (0, 0));
    assert!(!bench.store.start(&[claimed.claim], bench.clock.now()).await.unwrap()[0]);
    assert_eq!(bench.events(batch).await, ["started", "cancelled", "item_complete", "item_complete", "done"]);
    assert_eq!(bench.state(batch).await, BatchState::Cancelled);
    let again = bench.store.cancel(batch, &UserId::local(), bench.clock.now()).await.unwrap();
    assert_eq!(again, Cancelled::AlreadyOver);
    let other = UserId::new("somebody else");
    assert_eq!(bench.store.cancel(batch, &other, bench.clock.now()).await.unwrap(), Cancelled::NotFound);
}

async fn a_call_under_way_ends_after_a_cancel_and_is_not_tried_again(database: Arc<Database>) {
    let bench = Bench::new(&database).await;
    let batch = bench.submit(2, 1).await;
    let (first, second) = (bench.start_one().await, bench.start_one().await);
    let cancel = bench.store.cancel(batch, &UserId::local(), bench.clock.now()).await.unwrap();
    assert!(matches!(cancel, Cancelled::Stopped { pictures: 0, .. }));
    assert_eq!(bench.money().await, (0, 100_000));
    assert!(is_now(bench.settle(&first, failure()).await, ImageState::Cancelled));
    assert!(is_now(bench.settle(&second, made(&second, 30_000)).await, ImageState::Completed));
    assert_eq!(bench.money().await, (30_000, 0));
    assert_eq!(bench.events(batch).await.last(), Some(&"done"));
    assert_eq!(bench.state(batch).await, BatchState::Cancelled);
}

async fn a_dead_workers_claims_go_back_and_its_calls_are_handed_over(database: Arc<Database>) {
    let bench = Bench::new(&database).await;
    bench.submit(3, 1).await;
    let started = bench.start_one().await;
    let claimed = bench.claim(1).await.pop().unwrap();
    let heir = WorkerId::new(bench.ids.next());
    bench.store.beat(bench.worker, 1, bench.clock.now()).await.unwrap();
    bench.store.take_over(bench.worker, heir).await.unwrap();
    assert!(!bench.store.load_beats().await.unwrap().contains_key(&bench.worker));
    let left = bench.store.load_claims(heir).await.unwrap();
    assert_eq!(left.len(), 1);
    assert!(left[0].started && left[0].claim.attempt == started.claim.attempt);
    assert!(left[0].claim.fence > started.claim.fence);
    let again = bench.store.claim(heir, &UserId::local(), 10, bench.clock.now()).await.unwrap();
    assert_eq!(again.len(), 2);
    assert!(!bench.store.start(&[claimed.claim], bench.clock.now()).await.unwrap()[0], "started under a claim it lost");
    for job in &again {
        assert!(bench.store.start(&[job.claim], bench.clock.now()).await.unwrap()[0]);
    }
}

async fn spent_money_starts_at_zero_on_a_new_day_and_reserves_stay(database: Arc<Database>) {
    let bench = Bench::with_limit(&database, Some(150_000)).await;
    bench.submit(2, 1).await;
    let job = bench.start_one().await;
    bench.settle(&job, made(&job, 50_000)).await;
    assert_eq!(bench.money().await, (50_000, 50_000));
    let refused = bench.store.submit(&bench.batch(2, 1), &bench.limits).await.unwrap();
    assert!(matches!(refused, SubmitOutcome::OverBudget { .. }));
    let yesterday = bench.budget().await.day.number() - 1;
    database.execute(&format!("UPDATE budget SET day = {yesterday}")).await;
    assert_eq!(bench.money().await, (0, 50_000));
    bench.submit(2, 1).await;
    let job = bench.start_one().await;
    bench.settle(&job, made(&job, 40_000)).await;
    assert_eq!(bench.money().await, (40_000, 100_000));
    assert_eq!(bench.budget().await.day.number(), yesterday + 1);

    let tomorrow = yesterday + 2;
    database.execute(&format!("UPDATE budget SET day = {tomorrow}")).await;
    let job = bench.start_one().await;
    bench.settle(&job, made(&job, 10_000)).await;
    assert_eq!(bench.budget().await.day.number(), tomorrow, "a day never goes back");
    assert_eq!(bench.money().await.0, 50_000);
}

async fn a_charge_above_its_reserve_is_an_overrun(database: Arc<Database>) {
    let bench = Bench::with_limit(&database, Some(100_000)).await;
    bench.submit(2, 1).await;
    let job = bench.start_one().await;
    assert!(!bench.store.is_overrun(&bench.limits).await.unwrap());
    let settled = bench.settle(&job, made(&job, 60_000)).await;
    assert!(matches!(settled, Settled::Written { overrun: true, .. }), "{settled:?}");
    assert_eq!(bench.money().await, (60_000, 50_000));
    assert!(bench.store.is_overrun(&bench.limits).await.unwrap());
    let raised = Limits { everyone: Some(MicroUsd::from_micros(110_000)), user: None };
    assert!(!bench.store.is_overrun(&raised).await.unwrap());
}

async fn a_lowered_limit_admits_nothing_and_takes_nothing_back(database: Arc<Database>) {
    let mut bench = Bench::with_limit(&database, Some(100_000)).await;
    bench.submit(2, 1).await;
    bench.limits.everyone = Some(MicroUsd::from_micros(10_000));
    let refused = bench.store.submit(&bench.batch(1, 1), &bench.limits).await.unwrap();
    assert!(matches!(refused, SubmitOutcome::OverBudget { .. }));
    assert!(!bench.store.is_overrun(&bench.limits).await.unwrap());
    let job = bench.start_one().await;
    assert!(is_now(bench.settle(&job, made(&job, 50_000)).await, ImageState::Completed));
    assert_eq!(bench.money().await, (50_000, 50_000));
}

async fn lines_get_their_positions_once_and_in_order(database: Arc<Database>) {
    let bench = Bench::new(&database).await;
    bench.submit(3, 1).await;
    for _ in 0..2 {
        let job = bench.start_one().await;
        bench.settle(&job, made(&job, 50_000)).await;
    }
    let day = bench.budget().await.day;
    let chunk = bench.store.pending_chunk(day).await.unwrap().unwrap();
    assert_eq!((chunk.from, chunk.to), (1, 2));
    let job = bench.start_one().await;
    bench.settle(&job, made(&job, 50_000)).await;
    assert_eq!(bench.store.pending_chunk(day).await.unwrap().as_ref(), Some(&chunk), "what is pending stays so");
    assert!(bench.store.confirm_chunk(day, &chunk).await.unwrap());
    assert!(!bench.store.confirm_chunk(day, &chunk).await.unwrap());
    let next = bench.store.pending_chunk(day).await.unwrap().unwrap();
    assert_eq!((next.from, next.to), (3, 3));
    assert!(bench.store.confirm_chunk(day, &next).await.unwrap());
    assert_eq!(bench.store.pending_chunk(day).await.unwrap(), None);
    assert!(bench.store.unexported_days().await.unwrap().is_empty());
}

async fn what_waits_is_counted_by_state_with_the_time_of_the_oldest(database: Arc<Database>) {
    let clock = Arc::new(FixedClock::at(system_clock().now()));
    let bench = Bench::on_clock(&database, clock.clone()).await;
    assert_eq!(bench.store.load_queue().await.unwrap(), Queue::default());
    let first = clock.now();
    bench.submit(2, 1).await;
    clock.advance(Duration::from_secs(90));
    bench.submit(3, 1).await;
    let waiting = Queue { queued: 5, claimed: 0, running: 0, first_due: Some(first) };
    assert_eq!(bench.store.load_queue().await.unwrap(), waiting);

    let mut jobs = bench.claim(2).await;
    let (running, claimed) = (jobs.pop().unwrap(), jobs.pop().unwrap());
    assert!(bench.store.start(&[running.claim], clock.now()).await.unwrap()[0]);
    let queue = bench.store.load_queue().await.unwrap();
    assert_eq!((queue.queued, queue.claimed, queue.running), (3, 1, 1));

    bench.settle(&running, made(&running, 30_000)).await;
    assert!(bench.store.start(&[claimed.claim], clock.now()).await.unwrap()[0]);
    // It failed and waits to be tried again, which is not due yet.
    bench.settle(&claimed, failure()).await;
    let queue = bench.store.load_queue().await.unwrap();
    assert_eq!((queue.queued, queue.claimed, queue.running), (4, 0, 0));
}

async fn a_picture_that_is_tried_again_waits_since_then(database: Arc<Database>) {
    let clock = Arc::new(FixedClock::at(system_clock().now()));
    let bench = Bench::on_clock(&database, clock.clone()).await;
    let batch = bench.submit(1, 1).await;
    let waits_since = async || bench.store.load_queue().await.unwrap().first_due;
    let (mut job, mut put_off) = (bench.start_one().await, 0);
    // A transient failure puts it off for a while; it waits since that is over.
    while is_now(bench.settle(&job, failure()).await, ImageState::Queued) {
        put_off += 1;
        let due = waits_since().await.unwrap();
        assert!(due >= clock.now() && due <= clock.now().after(Duration::from_mins(5)), "{due}");
        clock.advance(Duration::from_mins(10));
        job = bench.start_one().await;
    }
    assert!(put_off > 0);
    assert_eq!(waits_since().await, None);

    clock.advance(Duration::from_hours(30));
    let image = job.claim.image;
    let attempt = FreshAttempt { image, id: AttemptId::new(bench.ids.next()), reserve: RESERVE };
    let retry = NewRetry {
        batch,
        owner: UserId::local(),
        attempts: vec![attempt],
        user_limit: None,
        idempotency: None,
        forget_keys_before: Timestamp::from_millis(0),
        at: clock.now(),
    };
    assert_eq!(bench.store.retry(&retry, &bench.limits).await.unwrap(), RetryOutcome::Accepted(1));
    assert_eq!(waits_since().await, Some(clock.now()));
}

async fn a_charge_is_on_its_way_until_the_ledger_has_it(database: Arc<Database>) {
    let clock = Arc::new(FixedClock::at(system_clock().now()));
    let bench = Bench::on_clock(&database, clock.clone()).await;
    assert_eq!(bench.store.load_unexported().await.unwrap(), Unexported::default());
    bench.submit(2, 1).await;
    let charge = async || {
        let job = bench.start_one().await;
        bench.settle(&job, made(&job, 50_000)).await;
        clock.now()
    };
    let first = charge().await;
    assert_eq!(bench.store.load_unexported().await.unwrap(), Unexported { lines: 1, first: Some(first) });
    let day = bench.budget().await.day;
    let chunk = bench.store.pending_chunk(day).await.unwrap().unwrap();
    clock.advance(Duration::from_secs(5));
    let second = charge().await;
    // The first has a position, and is in no object yet.
    assert_eq!(bench.store.load_unexported().await.unwrap(), Unexported { lines: 2, first: Some(first) });
    assert!(bench.store.confirm_chunk(day, &chunk).await.unwrap());
    assert_eq!(bench.store.load_unexported().await.unwrap(), Unexported { lines: 1, first: Some(second) });
    let chunk = bench.store.pending_chunk(day).await.unwrap().unwrap();
    assert!(bench.store.confirm_chunk(day, &chunk).await.unwrap());
    assert_eq!(bench.store.load_unexported().await.unwrap(), Unexported::default());
}

async fn a_database_behind_its_ledger_takes_the_charges_in(database: Arc<Database>) {
    let bench = Bench::new(&database).await;
    bench.submit(2, 1).await;
    for _ in 0..2 {
        let job = bench.start_one().await;
        bench.settle(&job, made(&job, 50_000)).await;
    }
    let day = bench.budget().await.day;
    let lines = bench.store.load_charges(day).await.unwrap();
    database.execute("DELETE FROM ledger; DELETE FROM ledger_days; UPDATE budget SET spent = 0").await;
    assert_eq!(bench.store.import_lines(day, &lines, 1, DayState::Settled(0), &bench.ids).await.unwrap(), Some(2));
    assert_eq!(bench.money().await.0, 100_000);
    assert_eq!(bench.store.import_lines(day, &lines, 1, DayState::Settled(1), &bench.ids).await.unwrap(), Some(0));
    assert_eq!(bench.money().await.0, 100_000);
    assert_eq!(bench.store.load_charges(day).await.unwrap(), lines);
    // The second line was in no day's object yet: it is what is exported next.
    let pending = bench.store.pending_chunk(day).await.unwrap().unwrap();
    assert_eq!((pending.from, pending.to), (2, 2));
    assert_eq!(bench.store.settled_count(day).await.unwrap(), None);
}

async fn a_line_of_the_ledger_that_is_read_twice_keeps_its_first_position(database: Arc<Database>) {
    let bench = Bench::new(&database).await;
    bench.submit(1, 1).await;
    let job = bench.start_one().await;
    bench.settle(&job, made(&job, 50_000)).await;
    let day = bench.budget().await.day;
    let line = bench.store.load_charges(day).await.unwrap().remove(0);
    // It is in the day's object, and behind it in the chunk of another exporter that came too late.
    bench.store.import_lines(day, &[line.clone(), line], 1, DayState::Settled(0), &bench.ids).await.unwrap().unwrap();
    assert_eq!(bench.store.pending_chunk(day).await.unwrap(), None, "it would be exported twice");
}

async fn event_numbers_have_no_hole_under_concurrent_settles(database: Arc<Database>) {
    let bench = Arc::new(Bench::new(&database).await);
    let batch = bench.submit(20, 2).await;
    let jobs = bench.claim(40).await;
    let mut settles = tokio::task::JoinSet::new();
    for job in jobs {
        let bench = bench.clone();
        settles.spawn(async move {
            assert!(bench.store.start(&[job.claim], bench.clock.now()).await.unwrap()[0]);
            bench.settle(&job, made(&job, 50_000)).await
        });
    }
    assert!(settles.join_all().await.into_iter().all(|settled| is_now(settled, ImageState::Completed)));
    let events = bench.events(batch).await;
    assert_eq!(events.len(), 1 + 40 + 20 + 1);
    assert_eq!(events.iter().filter(|kind| **kind == "done").count(), 1);
    assert_eq!(bench.money().await, (40 * 50_000, 0));
    let last = bench.store.load_events(batch, 61, 10).await.unwrap().pop().unwrap();
    assert!(matches!(last.event, Event::Done { processed: 40, state: BatchState::Completed, .. }), "{last:?}");
}

async fn a_group_of_ends_is_written_together_and_each_gets_its_own_answer(database: Arc<Database>) {
    let bench = Bench::new(&database).await;
    let (first, second) = (bench.submit(1, 2).await, bench.submit(1, 1).await);
    let mut jobs = bench.claim(3).await;
    for job in &jobs {
        assert!(bench.store.start(&[job.claim], bench.clock.now()).await.unwrap()[0]);
    }
    jobs[1].claim.fence -= 1;
    let ends: Vec<_> = jobs.iter().map(|job| (job, made(job, 50_000))).collect();
    let settled = bench.settle_all(&ends).await.unwrap();
    let lost: Vec<bool> = settled.iter().map(|settled| *settled == Settled::ClaimLost).collect();
    assert_eq!(lost, [false, true, false]);
    assert_eq!(bench.money().await, (100_000, 50_000));
    let ended = [bench.state(first).await, bench.state(second).await];
    assert_eq!(ended.iter().filter(|state| **state == BatchState::Completed).count(), 1, "{ended:?}");
}

/// Random submits, starts, ends, cancels and take-overs; after each step the books must agree.
async fn the_books_agree_after_any_sequence_of_events(database: Arc<Database>) {
    let seed = rand::random::<u64>();
    eprintln!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let limit = 1_000_000;
    let mut bench = Bench::with_limit(&database, Some(limit)).await;
    let (mut batches, mut started, mut spent_before) = (Vec::new(), Vec::new(), 0);
    for step in 0..150 {
        match random.random_range(0..10) {
            0..2 => {
                let batch = bench.batch(random.random_range(1..4), random.random_range(1..3));
                if bench.store.submit(&batch, &bench.limits).await.unwrap() == SubmitOutcome::Accepted {
                    batches.push(batch.id);
                }
            }
            2..5 => {
                for job in bench.claim(2).await {
                    if bench.store.start(&[job.claim], bench.clock.now()).await.unwrap()[0] {
                        started.push(job);
                    }
                }
            }
            5..8 if !started.is_empty() => {
                let job = started.swap_remove(random.random_range(0..started.len()));
                let outcome = match random.random_range(0..7) {
                    0 => failure(),
                    1 => Outcome::Unknown,
                    2 => Outcome::Interrupted,
                    3 => Outcome::Throttled(Duration::ZERO),
                    4 => Outcome::Refused(ImageError::lasting(ErrorCode::SafetyBlocked, "no")),
                    _ => made(&job, random.random_range(0..=50_000)),
                };
                bench.settle(&job, outcome).await;
            }
            8 if !batches.is_empty() => {
                let batch = batches[random.random_range(0..batches.len())];
                bench.store.cancel(batch, &UserId::local(), bench.clock.now()).await.unwrap();
            }
            9 => {
                // The worker dies: its successor takes over, and what the dead one still sends is too late.
                let heir = WorkerId::new(bench.ids.next());
                bench.store.take_over(bench.worker, heir).await.unwrap();
                bench.worker = heir;
                for late in std::mem::take(&mut started) {
                    assert_eq!(bench.settle(&late, made(&late, 50_000)).await, Settled::ClaimLost);
                }
                started = bench.store.load_claims(heir).await.unwrap();
            }
            _ => {}
        }
        let (spent, reserved) = bench.money().await;
        assert!(spent + reserved <= limit && spent >= spent_before, "step {step}: {spent} + {reserved}");
        spent_before = spent;
        let held = "SELECT CAST(COALESCE(SUM(reserved), 0) AS BIGINT) FROM attempts WHERE state IN ('held', 'started')";
        assert_eq!(database.number(held).await, reserved, "step {step}");
        let charged = bench.store.load_charges(bench.budget().await.day).await.unwrap();
        assert_eq!(charged.iter().map(|line| line.cost.micros()).sum::<i64>(), spent, "step {step}");
        let actual = "SELECT CAST(COALESCE(SUM(actual_cost), 0) AS BIGINT) FROM batches";
        assert_eq!(database.number(actual).await, spent, "step {step}");
        let astray = "SELECT COUNT(*) FROM images m WHERE
            (SELECT COUNT(*) FROM attempts a WHERE a.batch_id = m.batch_id AND a.ordinal = m.ordinal
               AND a.variant = m.variant AND a.state IN ('held', 'started'))
            <> CASE WHEN m.state IN ('completed', 'failed', 'cancelled') THEN 0 ELSE 1 END";
        assert_eq!(database.number(astray).await, 0, "step {step}: a picture without its one open attempt");
    }
    for batch in batches {
        let row = bench.store.load_batch(batch, &UserId::local()).await.unwrap().unwrap();
        let events = bench.events(batch).await;
        assert_eq!(events.len() as u64, row.last_event);
        assert_eq!(events.contains(&"done"), row.counts.is_finished(), "{events:?}");
    }
}

#[tokio::test]
async fn an_embedded_database_is_for_one_process() {
    crate::engines::on_sqlite(|database| async move {
        let _first = database.open(system_clock()).await;
        let second = Store::open(&database.url, system_clock()).await;
        assert!(second.err().unwrap().to_string().contains("another orchestrator"));
    })
    .await;
}

/// A full disk makes SQLite end a transaction by itself; the next one must find a usable connection.
#[tokio::test]
async fn an_embedded_database_works_again_after_it_ended_a_transaction_by_itself() {
    crate::engines::on_sqlite(|database| async move {
        let bench = Bench::new(&database).await;
        let trap = "CREATE TRIGGER full AFTER INSERT ON events BEGIN SELECT RAISE(ROLLBACK, 'disk full'); END";
        database.execute(trap).await;
        assert!(bench.store.submit(&bench.batch(1, 1), &bench.limits).await.is_err());
        database.execute("DROP TRIGGER full").await;
        bench.submit(1, 1).await;
        assert_eq!(bench.money().await, (0, 50_000));
    })
    .await;
}

#[tokio::test]
async fn an_embedded_databases_day_is_the_injected_clocks() {
    crate::engines::on_sqlite(|database| async move {
        let clock = Arc::new(FixedClock::at(Timestamp::from_millis(1_700_000_000_000)));
        let store = database.open(clock.clone()).await;
        let first = store.load_budget(EVERYONE).await.unwrap().day;
        clock.advance(Duration::from_hours(24));
        assert_eq!(store.load_budget(EVERYONE).await.unwrap().day.number(), first.number() + 1);
    })
    .await;
}
