//! Parts in a bucket: each an object under a key that stays, written in one request and only where it still is what
//! was merged into it.
//!
//! A list of objects and the objects themselves are not read at one moment: whoever reads a part here and there asks
//! for the version that it began with, and is told where that is gone.

use std::io::{Read, Write};
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use chrono::NaiveDate;

use super::publish::while_replaced;
use super::read::PartFile;
use super::source::Source;
use super::staging::warn;
use super::store::{Days, Entry, Listed, Store};
use super::{Archive, ArchiveError, Checksum, PartName, Partition, Staged, paths};
use crate::bucket::{Bucket, BucketError, Condition, Version};
use crate::disk::DiskError;

/// What is copied at once.
const COPIED: usize = 256 * 1024;

/// More than a description has.
const DESCRIPTION_BYTES: u64 = 64 * 1024;

/// Of a part that is read here and there, so much of its end is read first: the footer of a day of one row group,
/// the outline, and where in it a thousand devices begin.
const END: u64 = 80 * 1024;

/// The file in the state's folder that says which archive it belongs to.
const CLAIM: &str = "archive-url";

/// The file beside it that says of the archive what a writer has to know.
const REMEMBERED: &str = "archive.json";

/// A place in a bucket.
#[derive(Debug)]
pub(super) struct Objects {
    root: PathBuf,
    bucket: Bucket,
}

/// A version of an object, for reading.
#[derive(Debug)]
pub(super) struct Object {
    bucket: Bucket,
    key: String,
    version: Version,
}

impl Objects {
    pub(super) fn new(root: &Path, bucket: Bucket) -> Self {
        Self { root: root.to_owned(), bucket }
    }

    fn key(&self, path: &Path) -> String {
        path.strip_prefix(&self.root).unwrap_or(path).to_string_lossy().into_owned()
    }

    fn description_key(&self) -> String {
        self.key(&paths::description(&self.root))
    }

    fn path(&self, key: &str) -> PathBuf {
        if key.is_empty() { self.root.clone() } else { self.root.join(key) }
    }

    /// Writes an object to a new file on the local disk.
    fn download(&self, path: &Path, to: &mut impl Write, file: &Path) -> Result<Version, ArchiveError> {
        let mut reader = self.bucket.reader(&self.key(path))?;
        let mut buffer = vec![0; COPIED];
        loop {
            match reader.read(&mut buffer).map_err(|error| ArchiveError::reading(path, error.into()))? {
                0 => return Ok(reader.version),
                length => to.write_all(&buffer[..length]).map_err(DiskError::of("write", file))?,
            }
        }
    }

    /// Moves an object to a place on the local disk, durably. One that is written in between stays.
    fn move_to(&self, archive: &Archive, path: &Path, place: &Path) -> Result<(), ArchiveError> {
        let mut file = archive.disk.create(place)?;
        let version = self.download(path, &mut file, place)?;
        file.sync()?;
        archive.disk.sync_dir(place.parent().unwrap_or(&archive.own))?;
        self.remove(&self.key(path), &version)
    }

