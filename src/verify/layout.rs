//! What stands in the folders, and what should not.

use std::fs;
use std::path::Path;

use arrow_array::RecordBatch;

use crate::archive::{
    Archive, ArchiveError, Checksum, Entry, OWN_FOLDER, Part, PartFile, PartName, Partition, Placed, Spot, has_all_of,
    is_any_of, is_report,
};
use crate::schema::Schema;

use super::part::{of_keys, whole};
use super::{Findings, Repair, Severity};

/// Looks for what is no part of the archive, and for what is there too often.
pub(super) fn look(archive: &Archive, findings: &mut Findings) {
    let datasets = Schema::all();
    if archive.is_resharding() {
        let problem = format!("it is being filed into {} shards, or that was broken off", archive.shards());
        let remedy = format!("wait for it, or end it: `dex-archive reshard --shards {}`", archive.shards());
        findings.add(Severity::Warning, archive.root(), &problem, &remedy, None);
    }
    for Entry { name, path, .. } in entries(archive, archive.root(), findings) {
        if name != OWN_FOLDER && !datasets.iter().any(|schema| name == schema.dataset) {
            let problem = "it is no part of the archive";
            findings.add(Severity::Note, &path, problem, "readers of the datasets do not see it", None);
        }
    }
    for schema in datasets {
        let dir = archive.dataset_dir(&schema);
        for Entry { name, path, is_folder, .. } in entries(archive, &dir, findings) {
            match Partition::parse(&schema.dataset, &name) {
                Some(partition) if is_folder => look_at_day(archive, &schema, &partition, &path, findings),
                _ => foreign(&path, findings),
            }
        }
    }
}

/// Files in a quarantine, without the reports on them; none where it is not there.
pub(super) fn quarantined(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|entry| !is_report(&entry.path())).count() as u64
}

fn look_at_day(archive: &Archive, schema: &Schema, partition: &Partition, day: &Path, findings: &mut Findings) {
    let (mut parts, mut has_others) = (Vec::new(), false);
    for Entry { name, path, is_file, .. } in settled(archive, day, findings) {
        match PartName::parse(&name) {
            // Until all days are filed anew, parts of the former shards hold rows that are nowhere else.
            Some(part) if is_file && part.shard >= archive.shards() && !archive.is_resharding() => {
                has_others = true;
                let problem = format!("shard {} is none of the archive's {}", part.shard, archive.shards());
                let repair = Repair::Refile { dataset: schema.dataset.clone() };
                findings.add(Severity::Error, &path, &problem, REFILE, Some(repair));
            }
            Some(part) if is_file => parts.push((part, path)),
            None if is_file && is_renamed(archive, schema, &path) => {
                has_others = true;
                let problem = "it is a part, but for its name";
                let repair = Repair::Refile { dataset: schema.dataset.clone() };
                findings.add(Severity::Error, &path, problem, REFILE, Some(repair));
            }
            _ => foreign(&path, findings),
        }
    }
    parts.sort_unstable();
    for pair in parts.windows(2).filter(|pair| pair[0].0.shard == pair[1].0.shard) {
        look_at_pair(archive, schema, partition, (&pair[0], &pair[1]), findings);
    }
    if parts.is_empty() && !has_others {
        let problem = "the day has no part: its files were removed, or moved elsewhere";
        findings.add(Severity::Warning, day, problem, "restore them from a copy, or remove the folder", None);
    }
}

/// So often a folder is listed that changes meanwhile.
const MOST_LISTINGS: usize = 10;

/// Two parts of a shard: readers see both, the archive's own the newer one.
fn look_at_pair(
    archive: &Archive,
    schema: &Schema,
    partition: &Partition,
    ((old, older), (new, newer)): (&Placed, &Placed),
    findings: &mut Findings,
) {
    let spot = Spot { shard: new.shard, date: partition.date };
    let judged = |path: &Path| State::of(archive, schema, spot, path);
    let refile = || Some(Repair::Refile { dataset: schema.dataset.clone() });
    let (subject, problem, remedy, repair) = match (judged(older), judged(newer)) {
        (State::Astray, _) => {
            (older, format!("its rows belong elsewhere, and {new} has those of the day"), REFILE, refile())
        }
        (State::Sound, State::Sound) if !has_all(archive, schema, newer, older) => {
            (older, format!("it has rows that {new} has not, beside which it stands"), REFILE, refile())
        }
        (_, State::Sound) => {
            (older, format!("{new} took its place: readers find its rows twice"), SET_ASIDE, Some(Repair::SetAside))
        }
        (_, State::Astray) => {
            let problem = format!("its rows belong elsewhere, and {old} has those of the day");
            (newer, problem, REFILE, refile())
        }
        (_, State::Unknown) => {
            let remedy = "make it readable to this user, or use the newer dex-archive that wrote it";
            (newer, format!("it cannot be read, and stands in the place of {old}"), remedy, None)
        }
        (State::Sound, State::Bad) => {
            let problem = format!("it is damaged, and {old}, whose place it took, is not");
            (newer, problem, SET_ASIDE, Some(Repair::SetDamagedAside))
        }
        (_, State::Bad) => {
            let problem = format!("{new} took its place, and is damaged too");
            (older, problem, SET_ASIDE, Some(Repair::SetDamagedAside))
        }
    };
    findings.add(Severity::Error, subject, &problem, remedy, repair);
}

