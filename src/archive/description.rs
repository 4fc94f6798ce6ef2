//! What an archive says of itself: its format, its shards, and which keys its pseudonyms were made with.
//!
//! Where the description is missing or damaged, it is read from the parts what it must have said, as far as that can be.
//! Not here: what a key is, which is the business of whoever treats what is written; a [`KeyMark`] only tells two apart.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use arrow_array::cast::AsArray;
use serde::{Deserialize, Serialize};

use crate::clock::{self, Timestamp};
use crate::schema::Schema;

use super::{ARCHIVE_FORMAT, Archive, ArchiveError, MOST_RACES, PartName, Scan, paths, shard_of, write};

/// Devices by which a shard is told.
const SEEN_DEVICES: usize = 50;

/// So many keys are remembered, the last ones.
const MOST_KEYS: usize = 20;

/// More shards are not tried.
const MOST_SHARDS_SEEN: u32 = 1_024;

/// What `_archive/archive.json` says.
#[derive(Debug, Serialize)]
struct Description {
    format: u32,
    shards: u32,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    resharding: bool,
    created_at: String,
    created_by: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pseudonym_keys: Vec<KeyMark>,
}

/// What has to be known of an archive: its description may have been written anew by hand.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Needed {
    pub(super) shards: u32,
    #[serde(default)]
    pub(super) resharding: bool,
    created_at: Option<String>,
    created_by: Option<String>,
    #[serde(default)]
    pseudonym_keys: Vec<KeyMark>,
}

/// A key with which pseudonyms were made: what tells it from another, and since when it was the one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyMark {
    /// The same for the same key, and of no use without it.
    pub mark: String,
    /// When it was first seen after another, or after none.
    #[serde(with = "clock::rfc3339")]
    pub since: Timestamp,
}

/// Only the format, so that an archive of a later one is refused for that and not for a strange key.
#[derive(Deserialize)]
struct Format {
    format: u32,
}

impl Archive {
    /// The keys that its pseudonyms were made with, in the order in which they came.
    ///
    /// # Errors
    /// Where the description cannot be read.
    pub fn pseudonym_keys(&self) -> Result<Vec<KeyMark>, ArchiveError> {
        let text = self.store.description()?;
        text.map_or(Ok(Vec::new()), |text| Ok(self.read_description(&text)?.pseudonym_keys))
    }

    /// Notes the key that pseudonyms are made with from now on. Returns the one before it, where this one is new.
    /// Whoever calls it holds the lock of the shard.
    ///
    /// # Errors
    /// Where the description cannot be read or written.
    pub fn note_pseudonym_key(&self, shard: u32, mark: &str, now: Timestamp) -> Result<Option<KeyMark>, ArchiveError> {
        let mut races = 0;
        loop {
            let Some(text) = self.store.description()? else { return Err(self.undescribed()) };
            let mut needed = self.read_description(&text)?;
            // One that came back is no new one, nor are two that two collectors have.
            if needed.pseudonym_keys.iter().any(|key| key.mark == mark) {
                return Ok(None);
            }
            let former = needed.pseudonym_keys.last().cloned();
            needed.pseudonym_keys.push(KeyMark { mark: mark.to_owned(), since: now });
            // Where each start has a key of its own, they would fill the description.
            let surplus = needed.pseudonym_keys.len().saturating_sub(MOST_KEYS);
            needed.pseudonym_keys.drain(..surplus);
            match self.describe(shard, needed, now, Some(&text)) {
                // Another collector wrote it, or a reshard.
                Err(error) if error.is_replaced() && races < MOST_RACES => races += 1,
                written => return written.map(|()| former),
            }
        }
    }

    /// That no days were, or are being, filed into another number of shards since this was opened.
    ///
    /// # Errors
    /// [`ArchiveError::Resharded`] or [`ArchiveError::Resharding`] where they were; or where the description cannot be read.
    pub fn check_shards(&self) -> Result<(), ArchiveError> {
        let Some(text) = self.store.description()? else { return Ok(()) };
        let Needed { shards, resharding, .. } = self.read_description(&text)?;
        let path = self.root.clone();
        match (shards, resharding) == (self.shards, self.is_resharding) {
            true => Ok(()),
            false if resharding => Err(ArchiveError::Resharding { path, shards }),
            false => Err(ArchiveError::Resharded { path, shards }),
        }
    }

    /// The same archive with another number of shards. Until [`Archive::end_resharding`] nobody else can write to it.
    /// Whoever calls it holds every shard's lock.
    ///
    /// # Errors
    /// Where the description cannot be written.
    pub fn begin_resharding(self, shards: u32, now: Timestamp) -> Result<Self, ArchiveError> {
        Self { shards, is_resharding: true, ..self }.redescribe(now)
    }

    /// Says that every day is in parts of the new number of shards.
    ///
    /// # Errors
    /// Where the description cannot be written.
    pub fn end_resharding(self, now: Timestamp) -> Result<Self, ArchiveError> {
        Self { is_resharding: false, ..self }.redescribe(now)
    }

