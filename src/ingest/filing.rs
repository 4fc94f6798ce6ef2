//! How a batch gets into the archive: its days are staged, what is no row goes to the quarantine, the states become live
//! and then the polls. What cannot be filed is told in [`Published::held`]; whether it is tried again is not decided here.

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::archive::{ArchiveError, Incoming, ShardLock, Spot, Staged, Supply};
use crate::schema::Schema;
use crate::snapshot::Poll;

use super::batch::{Divided, poll_columns};
use super::published::Published;
use super::{Ingest, IngestError, outcome};

/// Days that are about to be published.
#[derive(Debug, Default)]
pub(super) struct StagedDays {
    days: Vec<(Spot, Staged)>,
    failed: Vec<ArchiveError>,
    /// Whether nothing more was tried, for nothing can be asked.
    is_away: bool,
    /// For each body: whether its key is new; none where it is no row.
    fresh: Vec<Option<bool>>,
    /// Locks of shards that are not the writer's, held until all is published.
    borrowed: Vec<ShardLock>,
}

/// Said where a body was neither filed nor found to be none, which is a fault of the program's own: it stays where it is.
const UNREAD: &str = "some of the bodies of a day became neither rows nor findings: please report this";

impl StagedDays {
    fn fail(&mut self, ingest: &Ingest, error: ArchiveError) {
        self.is_away = ingest.is_away(&error);
        self.failed.push(error);
    }
}

impl Ingest {
    /// Stages the parts that a batch's bodies belong to; none where a file of others was changed meanwhile, of which
    /// nobody knows what it is.
    pub(super) fn stage(&self, divided: &mut Divided) -> Option<StagedDays> {
        let mut staged = self.stage_states(divided);
        if divided.is_changed() {
            return None;
        }
        divided.take_no_states();
        divided.no_states.keys().for_each(|&at| staged.fresh[at as usize] = None);
        Some(staged)
    }

    /// Files a batch whose days are staged. The polls become live after the states, and only those of which all are live
    /// ([`Divided::told`]). Should the process end between the two, the polls take for known what was new. `shard` is the
    /// journal's.
    pub(super) fn file(
        &self,
        shard: u32,
        mut states: StagedDays,
        filed: &mut Divided,
        published: &mut Published,
    ) -> Result<(), IngestError> {
        let held_before = published.held.len();
        self.set_aside(shard, filed)?;
        let polls = outcome::settle(&filed.polls, &states.fresh);
        if self.publish_states(&mut states, filed, published).is_break() {
            return Ok(());
        }
        self.publish_polls(shard, &filed.told(polls, &states.fresh), &mut states.borrowed, published)?;
        // What is held comes again, and is counted then.
        if published.held.len() == held_before {
            published.count(filed);
        }
        Ok(())
    }

    /// Keeps in the quarantine what of a batch is no row.
    fn set_aside(&self, shard: u32, filed: &mut Divided) -> Result<(), IngestError> {
        for aside in filed.gaps.iter().cloned().map(Ok).chain(filed.asides()) {
            self.archive.quarantine(shard, &aside?)?;
        }
        filed.is_quarantined = true;
        Ok(())
    }

    /// Publishes the days that were staged, and holds the others. Where the object store is away, none that follows, nor
    /// the polls.
    fn publish_states(
        &self,
        states: &mut StagedDays,
        filed: &mut Divided,
        published: &mut Published,
    ) -> ControlFlow<()> {
        states.failed.iter().for_each(|error| published.hold(error));
        let mut is_away = states.is_away;
        for (part, staged) in states.days.drain(..) {
            if is_away {
                break;
            }
            // Of what seemed to be states of a day, none was one.
            if staged.is_empty() {
                filed.note_live(part);
                continue;
            }
            match published.take(staged) {
                Ok(fresh) => {
                    published.count_states(&fresh);
                    filed.note_live(part);
                }
                Err(error) => {
                    is_away = self.is_away(&error);
                    published.hold(&error);
                }
            }
        }
        published.is_away |= is_away;
        if is_away { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn publish_polls(
        &self,
        shard: u32,
        polls: &[Poll],
        borrowed: &mut Vec<ShardLock>,
        published: &mut Published,
    ) -> Result<(), IngestError> {
        let staged = self.stage_polls(shard, polls, borrowed);
        for error in staged.failed {
            match error {
                // Another collector has that shard: what is ours does not wait for it.
                ArchiveError::Locked { .. } => published.hold(&error),
                error => return Err(error.into()),
            }
        }
        for (_, staged) in staged.days {
            published.take(staged)?;
        }
        Ok(())
    }

    fn stage_states(&self, divided: &Divided) -> StagedDays {
        // Of a day that cannot be staged nobody knows what is new; it will be when it can.
        let mut staged = StagedDays { fresh: vec![Some(true); divided.len()], ..StagedDays::default() };
        for (part, rows) in &divided.parts {
            if staged.is_away {
                // Each would wait as long, for the same answer.
                rows.in_order().for_each(drop);
                continue;
            }
            let supply = Arc::clone(rows) as Arc<dyn Supply>;
            match self.stage_part(*part, self.plans.states.schema(), supply, &mut staged.borrowed) {
                Ok(_) if !rows.is_all_found() => staged.failed.push(ArchiveError::Incoming(UNREAD.into())),
                Ok(day) => {
                    let found = rows.found();
                    found.rows.iter().zip(&day.fresh).for_each(|(&at, &new)| staged.fresh[at as usize] = Some(new));
                    staged.days.push((*part, day));
                }
                Err(error) => {
                    staged.fail(self, error);
                    // What is no device state among them is found all the same.
                    rows.in_order().for_each(drop);
                }
            }
        }
        staged
    }

    /// Stages the parts that polls belong to. Those of no device are the journal's shard's: they are filed there again,
    /// should they come again.
    fn stage_polls(&self, journal_shard: u32, polls: &[Poll], borrowed: &mut Vec<ShardLock>) -> StagedDays {
        let mut staged = StagedDays::default();
        let (schema, shards) = (self.plans.polls.schema(), self.archive.shards());
        let rows = poll_columns(&self.plans.polls, polls).finish();
        for (part, incoming) in Incoming::by_part(schema, rows, shards, journal_shard % shards) {
            if staged.is_away {
                break;
            }
            match self.stage_part(part, schema, Arc::new(incoming), borrowed) {
                Ok(day) => staged.days.push((part, day)),
                Err(error) => staged.fail(self, error),
            }
        }
        staged
    }

    /// Whether an error means that the place cannot be asked at all, and not only for what it is about.
    fn is_away(&self, error: &ArchiveError) -> bool {
        error.is_away() && self.archive.check_shards().is_err_and(|error| error.is_away())
    }

    fn stage_part(
        &self,
        Spot { shard, date }: Spot,
        schema: &Arc<Schema>,
        rows: Arc<dyn Supply>,
        borrowed: &mut Vec<ShardLock>,
    ) -> Result<Staged, ArchiveError> {
        let has = |lock: &&ShardLock| lock.shard == shard;
        if let Some(lock) = self.locks.iter().chain(borrowed.iter()).find(has) {
            return self.archive.stage_all(lock, schema, date, rows);
        }
        // The journal was written by one that had more shards than this one.
        let lock = self.archive.lock(shard, &self.holder)?;
        let staged = self.archive.stage_all(&lock, schema, date, rows);
        borrowed.push(lock);
        staged
    }
}
