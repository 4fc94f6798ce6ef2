//! `prune` and `forget`: what is to go, what went, and what could not. How rows are taken out, [`crate::erase`] knows.

use std::collections::BTreeSet;

use anyhow::bail;
use chrono::TimeDelta;

use crate::archive::{Archive, ShardLock};
use crate::clock::Clock;
use crate::collect::Progress;
use crate::config::{self, ConfigError, ConfigFile};
use crate::erase::{self, EraseError, Erased, Subject, SubjectKind, Watch};
use crate::privacy::{Policy, is_pseudonym};
use crate::shown::bytes;
use crate::snapshot::DeviceId;

use super::args::{Args, ForgetArgs, PruneArgs};
use super::progress::Bar;
use super::{Exit, print, take};

/// Removes days that are too old.
pub(super) fn prune(args: &Args, command: &PruneArgs) -> anyhow::Result<Exit> {
    let clock = Clock::system();
    let keep = config::parse_duration(&command.keep)?;
    let now = clock.now();
    // The day that the stretch begins in is kept as a whole, and today whatever was typed.
    let first_kept = TimeDelta::from_std(keep).ok().and_then(|keep| now.checked_sub_signed(keep));
    let first_kept = first_kept.ok_or_else(|| ConfigError::Duration(command.keep.clone()))?.date_naive();
    let first_kept = first_kept.min(now.date_naive());
    let (archive, _) = args.open_archive()?;
    // A rehearsal need not wait for a collector.
    let _locks = if command.dry_run { Vec::new() } else { take::lock_all(&archive, &clock, "prune")? };
    let erased = erase::prune(&archive, (first_kept, now.date_naive()), command.dry_run)?;
    tell(&erased, command.dry_run, args.quiet)?;
    Ok(Exit::Done)
}

/// Takes a device, a person or an account out of the archive.
pub(super) fn forget(args: &Args, command: &ForgetArgs) -> anyhow::Result<Exit> {
    let (archive, file) = args.open_archive()?;
    let policy = file.policy()?;
    let subject = subject(command, &file, &policy)?;
    let clock = Clock::system();
    let mut erased = Erased::default();
    let ended = if command.dry_run {
        if erase::is_waiting(&archive) {
            print::note("what waits in the journal is not looked at: it is published first when this is no dry run");
        }
        search(args, &archive, None, &subject, &mut erased)
    } else {
        let (ingest, recovered) = take::take(archive.clone(), &clock, "forget", policy.clone())?;
        take::note_recovered(&recovered);
        if !recovered.held.is_empty() {
            bail!("some of the journal could not be published (see above) and may be about it: resolve that first");
        }
        search(args, ingest.archive(), Some(ingest.locks()), &subject, &mut erased)
    };
    // Where it broke off, what went before is gone all the same.
    tell(&erased, command.dry_run, args.quiet)?;
    for path in &erased.left {
        print::note(&format!(
            "left: {} mentions it, or cannot be searched, and is not ours to remove: look at it, and remove it yourself",
            path.display()
        ));
    }
    ended?;
    Ok(judge(args, command, &archive, &policy, &erased))
}

/// Says what the answer means: whether all is gone, and whatever may bring it back.
fn judge(args: &Args, command: &ForgetArgs, archive: &Archive, policy: &Policy, erased: &Erased) -> Exit {
    let (is_person, is_clean) = (!command.email.is_empty(), erased.left.is_empty() && erased.unclear.is_empty());
    // Whether some of the rows under pseudonyms may be of whoever is named: by a key that is not here.
    let mark = policy.key_mark();
    let others = archive.pseudonym_keys().iter().filter(|key| Some(&key.mark) != mark.as_ref()).count();
    // A pseudonym that is typed as it stands is exact.
    let are_exact = is_person && command.email.iter().all(|email| is_pseudonym(email));
    let is_hidden = erased.other_pseudonyms > 0 && others > 0 && !are_exact;
    if erased.days.is_empty() && !is_hidden && !args.quiet {
        print::note("no row is about it: if there should be some, look at how it is written");
    }
    if is_person && erased.names_nobody {
        print::note(
            "no state in the archive names anybody, as addresses were dropped, forgotten or never came: find them by `forget --device ID`",
        );
    } else if is_hidden {
        print::warning(&format_args!(
            "{} rows stay that stand under other pseudonyms, and some may be about it: the archive has those of {others} {} that this run did not have; run it with each",
            erased.other_pseudonyms,
            if others == 1 { "key" } else { "keys" },
        ));
    } else if is_clean && !command.dry_run && !args.quiet {
        print::note("every part and the quarantine were read again: nothing about it is left");
        if !archive.is_on_disk() {
            print::note(&format!(
                "of quarantines, {} was read: run it with each other --state-dir too, and let the bucket expire former versions",
                archive.state_dir().display()
            ));
        }
    }
    if !command.dry_run && !args.quiet {
        print::note("Cloudflare remembers 7 days: a collect or a backfill may bring back what it still has");
    }
    if is_clean && !is_hidden { Exit::Done } else { Exit::Partly }
}

