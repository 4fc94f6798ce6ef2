//! How requests ended, now that the archive has been looked at.

use std::ops::Range;

use crate::snapshot::{Outcome, Poll};

use super::PollCounts;

/// Settles each poll: `fresh` says of each body whether its key was new to the archive; none where it is no row.
pub(super) fn settle(polls: &[(Poll, Range<usize>)], fresh: &[Option<bool>]) -> Vec<Poll> {
    polls.iter().map(|(poll, bodies)| settle_one(poll.clone(), &fresh[bodies.clone()])).collect()
}

fn settle_one(mut poll: Poll, fresh: &[Option<bool>]) -> Poll {
    if poll.outcome == Outcome::State {
        poll.outcome = match fresh.iter().flatten().max() {
            None => Outcome::Failed,
            Some(true) => Outcome::State,
            Some(false) => Outcome::Unchanged,
        };
        if poll.outcome == Outcome::Failed {
            poll.error = Some("the answer holds no device state; it is in the quarantine".to_owned());
        }
    }
    poll
}

impl PollCounts {
    pub(super) fn of(polls: &[Poll]) -> Self {
        let count = |outcome| polls.iter().filter(|poll| poll.outcome == outcome).count() as u64;
        let [state, unchanged, absent, failed] =
            [Outcome::State, Outcome::Unchanged, Outcome::Absent, Outcome::Failed].map(count);
        Self { state, unchanged, absent, failed }
    }

    pub(super) fn add(&mut self, other: Self) {
        self.state += other.state;
        self.unchanged += other.unchanged;
        self.absent += other.absent;
        self.failed += other.failed;
    }
}