    /// Removes an object, if it still is what was read.
    fn remove(&self, key: &str, read: &Version) -> Result<(), ArchiveError> {
        match self.bucket.end(key, 1) {
            Ok((.., version)) if version == *read => Ok(self.bucket.remove(key)?),
            Ok(_) => Err(BucketError::Replaced(format!("{}/{key}", self.bucket.url())).into()),
            // Somebody else took it away.
            Err(BucketError::Absent(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends a staged part. `made` has those of which there was none before.
    fn send(&self, staged: &Staged, name: PartName, made: &mut Vec<(String, Version)>) -> Result<(), ArchiveError> {
        let path = staged.folder.path().join(name.to_string());
        let bytes = std::fs::read(&path).map_err(ArchiveError::io("read", &path))?;
        let (key, condition) = self.target(staged, name);
        let is_new = matches!(condition, Condition::IsNew);
        let version = self.bucket.put(&key, vec![bytes.into()], condition)?;
        made.extend(is_new.then_some((key, version)));
        Ok(())
    }

    /// Where the objects of a shard's parts are, and what they have to be to be replaced.
    fn target(&self, staged: &Staged, name: PartName) -> (String, Condition) {
        let key = self.key(&staged.partition.dir(&self.root).join(name.to_string()));
        let base = staged.bases.iter().find(|(base, _)| *base == name).and_then(|(_, version)| version.clone());
        (key, base.map_or(Condition::IsNew, Condition::Is))
    }
}

impl Object {
    /// The bytes of ranges of it.
    pub(super) fn ranges(&self, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, BucketError> {
        self.bucket.ranges(&self.key, &self.version, ranges)
    }
}

impl Store for Objects {
    fn description(&self) -> Result<Option<String>, ArchiveError> {
        match self.bucket.end(&self.description_key(), DESCRIPTION_BYTES) {
            Ok((bytes, ..)) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
            Err(BucketError::Absent(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn describe(&self, _archive: &Archive, _shard: u32, text: &str, old: Option<&str>) -> Result<(), ArchiveError> {
        let condition = match old {
            None => Condition::IsNew,
            Some(old) => match self.bucket.end(&self.description_key(), DESCRIPTION_BYTES)? {
                (bytes, _, version) if bytes == old.as_bytes() => Condition::Is(version),
                _ => return Err(BucketError::Replaced(self.description_key()).into()),
            },
        };
        self.bucket.put(&self.description_key(), vec![Bytes::copy_from_slice(text.as_bytes())], condition)?;
        Ok(())
    }

    fn is_claimed(&self, archive: &Archive) -> Result<bool, ArchiveError> {
        let path = archive.own.join(CLAIM);
        let claimed = match std::fs::read_to_string(&path) {
            Ok(claimed) => claimed,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(ArchiveError::io("read", &path)(error)),
        };
        match claimed.trim_end() {
            // Nobody's, though somebody's once.
            "" => return Ok(false),
            url if url == self.bucket.url() => return Ok(true),
            _ => (),
        }
        let claimed = claimed.chars().filter(|letter| !letter.is_control()).take(200).collect();
        Err(ArchiveError::Claimed { path: archive.own.clone(), claimed })
    }

    fn claim(&self, archive: &Archive) -> Result<(), ArchiveError> {
        if self.is_claimed(archive)? {
            return Ok(());
        }
        archive.write_durably(0, &archive.own.join(CLAIM), format!("{}\n", self.bucket.url()).as_bytes())
    }

    fn recall(&self, archive: &Archive) -> Result<Option<String>, ArchiveError> {
        if !self.is_claimed(archive)? {
            return Ok(None);
        }
        // One that cannot be read is as good as none.
        Ok(std::fs::read_to_string(archive.own.join(REMEMBERED)).ok())
    }

    fn remember(&self, archive: &Archive, text: &str) -> Result<(), ArchiveError> {
        let path = archive.own.join(REMEMBERED);
        match std::fs::read(&path) {
            Ok(known) if known == text.as_bytes() => Ok(()),
            _ => archive.write_durably(0, &path, text.as_bytes()),
        }
    }

    fn is_guarded(&self) -> Result<bool, ArchiveError> {
        // The description is there, and would be replaced by itself.
        let (text, ..) = self.bucket.end(&self.description_key(), DESCRIPTION_BYTES)?;
        match self.bucket.put(&self.description_key(), vec![text], Condition::IsNew) {
            Ok(_) => Ok(false),
            Err(BucketError::Replaced(_)) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    fn entries(&self, dir: &Path) -> Result<Vec<Entry>, ArchiveError> {
        let (folders, objects) = self.bucket.entries(&self.key(dir))?;
        let folders = folders.into_iter().map(|key| (key, true));
        let found =
            folders.chain(objects.into_iter().map(|object| (object.key, false))).map(|(key, is_folder)| Entry {
                name: key.rsplit('/').next().unwrap_or_default().to_owned(),
                path: self.path(&key),
                is_folder,
                is_file: !is_folder,
                is_link: false,
            });
        Ok(found.filter(|entry| !entry.name.is_empty()).collect())
    }

    fn listed(&self, dataset: &str, days: &RangeInclusive<NaiveDate>) -> Result<Days, ArchiveError> {
        // In the order of the keys, a day's folder comes before what is in it, and with a zero after all of that.
        let bound = |day: &NaiveDate, none: NaiveDate, end: &str| match day {
            day if *day == none => String::new(),
            day => format!("{dataset}/date={day}{end}"),
        };
        let (first, last) = (bound(days.start(), NaiveDate::MIN, ""), bound(days.end(), NaiveDate::MAX, "0"));
        let mut found = Days::new();
        for object in self.bucket.objects(dataset, &(first..last))? {
            let Some((folder, file)) = object.key.rsplit_once('/') else { continue };
            let folder = folder.strip_prefix(dataset).and_then(|folder| folder.strip_prefix('/'));
            let day = folder.and_then(|folder| Partition::parse(dataset, folder));
            let Some((day, name)) = day.zip(PartName::parse(file)) else { continue };
            let part = Listed { name, path: self.path(&object.key), bytes: Some(object.bytes) };
            found.entry(day).or_default().push(part);
        }
        found.retain(|day, _| days.contains(&day.date));
        Ok(found)
    }

    fn look(&self, path: &Path) -> Result<Source, ArchiveError> {
        let key = self.key(path);
        let (end, length, version) = self.bucket.end(&key, END)?;
        let object = Object { bucket: self.bucket.clone(), key, version };
        Ok(Source::of_object(Arc::new(object), length, end))
    }

    fn hold(&self, archive: &Archive, path: &Path) -> Result<PartFile, ArchiveError> {
        let staging = paths::staging(&archive.own, 0);
        archive.disk.make_dirs(&staging)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let held = || {
            let mut file = archive.unfinished(&staging, &format!("read.{name}"))?;
            let local = file.path().to_owned();
            // Nobody needs its name: without one, a killed process leaves nothing behind.
            archive.disk.remove(&local).unwrap_or_else(|error| warn(&error));
            match self.download(path, &mut file, &local) {
                // What is gone does not come back.
                Err(error @ ArchiveError::Bucket(BucketError::Absent(_))) => Ok(Err(error)),
                version => PartFile::held(path, file.into_file(), version?).map(Ok),
            }
        };
        // A collector may publish it anew while it is read: what is there then is read.
        let first = while_replaced(held)??;
        // What came over a network is damage only if it comes like that again.
        if first.checksum()? == Checksum::Wrong { while_replaced(held)? } else { Ok(first) }
    }

    fn next_name(&self, shard: u32, old: Option<PartName>) -> PartName {
        // One key for good: of two who write to it at once, the second is told.
        old.unwrap_or(PartName { shard, publish: 1 })
    }

    fn replace(&self, archive: &Archive, staged: &mut Staged) -> Result<(), ArchiveError> {
        // No lock keeps a collector elsewhere from writing while days are filed into other shards.
        archive.check_shards()?;
        let mut made = Vec::new();
        let sent = staged.names.iter().try_for_each(|name| self.send(staged, *name, &mut made));
        // Where that began while they were sent, their rows may be filed already, or never be: they do not count.
        if let Err(error) = archive.check_shards() {
            if matches!(error, ArchiveError::Resharded { .. } | ArchiveError::Resharding { .. }) {
                made.iter().for_each(|(key, version)| self.remove(key, version).unwrap_or_else(|error| warn(&error)));
                return Err(error);
            }
            // What kept them from being sent says more.
            return sent.and(Err(error));
        }
        sent?;
        let mut gone = staged.bases.iter().map(|(name, _)| *name).filter(|name| !staged.names.contains(name));
        gone.try_for_each(|name| match self.target(staged, name) {
            (key, Condition::Is(read)) => self.remove(&key, &read),
            (key, Condition::IsNew) => Ok(self.bucket.remove(&key)?),
        })
    }

    fn remove_day(&self, _archive: &Archive, partition: &Partition) -> Result<(), ArchiveError> {
        for object in self.bucket.objects(&partition.to_string(), &Range::default())? {
            self.bucket.remove(&object.key)?;
        }
        Ok(())
    }

    fn take_away(&self, archive: &Archive, path: &Path, place: &Path) -> Result<(), ArchiveError> {
        let below = self.bucket.objects(&self.key(path), &Range::default())?;
        if below.is_empty() {
            return self.move_to(archive, path, place);
        }
        archive.disk.make_dirs(place)?;
        for object in below {
            let name = object.key.replace('/', ".");
            self.move_to(archive, &self.path(&object.key), &place.join(name))?;
        }
        Ok(())
    }
}
