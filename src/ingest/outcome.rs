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
    // Those of other collectors' shards, which are not here, count as well.
    let quarantined = fresh.iter().filter(|fresh| fresh.is_none()).count();
    poll.rows = poll.rows.saturating_sub(u32::try_from(quarantined).unwrap_or(u32::MAX));
    poll
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::Endpoint;

    #[test]
    fn what_went_to_the_quarantine_is_no_row_of_a_page_and_what_is_anothers_is_one() {
        let settled = |outcome, rows, fresh: &[Option<bool>]| {
            let poll = settle_one(Poll { outcome, rows, ..Poll::example(Endpoint::List) }, fresh);
            (poll.outcome, poll.rows)
        };
        assert_eq!(settled(Outcome::State, 5, &[Some(true), None]), (Outcome::State, 4));
        assert_eq!(settled(Outcome::State, 5, &[]), (Outcome::Failed, 5));
        assert_eq!(settled(Outcome::State, 2, &[None, None]), (Outcome::Failed, 0));
        assert_eq!(settled(Outcome::State, 1, &[Some(false)]), (Outcome::Unchanged, 1));
        assert_eq!(settled(Outcome::Failed, 3, &[Some(true), None, None]), (Outcome::Failed, 1));
    }
}
