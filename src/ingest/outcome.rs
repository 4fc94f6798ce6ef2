//! How requests ended, now that the archive has been looked at.

use std::ops::Range;

use crate::snapshot::{Outcome, Poll};

use super::PollCounts;

/// Settles each poll: `fresh` says of each row whether its key was new to the archive.
pub(super) fn settle(polls: &[(Poll, Range<usize>)], fresh: &[bool]) -> Vec<Poll> {
    polls.iter().map(|(poll, rows)| settle_one(poll.clone(), &fresh[rows.clone()])).collect()
}

fn settle_one(mut poll: Poll, fresh: &[bool]) -> Poll {
    if poll.outcome == Outcome::State {
        poll.outcome = match fresh {
            [] => Outcome::Failed,
            rows if rows.contains(&true) => Outcome::State,
            _ => Outcome::Unchanged,
        };
        if fresh.is_empty() {
            poll.error = Some("the answer holds no device state; it is in the quarantine".to_owned());
        }
    }
    poll
}

impl PollCounts {
    pub(super) fn count(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::State => self.state += 1,
            Outcome::Unchanged => self.unchanged += 1,
            Outcome::Absent => self.absent += 1,
            Outcome::Failed => self.failed += 1,
        }
    }
}
