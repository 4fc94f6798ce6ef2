//! What a publish brought into the archive, and why something is not there yet.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::archive::{ArchiveError, PublishedDay, Staged};
use crate::snapshot::Origin;

use super::batch::Divided;

/// What a publish brought into the archive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Published {
    /// Device states that are new to the archive.
    pub states_new: u64,
    /// Device states that the archive had already.
    pub states_known: u64,
    /// Device states without a time that can be read: they are filed under the day on which they were received, and no
    /// question about a time finds them.
    pub states_timeless: u64,
    /// Where the first of these came from.
    pub first_timeless: Option<Origin>,
    /// Bodies that are no device state; they are in the quarantine.
    pub quarantined: u64,
    /// Where the first of these came from, and why it is none.
    pub first_quarantined: Option<(Option<Origin>, String)>,
    /// Stretches of the journal that could not be read; they are in the quarantine.
    pub gaps: u64,
    /// Values that no column could hold, by path without list positions.
    pub drift: BTreeMap<String, u64>,
    /// Bytes of the parts that were written.
    pub bytes: u64,
    /// Rows in the parts that were written.
    pub rows: u64,
    /// Parts that were found damaged and are kept in the quarantine, a sentence each.
    pub damaged: Vec<String>,
    /// Why something is still in the journal, or in a file that was changed meanwhile, a sentence each.
    pub held: Vec<Held>,
    /// Whether some of it is held because the object store gives no answer, or lets nothing be done. Then nothing more of
    /// the journal was tried.
    pub is_away: bool,
}

/// Why something is not published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Held {
    said: String,
    /// Whether the next publish tries again, and says anew what it finds.
    #[serde(skip)]
    pub(super) is_tried_again: bool,
}

impl Held {
    /// What no publish will try again.
    pub(super) fn new(said: &dyn fmt::Display) -> Self {
        Self { said: said.to_string(), is_tried_again: false }
    }

    /// What the next publish tries again.
    pub(super) fn until_next(said: &dyn fmt::Display) -> Self {
        Self { said: said.to_string(), is_tried_again: true }
    }
}

impl fmt::Display for Held {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str(&self.said)
    }
}

/// Said of what had to be held.
const STAYS: &str = "what it concerns stays in the journal, and the next publish tries again";

impl Published {
    /// Whether something is not as it should be: damage was found, or bodies could not be filed.
    #[must_use]
    pub fn has_findings(&self) -> bool {
        self.quarantined > 0 || self.gaps > 0 || !self.damaged.is_empty()
    }

    /// Notes why something stays in the journal.
    pub(super) fn hold(&mut self, error: &dyn fmt::Display) {
        self.held.push(Held::until_next(&format!("{error}; {STAYS}")));
    }

    /// Publishes a day; says of each row whether it is new.
    pub(super) fn take(&mut self, staged: Staged) -> Result<Vec<bool>, ArchiveError> {
        let PublishedDay { info, fresh, damage } = staged.publish()?;
        self.damaged.extend(damage);
        self.bytes += info.bytes;
        self.rows += info.rows;
        Ok(fresh)
    }

    pub(super) fn count_states(&mut self, fresh: &[bool]) {
        let new = fresh.iter().filter(|new| **new).count() as u64;
        self.states_new += new;
        self.states_known += fresh.len() as u64 - new;
    }

    pub(super) fn count_quarantined(&mut self, filed: &Divided) {
        self.quarantined += filed.quarantined();
        self.first_quarantined = self.first_quarantined.take().or_else(|| filed.first_no_state());
    }

    pub(super) fn count(&mut self, filed: &Divided) {
        self.count_quarantined(filed);
        for origin in filed.timeless() {
            self.states_timeless += 1;
            self.first_timeless = self.first_timeless.take().or_else(|| origin.cloned());
        }
        self.gaps += filed.gaps.len() as u64;
        for (path, count) in filed.drift() {
            *self.drift.entry(path).or_default() += count;
        }
    }
}
