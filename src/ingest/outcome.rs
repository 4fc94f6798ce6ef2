//! How requests ended, now that the archive has been looked at.

use std::ops::Range;

use crate::snapshot::{Outcome, Poll};

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
    // What came and is no row is in the quarantine.
    poll.rows = u32::try_from(fresh.iter().flatten().count()).unwrap_or(u32::MAX);
    poll
}
