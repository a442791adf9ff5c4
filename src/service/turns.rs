//! Whose picture is taken up next: the users that wait take turns, a picture each.
//!
//! Start-time fair queueing: a user's tag grows by one with each picture, the lowest tag is next, and
//! who comes anew begins where the others are. So a user with many batches gets no more than one with
//! a single batch, and who waited for nothing has saved up nothing.

use std::collections::BTreeMap;

use crate::domain::ids::UserId;

/// How far each user has come.
#[derive(Debug, Default)]
pub(super) struct Turns {
    tags: BTreeMap<UserId, u64>,
    /// The tag of the picture that was taken up last.
    now: u64,
}

impl Turns {
    /// How many of `count` pictures each user that waits may have now.
    pub(super) fn plan(&mut self, waiting: &[UserId], count: u32) -> BTreeMap<UserId, u32> {
        let now = self.now;
        self.tags.retain(|user, tag| *tag > now || waiting.contains(user));
        for user in waiting {
            self.tags.entry(user.clone()).or_insert(now);
        }
        let mut tags: Vec<(u64, &UserId)> = waiting.iter().map(|user| (self.tags[user], user)).collect();
        let mut plan = BTreeMap::new();
        for _ in 0..count {
            let Some(next) = tags.iter_mut().min() else { break };
            *plan.entry(next.1.clone()).or_insert(0) += 1;
            next.0 += 1;
        }
        plan
    }

    /// Records that `taken` of the `planned` pictures of `user` were taken up.
    pub(super) fn took(&mut self, user: &UserId, planned: u32, taken: u32) {
        let tag = self.tags.entry(user.clone()).or_insert(self.now);
        *tag += u64::from(taken);
        if taken > 0 {
            self.now = self.now.max(*tag - 1);
        }
        if taken < planned {
            // Nothing more of it is due: it does not save up turns meanwhile.
            *tag = self.now.max(*tag);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users<const N: usize>(names: [&str; N]) -> [UserId; N] {
        names.map(UserId::new)
    }

    /// Takes up `count` pictures, `at_once` at a time; what each user got.
    fn serve(turns: &mut Turns, waiting: &[UserId], count: u32, at_once: u32) -> BTreeMap<UserId, u32> {
        let mut got = BTreeMap::new();
        for _ in 0..count / at_once {
            for (user, share) in turns.plan(waiting, at_once) {
                turns.took(&user, share, share);
                *got.entry(user).or_insert(0) += share;
            }
        }
        got
    }

    #[test]
    fn users_share_evenly_however_many_are_taken_up_at_once() {
        for at_once in [1, 4, 20] {
            let waiting = users(["ann", "bob", "cid"]);
            let got = serve(&mut Turns::default(), &waiting, 300, at_once);
            assert!(got.values().all(|got| (98..=102).contains(got)), "{at_once} at once: {got:?}");
        }
    }

    #[test]
    fn who_comes_late_begins_where_the_others_are() {
        let (mut turns, [ann, bob]) = (Turns::default(), users(["ann", "bob"]));
        serve(&mut turns, std::slice::from_ref(&ann), 1_000, 1);
        let got = serve(&mut turns, &[ann.clone(), bob.clone()], 100, 1);
        assert!((49..=51).contains(&got[&bob]), "{got:?}");
    }

    #[test]
    fn who_had_nothing_due_has_saved_up_nothing() {
        let (mut turns, [ann, bob]) = (Turns::default(), users(["ann", "bob"]));
        let waiting = [ann.clone(), bob.clone()];
        for _ in 0..100 {
            for (user, share) in turns.plan(&waiting, 2) {
                turns.took(&user, share, if user == bob { 0 } else { share });
            }
        }
        let got = serve(&mut turns, &waiting, 100, 1);
        assert!((49..=51).contains(&got[&ann]), "{got:?}");
    }
}
