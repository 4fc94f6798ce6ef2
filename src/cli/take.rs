//! Taking an archive for writing: found or made, its locks taken, and what an earlier process left in its journal told.
//!
//! What is written then is the commands' business.

use std::time::Duration;

use crate::archive::{Archive, ArchiveError, Place, ShardLock, Shards};
use crate::clock::{self, Clock};
use crate::collect::CollectOptions;
use crate::config::ConfigError;
use crate::disk::{Access, Disk};
use crate::ingest::{Ingest, Published};
use crate::privacy::Policy;

use super::{Exit, print, summary};

/// The longest that is waited for the archive's description, where a sweep can do without it.
pub(super) const ASKING: Duration = Duration::from_secs(5);

/// An archive that is there.
pub(super) struct Found {
    pub(super) archive: Archive,
    /// Why its bucket cannot be asked just now.
    pub(super) away: Option<ArchiveError>,
}

/// Opens the archive, if there is one. What Cloudflare has to say now does not wait for a bucket: where that gives no
/// answer in a few seconds, the archive is opened with the number of shards that the caller names or this machine remembers.
pub(super) async fn find(place: &Place, shards: Option<u32>, access: Access) -> anyhow::Result<Option<Found>> {
    let disk = Disk::new(access);
    let known = Archive::recall(place, shards, disk.clone())?;
    let longest = if known.is_some() { ASKING } else { Duration::MAX };
    let asked = place.clone();
    // A second signal ends it meanwhile.
    let asking = tokio::task::spawn_blocking(move || Archive::open(&asked));
    let opened = match tokio::time::timeout(longest, asking).await {
        Ok(opened) => opened?,
        Err(_) => Err(ArchiveError::Slow { path: place.root().to_owned(), waited: longest }),
    };
    match (opened, known) {
        (Ok(archive), _) => Ok(Some(Found { archive: archive.on(disk), away: None })),
        (Err(ArchiveError::Absent(_)), _) => Ok(None),
        (Err(error), Some(archive)) if error.is_away() => Ok(Some(Found { archive, away: Some(error) })),
        (Err(error), _) => Err(error.into()),
    }
}

/// What a collector takes of which archive.
pub(super) struct Taken<'a> {
    pub(super) place: &'a Place,
    pub(super) shards: Shards,
    /// How many shards there are, as far as somebody said so.
    pub(super) count: Option<u32>,
    pub(super) disk: Disk,
    pub(super) policy: Policy,
}

impl Taken<'_> {
    /// Takes an archive that was found, or makes one, and publishes what an earlier process left in its journal, if that is
    /// due; says how that went.
    pub(super) async fn begin(
        self,
        found: Option<Found>,
        options: &CollectOptions,
        clock: &Clock,
    ) -> anyhow::Result<(Ingest, Exit)> {
        let Self { place, shards, count, disk, policy } = self;
        let (archive, away) = match found {
            Some(found) => (found.archive, found.away),
            // Who names a shard and not how many there are means an archive that is there.
            None if shards != Shards::All && count.is_none() => {
                return Err(ConfigError::NoShards(place.root().to_owned()).into());
            }
            None => (Archive::open_or_create(place, count.unwrap_or(1), clock.now(), disk)?, None),
        };
        if let Some(count) = count.filter(|count| *count != archive.shards()) {
            return Err(ConfigError::ShardCount { said: count, found: archive.shards() }.into());
        }
        let ingest = Ingest::attach(archive, shards, &holder(clock, "collect"), policy)?;
        match away {
            // A new key could not be noted.
            Some(error) if !ingest.is_key_known()? => Err(error.into()),
            Some(error) => {
                let waits_in = place.state_dir().display();
                print::warning(&format_args!("{error}; what is received waits in {waits_in}"));
                Ok((ingest, Exit::Done))
            }
            None => recover(ingest, options, clock.clone()).await,
        }
    }
}

/// Publishes what an earlier process left, which may take long: a second signal ends it meanwhile, and whoever watches is
/// told that it goes on.
async fn recover(mut ingest: Ingest, options: &CollectOptions, clock: Clock) -> anyhow::Result<(Ingest, Exit)> {
    let (rule, next) = (options.publish, options.interval);
    let recovering = tokio::task::spawn_blocking(move || {
        heed_pseudonyms(&ingest, &clock)?;
        let recovered = ingest.publish_if_due(rule, clock.now(), next)?;
        anyhow::Ok((ingest, recovered))
    });
    let (ingest, recovered) = recovering.await??;
    Ok((ingest, recovered.as_ref().map_or(Exit::Done, note_recovered)))
}

/// Opens the archive for writing, or makes it.
pub(super) fn open(
    place: &Place,
    clock: &Clock,
    what: &str,
    access: Access,
    policy: Policy,
) -> anyhow::Result<(Ingest, Published)> {
    let (ingest, recovered) =
        take(Archive::open_or_create(place, 1, clock.now(), Disk::new(access))?, clock, what, policy)?;
    heed_pseudonyms(&ingest, clock)?;
    Ok((ingest, recovered))
}

/// Takes an archive for writing, all of it.
pub(super) fn take(archive: Archive, clock: &Clock, what: &str, policy: Policy) -> anyhow::Result<(Ingest, Published)> {
    Ok(Ingest::open(archive, Shards::All, &holder(clock, what), policy)?)
}

/// What another one who wants the lock is told.
pub(super) fn holder(clock: &Clock, what: &str) -> String {
    let since = clock::format_timestamp(clock.now());
    format!("dex-archive {what}, process {}, since {since}", std::process::id())
}

/// Takes every shard of an archive.
pub(super) fn lock_all(archive: &Archive, clock: &Clock, what: &str) -> anyhow::Result<Vec<ShardLock>> {
    Ok(archive.lock_shards(Shards::All, &holder(clock, what))?)
}

/// Says what an earlier process left in the journal: what was found there is part of what this run ends with.
pub(super) fn note_recovered(recovered: &Published) -> Exit {
    let states = recovered.states_new + recovered.states_known;
    if states > 0 || recovered.has_findings() {
        tracing::warn!(
            states,
            new = recovered.states_new,
            unreadable = recovered.gaps,
            quarantined = recovered.quarantined,
            "published what an earlier process had left in the journal"
        );
    }
    summary::tell_publish(&recovered.damaged, &recovered.held);
    Exit::of_publish(recovered)
}

/// Sees to it that pseudonyms go on as they began, or says that they do not.
fn heed_pseudonyms(ingest: &Ingest, clock: &Clock) -> anyhow::Result<()> {
    if let Some(former) = ingest.heed_pseudonyms(clock.now())? {
        let since = clock::format_timestamp(former.since);
        print::warning(&format_args!(
            "the key of the pseudonyms has changed, which was the same since {since}: from now on the same person or \
             device has another pseudonym than before; if that was not meant, put the former key back"
        ));
    }
    Ok(())
}
