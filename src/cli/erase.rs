//! `prune` and `forget`.

use anyhow::bail;
use chrono::TimeDelta;

use crate::archive::Archive;
use crate::clock::Clock;
use crate::config::{self, ConfigError};
use crate::erase::{self, Erased, Subject, SubjectKind};

use super::args::{Args, ForgetArgs, PruneArgs};
use super::{Exit, collect, print};

/// Removes days that are too old.
pub(super) fn prune(args: &Args, command: &PruneArgs) -> anyhow::Result<Exit> {
    let clock = Clock::system();
    let keep = config::parse_duration(&command.keep)?;
    let today = clock.now().date_naive();
    // Whole days are kept, and today among them whatever was typed.
    let first_kept = TimeDelta::from_std(keep).ok().and_then(|keep| today.checked_sub_signed(keep));
    let first_kept = first_kept.ok_or_else(|| ConfigError::Duration(command.keep.clone()))?.min(today);
    let archive = args.open_archive()?;
    let _locks = collect::lock_all(&archive, &clock, "prune")?;
    let erased = erase::prune(&archive, first_kept, command.dry_run)?;
    tell(&erased, command.dry_run, args.quiet)?;
    Ok(Exit::Done)
}

/// Takes a device or a person out of the archive.
pub(super) fn forget(args: &Args, command: &ForgetArgs) -> anyhow::Result<Exit> {
    let (_, file) = args.config()?;
    let policy = file.policy()?;
    let is_person = command.device.is_empty();
    let (kind, named) =
        if is_person { (SubjectKind::Person, &command.email) } else { (SubjectKind::Device, &command.device) };
    let pseudonyms = named.iter().filter_map(|value| policy.pseudonym(value));
    let lower = named.iter().filter_map(|value| policy.pseudonym(&value.to_lowercase()));
    let subject = Subject::new(kind, named.iter().cloned().chain(pseudonyms).chain(lower));
    let clock = Clock::system();
    let archive: Archive = args.open_archive()?;
    let (ingest, recovered) =
        collect::open(archive.root(), &clock, "forget", file.archive.readable_by, policy.clone())?;
    collect::note_recovered(&recovered);
    if !recovered.held.is_empty() {
        bail!("something is not published yet and may be about it: mend that first");
    }
    let erased = erase::forget(ingest.archive(), ingest.lock(), &subject, command.dry_run)?;
    tell(&erased, command.dry_run, args.quiet)?;
    for path in &erased.left {
        print::note(&format!("left: {} mentions it, and was put there by somebody else", path.display()));
    }
    if !command.dry_run && !args.quiet {
        print::note("every part and the quarantine were read again: nothing about it is left");
    }
    Ok(if erased.left.is_empty() { Exit::Done } else { Exit::Partly })
}

/// Days, rows and bytes.
fn tell(erased: &Erased, dry_run: bool, quiet: bool) -> anyhow::Result<()> {
    let rows = erased.days.iter().map(|(_, _, rows)| rows).sum::<u64>();
    let lines = erased.days.iter().map(|(dataset, date, rows)| format!("{dataset} {date}: {rows} rows\n"));
    print::data(&lines.collect::<String>())?;
    if !quiet {
        let verb = if dry_run { "would go" } else { "went" };
        print::note(&format!(
            "{} days, {rows} rows, {} and {} entries of the quarantine {verb}",
            erased.days.len(),
            print::bytes(erased.bytes),
            erased.quarantined
        ));
    }
    Ok(())
}