    /// Writes its first description.
    pub(super) fn describe_new(&self, now: Timestamp) -> Result<(), ArchiveError> {
        self.check_owner()?;
        self.describe(0, Needed { shards: self.shards, ..Needed::default() }, now, None)
    }

    /// Says what its shards are now.
    fn redescribe(self, now: Timestamp) -> Result<Self, ArchiveError> {
        let old = self.store.description()?;
        let said = old.as_deref().map_or(Ok(Needed::default()), |text| self.read_description(text))?;
        let needed = Needed { shards: self.shards, resharding: self.is_resharding, ..said };
        self.describe(0, needed, now, old.as_deref())?;
        Ok(self)
    }

    /// Writes the description, in place of the `old` one if there is one.
    fn describe(&self, shard: u32, needed: Needed, now: Timestamp, old: Option<&str>) -> Result<(), ArchiveError> {
        let Needed { shards, resharding, created_at, created_by, pseudonym_keys } = needed;
        let description = Description {
            format: ARCHIVE_FORMAT,
            shards,
            resharding,
            created_at: created_at.unwrap_or_else(|| clock::format_timestamp(now)),
            created_by: created_by.unwrap_or_else(write::tool),
            pseudonym_keys,
        };
        let text = serde_json::to_string_pretty(&description).expect("a description always has a form in JSON");
        self.store.describe(self, shard, &format!("{text}\n"), old)
    }

    /// What a folder without a description is.
    pub(super) fn undescribed(&self) -> ArchiveError {
        let is_data = |name: &str| Schema::all().iter().any(|schema| schema.dataset == name);
        match self.entries(&self.root) {
            // A crash before the description was written leaves at most the folders around it.
            Ok(entries) if entries.iter().all(|entry| entry.name == paths::OWN) => {
                ArchiveError::Absent(self.root.clone())
            }
            Ok(entries) if entries.iter().any(|entry| entry.name == paths::OWN || is_data(&entry.name)) => {
                self.misdescribed("it is missing".to_owned())
            }
            Ok(_) => ArchiveError::Foreign(self.root.clone()),
            Err(error) => error,
        }
    }

    fn misdescribed(&self, problem: String) -> ArchiveError {
        ArchiveError::Description { path: paths::description(&self.root), problem, shards: self.shards_seen() }
    }

    /// The smallest number of shards that the parts can be of: by their names, and by the devices that they hold.
    fn shards_seen(&self) -> u32 {
        let below = |dir: PathBuf| self.entries(&dir).unwrap_or_default();
        let days = below(self.root.clone()).into_iter().flat_map(|dataset| below(dataset.path));
        let parts: BTreeMap<PartName, PathBuf> = days
            .flat_map(|day| below(day.path))
            .filter_map(|part| Some((PartName::parse(&part.name)?, part.path)))
            .collect();
        let least = parts.keys().map(|part| part.shard).max().unwrap_or(0) + 1;
        // A few parts of each shard are enough to tell.
        let mut seen: BTreeMap<u32, Vec<String>> = BTreeMap::new();
        for (part, path) in parts {
            let ids = seen.entry(part.shard).or_default();
            if ids.len() < SEEN_DEVICES {
                ids.extend(self.devices_in(&path));
            }
        }
        let fits = |shards: &u32| seen.iter().all(|(shard, ids)| ids.iter().all(|id| shard_of(id, *shards) == *shard));
        (least..=MOST_SHARDS_SEEN).find(fits).unwrap_or(least)
    }

    /// Some devices of a part; none where it cannot be read.
    fn devices_in(&self, path: &Path) -> Vec<String> {
        let schema = Schema::device_state();
        let device = schema.index_of("device_id").expect("states are of devices");
        let scan = Scan { columns: [device].into(), ..Scan::default() };
        let first = self.look(path, &schema).ok().and_then(|part| part.batches(Some(&scan)).next()?.ok());
        let ids = first.iter().flat_map(|batch| batch.column(0).as_string::<i32>().iter().flatten());
        let mut ids: Vec<String> = ids.map(str::to_owned).collect();
        ids.dedup();
        ids.truncate(SEEN_DEVICES);
        ids
    }

    /// What has to be known of a description.
    pub(super) fn read_description(&self, text: &str) -> Result<Needed, ArchiveError> {
        let damaged = |error: serde_json::Error| {
            let place = format!("at line {} column {}", error.line(), error.column());
            self.misdescribed(format!("not the JSON it was written as, {place}"))
        };
        let format: Format = serde_json::from_str(text).map_err(damaged)?;
        if format.format != ARCHIVE_FORMAT {
            return Err(ArchiveError::Format { path: self.root.clone(), found: format.format });
        }
        match serde_json::from_str(text).map_err(damaged)? {
            Needed { shards: 0, .. } => Err(self.misdescribed("it has no shards".to_owned())),
            needed => Ok(needed),
        }
    }
}
