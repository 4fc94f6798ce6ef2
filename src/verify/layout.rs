//! What stands in the folders, and what should not.

use std::fs;
use std::path::Path;

use crate::archive::{Archive, Checksum, Entry, OWN_FOLDER, PartName, Partition};
use crate::schema::Schema;

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
                Some(_) if is_folder => look_at_day(archive, &schema, &path, findings),
                _ => foreign(&path, findings),
            }
        }
    }
}

/// Entries below a folder; none where it is not there.
pub(super) fn count(dir: &Path) -> u64 {
    fs::read_dir(dir).map_or(0, |entries| entries.count() as u64)
}

fn look_at_day(archive: &Archive, schema: &Schema, day: &Path, findings: &mut Findings) {
    let (mut parts, mut has_others) = (Vec::new(), false);
    for Entry { name, path, is_file, .. } in entries(archive, day, findings) {
        match PartName::parse(&name) {
            // Until all days are filed anew, parts of the former shards hold rows that are nowhere else.
            Some(part) if part.shard >= archive.shards() && !archive.is_resharding() => {
                has_others = true;
                let problem = format!("shard {} is none of the archive's {}", part.shard, archive.shards());
                let remedy = "verify --repair files its rows where they belong, and moves it to the quarantine";
                findings.add(
                    Severity::Error,
                    &path,
                    &problem,
                    remedy,
                    Some(Repair::Refile { dataset: schema.dataset.clone() }),
                );
            }
            Some(part) if is_file => parts.push((part, path)),
            _ => foreign(&path, findings),
        }
    }
    parts.sort_unstable();
    for pair in parts.windows(2).filter(|pair| pair[0].0.shard == pair[1].0.shard) {
        let [(old, older), (new, newer)] = pair else { continue };
        if is_sound(archive, schema, newer) || !is_sound(archive, schema, older) {
            let problem = format!("{new} took its place: readers find its rows twice");
            findings.add(Severity::Error, older, &problem, SET_ASIDE, Some(Repair::SetAside));
        } else {
            let problem = format!("it is damaged, and {old}, whose place it took, is not");
            findings.add(Severity::Error, newer, &problem, SET_ASIDE, Some(Repair::SetDamagedAside));
        }
    }
    if parts.is_empty() && !has_others {
        let problem = "the day has no part: its files were removed, or moved elsewhere";
        findings.add(Severity::Warning, day, problem, "restore them from a copy, or remove the folder", None);
    }
}

/// Whether a part is as it was written, and of a dataset.
fn is_sound(archive: &Archive, schema: &Schema, part: &Path) -> bool {
    let held = archive.hold(part);
    held.is_ok_and(|held| matches!(held.checksum(), Ok(Checksum::Right)) && held.part(schema).is_ok())
}

const SET_ASIDE: &str = "verify --repair moves it to the quarantine";

fn foreign(path: &Path, findings: &mut Findings) {
    let problem = "it is no part, and DuckDB, pandas or Polars may take it for one";
    findings.add(Severity::Error, path, problem, SET_ASIDE, Some(Repair::SetAside));
}

/// The entries of a folder, in the order of their names; a folder that cannot be listed is a finding.
fn entries(archive: &Archive, dir: &Path, findings: &mut Findings) -> Vec<Entry> {
    match archive.entries(dir) {
        Ok(mut entries) => {
            entries.sort();
            entries
        }
        Err(error) => {
            let problem = format!("it cannot be listed: {error}");
            findings.add(Severity::Error, dir, &problem, "make it readable to this user", None);
            Vec::new()
        }
    }
}
