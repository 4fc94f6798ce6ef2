//! `reshard` and `upgrade`: every day, or every older one, is written anew.

use anyhow::{Context, bail};

use crate::archive::{Archive, ArchiveError, ShardLock};
use crate::clock::Clock;
use crate::collect::Progress;
use crate::ingest::Ingest;
use crate::privacy::Policy;
use crate::reshard;
use crate::schema::Schema;
use crate::shown::bytes;
use crate::upgrade::{outdated, upgrade as upgrade_part};

use super::args::{Args, ReshardArgs, UpgradeArgs};
use super::progress::Bar;
use super::{Exit, print, take};

/// Files the archive's days into another number of shards.
pub(super) fn reshard(args: &Args, command: &ReshardArgs) -> anyhow::Result<Exit> {
    let (archive, _) = args.open_archive()?;
    let clock = Clock::system();
    if archive.shards() == command.shards && !archive.is_resharding() {
        print::note(&format!("{} has {} shards already", archive.root().display(), command.shards));
        return Ok(Exit::Done);
    }
    if archive.is_resharding() {
        // Broken off: the journals were empty when it began, and nobody has written since.
        let locks = take::lock_all(&archive, &clock, "reshard")?;
        return file(args, &archive, &locks, command.shards, &clock);
    }
    let ingest = writer(archive, &clock, "reshard")?;
    if !ingest.archive().is_on_disk() {
        print::note(&format!(
            "what waits in journals of other folders than {} is not looked at: `verify --repair` with each --state-dir publishes it",
            ingest.archive().state_dir().display()
        ));
    }
    file(args, ingest.archive(), ingest.locks(), command.shards, &clock)
}

fn file(args: &Args, archive: &Archive, locks: &[ShardLock], shards: u32, clock: &Clock) -> anyhow::Result<Exit> {
    let first = locks.first().context("an archive has at least one shard")?;
    let days = reshard::days(archive)?.len() as u64;
    let bar = Bar::new(args.quiet);
    bar.plan(&format!("{days} days from {} into {shards} shards", archive.shards()));
    bar.start("days", Some(days));
    let done = reshard::reshard(archive.clone(), first, shards, clock.now(), &mut |_day| bar.advance(1));
    bar.finish();
    let done = match (done, archive.check_shards()) {
        // Until it is ended nobody can write, which whoever broke off should know.
        (Err(error), Err(remedy @ ArchiveError::Resharding { .. }))
            if !matches!(error, ArchiveError::Resharding { .. }) =>
        {
            bail!("{error}; {remedy}")
        }
        (done, _) => done?,
    };
    if !args.quiet {
        print::note(&format!("{} days, {} rows in {shards} shards", done.days, done.rows));
    }
    Ok(Exit::Done)
}

/// Writes anew what an older version wrote.
pub(super) fn upgrade(args: &Args, command: &UpgradeArgs) -> anyhow::Result<Exit> {
    let (archive, _) = args.open_archive()?;
    let (mut parts, mut damaged) = (Vec::new(), Vec::new());
    for schema in Schema::all() {
        let (older, unreadable) = outdated(&archive, &schema)?;
        parts.extend(older.into_iter().map(|part| (schema.clone(), part)));
        damaged.extend(unreadable);
    }
    let rows: u64 = parts.iter().map(|(_, part)| part.rows).sum();
    if command.dry_run || parts.is_empty() {
        let lines = parts.iter().map(|(_, part)| format!("{}/{}: {} rows\n", part.partition, part.name, part.rows));
        print::data(lines.collect::<String>())?;
        if !args.quiet {
            print::note(&format!("{} parts, {rows} rows of an older version", parts.len()));
        }
        return Ok(passed_over(&damaged));
    }
    let ingest = writer(archive, &Clock::system(), "upgrade")?;
    let bar = Bar::new(args.quiet);
    bar.start("parts", Some(parts.len() as u64));
    let (mut count, mut rows, mut values, mut written) = (0, 0, 0, 0);
    for (schema, part) in &parts {
        match upgrade_part(ingest.archive(), ingest.locks(), schema, part) {
            Ok(Some(done)) => {
                (count, rows, values) = (count + 1, rows + part.rows, values + done.values);
                written += done.bytes;
            }
            Ok(None) => (),
            Err(error) if error.is_of_part() => damaged.push(error),
            Err(error) => return Err(error.into()),
        }
        bar.advance(1);
    }
    bar.finish();
    if !args.quiet {
        print::note(&format!(
            "{count} parts, {rows} rows, {} written anew; {values} values found a column",
            bytes(written)
        ));
    }
    Ok(passed_over(&damaged))
}

/// Names the parts that were passed over, which keeps no other from being written anew.
fn passed_over(damaged: &[ArchiveError]) -> Exit {
    damaged.iter().for_each(|error| print::warning(&error));
    if damaged.iter().any(|error| matches!(error, ArchiveError::Damaged { .. })) {
        print::note("`dex-archive verify --repair` mends what can be mended");
    }
    if damaged.is_empty() { Exit::Done } else { Exit::Partly }
}

/// Takes the archive, with nothing left in its journals.
fn writer(archive: Archive, clock: &Clock, what: &str) -> anyhow::Result<Ingest> {
    let (ingest, recovered) = take::take(archive, clock, what, Policy::default())?;
    take::note_recovered(&recovered);
    if !recovered.held.is_empty() {
        bail!("some of the journal could not be published (see above): resolve that first");
    }
    Ok(ingest)
}
