//! What an archive says of itself: its format, its shards, and which keys its pseudonyms were made with.
//!
//! Where the description is missing or damaged, the number of shards is worked out from the parts, as far as they tell.
//! Not here: what a key is, which is the business of whoever treats what is written; a [`KeyMark`] only tells two apart.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use arrow_array::cast::AsArray;
use serde::{Deserialize, Serialize};

use crate::clock::{self, Timestamp};
use crate::disk::Disk;
use crate::schema::Schema;

use super::{ARCHIVE_FORMAT, Archive, ArchiveError, PartName, Place, Scan, paths, shard_of, while_replaced, write};

/// Devices by which a shard is told.
const SEEN_DEVICES: usize = 50;

/// So many keys are remembered, the last ones.
const MOST_KEYS: usize = 20;

/// More shards are not tried.
const MOST_SHARDS_SEEN: u32 = 1_024;

/// What `_archive/archive.json` says.
#[derive(Debug, Serialize)]
struct Description<'a> {
    format: u32,
    #[serde(flatten)]
    said: &'a Said,
}

/// What it says beside the format. It may have been written anew by hand: what does not have to be there need not be.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Said {
    pub(super) shards: u32,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) resharding: bool,
    /// When the last one who files its days anew began: nobody else's beginning is the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) resharding_since: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_by: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) pseudonym_keys: Vec<KeyMark>,
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
    /// Opens the archive at a place that cannot be asked just now as the last writer to it knew it: what is received can
    /// be journalled until it can be asked again. It may have been filed into other shards since: `shards`, where it is
    /// given, counts for more than what was remembered. None where this machine knows nothing of it, or the place is a folder.
    ///
    /// # Errors
    /// Where the folder of the state belongs to another archive.
    pub fn recall(place: impl Into<Place>, shards: Option<u32>, disk: Disk) -> Result<Option<Self>, ArchiveError> {
        let archive = Self::new(&place.into(), 1).on(disk);
        let Some(text) = archive.store.recall(&archive)? else { return Ok(None) };
        // One that somebody bent is as good as none.
        let format = serde_json::from_str(&text).is_ok_and(|Format { format }| format == ARCHIVE_FORMAT);
        let known: Option<Said> = serde_json::from_str(&text).ok().filter(|_| format);
        let known = known.map(|said| Said { shards: shards.unwrap_or(said.shards), ..said });
        Ok(known.filter(|said| (1..=MOST_SHARDS_SEEN).contains(&said.shards)).map(|said| archive.described(said)))
    }

    /// Keeps on the local disk what [`Archive::recall`] needs. That it cannot be kept is only told.
    pub(super) fn remember(&self, pseudonym_keys: Vec<KeyMark>) {
        let said = Said { shards: self.shards, pseudonym_keys, ..Said::default() };
        self.store.remember(self, &said.text()).unwrap_or_else(|error| tracing::warn!("{error}"));
    }

    /// The keys that its pseudonyms were made with when it was opened, in the order in which they came.
    #[must_use]
    pub fn pseudonym_keys(&self) -> &[KeyMark] {
        &self.pseudonym_keys
    }

    /// This archive, with what its description says.
    pub(super) fn described(self, said: Said) -> Self {
        let Said { shards, resharding, resharding_since, pseudonym_keys, .. } = said;
        Self { shards, is_resharding: resharding, resharding_since, pseudonym_keys, ..self }
    }

    /// Notes the key that pseudonyms are made with from now on. Returns the one before it, where this one is new.
    /// Whoever calls it holds the lock of the shard.
    ///
    /// # Errors
    /// Where the description cannot be read or written.
    pub fn note_pseudonym_key(&self, shard: u32, mark: &str, now: Timestamp) -> Result<Option<KeyMark>, ArchiveError> {
        while_replaced(|| {
            let Some(text) = self.store.description()? else { return Err(self.undescribed()) };
            let said = self.read_description(&text)?;
            let mut keys = said.pseudonym_keys;
            // One that came back is no new one, nor are two that two collectors have.
            if keys.iter().any(|key| key.mark == mark) {
                return Ok(None);
            }
            let former = keys.last().cloned();
            keys.push(KeyMark { mark: mark.to_owned(), since: now });
            // Where each start has a key of its own, they would fill the description.
            keys.drain(..keys.len().saturating_sub(MOST_KEYS));
            // Another collector may have written it meanwhile, or a reshard.
            self.describe(shard, Said { pseudonym_keys: keys.clone(), ..said }, now, Some(&text))?;
            self.remember(keys);
            Ok(former)
        })
    }

    /// That no days were, or are being, filed into another number of shards since this was opened; and by nobody else
    /// where this one does it.
    ///
    /// # Errors
    /// [`ArchiveError::Resharded`] or [`ArchiveError::Resharding`] where they were; or where the description cannot be read.
    pub fn check_shards(&self) -> Result<(), ArchiveError> {
        let Some(text) = self.store.description()? else { return Ok(()) };
        self.check_shards_of(&self.read_description(&text)?)
    }

    fn check_shards_of(&self, said: &Said) -> Result<(), ArchiveError> {
        let (path, shards) = (self.root.clone(), said.shards);
        let known = (self.shards, self.is_resharding, &self.resharding_since);
        match (shards, said.resharding, &said.resharding_since) == known {
            true => Ok(()),
            false if said.resharding => Err(ArchiveError::Resharding { path, shards }),
            false => Err(ArchiveError::Resharded { path, shards }),
        }
    }

    /// This archive with another number of shards. Until [`Archive::end_resharding`] nobody else can write to it, also
    /// none who had begun the same before. Whoever calls it holds every shard's lock.
    ///
    /// # Errors
    /// Where the description cannot be written.
    pub fn begin_resharding(self, shards: u32, now: Timestamp) -> Result<Self, ArchiveError> {
        let resharding_since = Some(clock::format_timestamp(now));
        Self { shards, is_resharding: true, resharding_since, ..self }.redescribe(now, |_said| Ok(()))
    }

    /// Says that every day is in parts of the new number of shards.
    ///
    /// # Errors
    /// Where the description cannot be written, or somebody else has begun the same since.
    pub fn end_resharding(self, now: Timestamp) -> Result<Self, ArchiveError> {
        let begun = self.clone();
        let ended = Self { is_resharding: false, resharding_since: None, ..self };
        let ended = ended.redescribe(now, |said| begun.check_shards_of(said))?;
        ended.remember(ended.pseudonym_keys.clone());
        Ok(ended)
    }

    /// Writes its first description.
    pub(super) fn describe_new(&self, now: Timestamp) -> Result<(), ArchiveError> {
        self.check_owner()?;
        self.describe(0, Said { shards: self.shards, ..Said::default() }, now, None)
    }

    /// Says what its shards are now, if what was said of it so far is as it should be.
    fn redescribe(
        self,
        now: Timestamp,
        check: impl FnOnce(&Said) -> Result<(), ArchiveError>,
    ) -> Result<Self, ArchiveError> {
        let old = self.store.description()?;
        let said = match &old {
            Some(text) => self.read_description(text)?,
            None => Said::default(),
        };
        old.as_ref().map_or(Ok(()), |_text| check(&said))?;
        let (shards, resharding, resharding_since) = (self.shards, self.is_resharding, self.resharding_since.clone());
        self.describe(0, Said { shards, resharding, resharding_since, ..said }, now, old.as_deref())?;
        Ok(self)
    }

    /// Writes the description, in place of the `old` one if there is one.
    fn describe(&self, shard: u32, mut said: Said, now: Timestamp, old: Option<&str>) -> Result<(), ArchiveError> {
        said.created_at.get_or_insert_with(|| clock::format_timestamp(now));
        said.created_by.get_or_insert_with(write::tool);
        self.store.describe(self, shard, &said.text(), old)
    }

    /// What a folder without a description is.
    pub(super) fn undescribed(&self) -> ArchiveError {
        let is_data = |name: &str| Schema::all().iter().any(|schema| schema.dataset == name);
        match self.entries(&self.root) {
            // A crash before the description was written leaves at most the folders around it.
            Ok(entries) if entries.iter().all(|entry| entry.name == paths::OWN_FOLDER) => {
                ArchiveError::Absent(self.root.clone())
            }
            Ok(entries) if entries.iter().any(|entry| entry.name == paths::OWN_FOLDER || is_data(&entry.name)) => {
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
        let device = schema.device().expect("states are of devices");
        let scan = Scan { columns: [device].into(), ..Scan::default() };
        let first = self.look(path, &schema).ok().and_then(|part| part.batches(Some(&scan)).next()?.ok());
        let ids = first.iter().flat_map(|batch| batch.column(0).as_string::<i32>().iter().flatten());
        let mut ids: Vec<String> = ids.map(str::to_owned).collect();
        ids.dedup();
        ids.truncate(SEEN_DEVICES);
        ids
    }

    /// What has to be known of a description.
    pub(super) fn read_description(&self, text: &str) -> Result<Said, ArchiveError> {
        let damaged = |error: serde_json::Error| {
            let place = format!("at line {} column {}", error.line(), error.column());
            self.misdescribed(format!("not the JSON it was written as, {place}"))
        };
        let format: Format = serde_json::from_str(text).map_err(damaged)?;
        if format.format != ARCHIVE_FORMAT {
            return Err(ArchiveError::Format { path: self.root.clone(), found: format.format });
        }
        match serde_json::from_str(text).map_err(damaged)? {
            Said { shards: 0, .. } => Err(self.misdescribed("it has no shards".to_owned())),
            said => Ok(said),
        }
    }
}

impl Said {
    fn text(&self) -> String {
        let description = Description { format: ARCHIVE_FORMAT, said: self };
        serde_json::to_string_pretty(&description).expect("a description always has a form in JSON") + "\n"
    }
}