/// Whether a part has a row for every key of an older one.
fn has_all(archive: &Archive, schema: &Schema, newer: &Path, older: &Path) -> bool {
    let part = |path: &Path| archive.hold(path)?.part(schema);
    part(newer).and_then(|newer| has_all_of(&newer, &part(older)?, schema)).unwrap_or(false)
}

/// What a part is that stands beside another one.
enum State {
    /// As it was written.
    Sound,
    /// As it was written, and none of its rows belongs where it stands.
    Astray,
    /// Damaged, or of another dataset.
    Bad,
    /// Nobody can tell: it cannot be read here, or by this version.
    Unknown,
}

impl State {
    fn of(archive: &Archive, schema: &Schema, spot: Spot, path: &Path) -> Self {
        let Ok(held) = archive.hold(path) else { return Self::Unknown };
        match (held.checksum(), held.part(schema)) {
            (Ok(Checksum::Right), Ok(part)) if is_astray(&part, schema, (spot, archive.shards())) => Self::Astray,
            (Ok(Checksum::Right), Ok(_)) => Self::Sound,
            (Ok(Checksum::Right), Err(ArchiveError::Schema { .. })) => {
                let is_others = Schema::all().iter().any(|other| held.part(other).is_ok());
                if is_others { Self::Bad } else { Self::Unknown }
            }
            (Ok(_), Ok(_) | Err(ArchiveError::Damaged { .. } | ArchiveError::Schema { .. })) => Self::Bad,
            _ => Self::Unknown,
        }
    }
}

/// Whether a part has rows, and none of them belongs where it stands.
fn is_astray(part: &Part, schema: &Schema, (spot, shards): (Spot, u32)) -> bool {
    let belongs = |batch: RecordBatch| is_any_of(schema, &whole(schema, &batch), (spot, shards));
    part.rows() > 0 && !part.batches(Some(&of_keys(schema))).any(|batch| batch.is_ok_and(belongs))
}

const REFILE: &str = "verify --repair files its rows where they belong, and moves it to the quarantine";

const SET_ASIDE: &str = "verify --repair moves it to the quarantine";

fn foreign(path: &Path, findings: &mut Findings) {
    let problem = "it is no part, and DuckDB, pandas or Polars may take it for one";
    findings.add(Severity::Error, path, problem, SET_ASIDE, Some(Repair::SetAside));
}

/// Whether a file is a whole part that somebody gave another name.
fn is_renamed(archive: &Archive, schema: &Schema, path: &Path) -> bool {
    let is_part = |held: PartFile| Ok(held.checksum()? == Checksum::Right && held.part(schema)?.rows() > 0);
    archive.hold(path).and_then(is_part).unwrap_or(false)
}

/// The entries of a day; where a collector replaced it while they were looked at, those that are there now.
fn settled(archive: &Archive, day: &Path, findings: &mut Findings) -> Vec<Entry> {
    let mut found = entries(archive, day, findings);
    let is_gone = |entry: &Entry| !(entry.is_file || entry.is_folder || entry.is_link);
    for _ in 0..MOST_LISTINGS {
        if !found.iter().any(is_gone) {
            break;
        }
        found = entries(archive, day, findings);
    }
    found
}

/// The entries of a folder, in the order of their names; a folder that cannot be listed is a finding.
fn entries(archive: &Archive, dir: &Path, findings: &mut Findings) -> Vec<Entry> {
    match archive.entries(dir) {
        Ok(mut entries) => {
            entries.sort();
            entries
        }
        Err(error) => {
            findings.unlisted(dir, &error);
            Vec::new()
        }
    }
}