/// Looks for somebody, and takes out what is found where there are the locks for it.
fn search(
    args: &Args,
    archive: &Archive,
    locks: Option<&[ShardLock]>,
    subject: &Subject,
    erased: &mut Erased,
) -> Result<(), EraseError> {
    let bar = Bar::new(args.quiet);
    bar.start("parts", Some(erase::times_read(archive, locks.is_none())?));
    let ended = erase::forget(archive, locks, subject, &Watched(&bar), erased);
    bar.finish();
    ended
}

/// A search that people watch.
struct Watched<'a>(&'a Bar);

impl Watch for Watched<'_> {
    fn looked(&self) {
        self.0.advance(1);
    }

    fn found_unclear(&self, devices: &BTreeSet<String>) {
        let devices: Vec<String> = devices.iter().map(|device| print::safe_word(device)).collect();
        print::note(&format!(
            "left: states of {} that name nobody, by no registration that is known to be theirs alone: if they are theirs, `forget --device ID` takes them",
            devices.join(", ")
        ));
    }
}

/// Whom the command names, by the values themselves and by the pseudonyms that the rules make of them.
fn subject(command: &ForgetArgs, file: &ConfigFile, policy: &Policy) -> Result<Subject, ConfigError> {
    let is_whole = |email: &&String| {
        let (name, domain) = email.split_once('@').unwrap_or_default();
        is_pseudonym(email) || !(name.is_empty() || domain.is_empty() || email.contains(char::is_whitespace))
    };
    if let Some(email) = command.email.iter().find(|email| !is_whole(email)) {
        return Err(ConfigError::Email(email.clone()));
    }
    for device in command.device.iter().filter(|device| !is_pseudonym(device)) {
        DeviceId::parse(device)?;
    }
    let accounts = command.account.iter().map(|typed| file.one_account(Some(typed)).map(|account| account.to_string()));
    let accounts = accounts.collect::<Result<Vec<_>, _>>()?;
    let (kind, named) = match (&command.device[..], &command.email[..]) {
        ([], []) => (SubjectKind::Account, &accounts),
        ([], _) => (SubjectKind::Person, &command.email),
        _ => (SubjectKind::Device, &command.device),
    };
    let pseudonyms = named.iter().filter_map(|value| policy.pseudonym(value));
    Ok(Subject::new(kind, named.iter().cloned().chain(pseudonyms)))
}

/// Days, rows and bytes.
fn tell(erased: &Erased, dry_run: bool, quiet: bool) -> anyhow::Result<()> {
    let rows = erased.days.values().sum::<u64>();
    let lines = erased.days.iter().map(|((date, dataset), rows)| format!("{dataset} {date}: {rows} rows\n"));
    print::data(lines.collect::<String>())?;
    if !quiet {
        let verb = if dry_run { "would go" } else { "went" };
        let days: BTreeSet<_> = erased.days.keys().map(|(date, _)| date).collect();
        print::note(&format!(
            "{} days, {rows} rows, {} and {} entries of the quarantine {verb}",
            days.len(),
            bytes(erased.bytes),
            erased.quarantined
        ));
    }
    Ok(())
}
