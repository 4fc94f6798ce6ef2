//! Segments that are there to be read. Reading never writes.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use twox_hash::XxHash64;

use crate::clock::Timestamp;
use crate::snapshot::Answer;

use super::{JOURNAL_FORMAT, JournalError, MAGIC, SEGMENT_HEADER, frame, parse_segment_name};

/// A segment in memory.
#[derive(Debug)]
pub struct Segment {
    bytes: Bytes,
}

/// The bodies of a segment, or of another file, to be read once more, one at a time.
#[derive(Debug)]
pub struct BodyFile {
    file: File,
    path: PathBuf,
    length: u64,
    /// When the content was last changed, in seconds and nanoseconds since the Unix epoch.
    changed: (i64, i64),
    /// The hash of how it begins and ends.
    edges: u64,
}

/// So many bytes at either end of a file tell whether it has only grown.
const EDGE: u64 = 64 << 10;

/// What stands in a segment.
#[derive(Debug, PartialEq)]
pub enum Item {
    /// An answer as it was appended.
    Answer {
        /// The answer.
        answer: Box<Answer>,
        /// Where its bodies begin, counted from the start of the file. They lie one after the other.
        bodies_at: u64,
    },
    /// Bytes that are no frame: written in part, or bent since.
    Gap {
        /// First byte, counted from the start of the file.
        start: u64,
        /// One past the last byte.
        end: u64,
    },
}

/// The segments in a folder by sequence number; other files are not looked at.
///
/// # Errors
/// Where the folder cannot be read.
pub fn segments(dir: &Path) -> Result<Vec<(u64, PathBuf)>, JournalError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(JournalError::read(dir))? {
        let entry = entry.map_err(JournalError::read(dir))?;
        // Who opened a pipe would wait for ever.
        let is_special = entry.path().metadata().is_ok_and(|file| !file.is_file() && !file.is_dir());
        if let Some(sequence) = entry.file_name().to_str().and_then(parse_segment_name).filter(|_| !is_special) {
            found.push((sequence, entry.path()));
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// When the first answer in some segments was received; those that cannot be read are passed over.
#[must_use]
pub fn first_received(segments: &[(u64, PathBuf)]) -> Option<Timestamp> {
    segments.iter().find_map(|(_, path)| Segment::read(path).ok()?.first_received())
}

impl Segment {
    /// Reads a segment.
    ///
    /// # Errors
    /// Where the file cannot be read, or is of a later format.
    pub fn read(path: &Path) -> Result<Self, JournalError> {
        let bytes = Bytes::from(fs::read(path).map_err(JournalError::read(path))?);
        let version = bytes.get(MAGIC.len()..SEGMENT_HEADER).and_then(|version| version.try_into().ok());
        match version.map(u32::from_le_bytes) {
            // A frame that is one says more than a version that may have a bent bit.
            Some(found)
                if bytes.starts_with(MAGIC)
                    && found > JOURNAL_FORMAT
                    && frame::decode(&bytes.slice(SEGMENT_HEADER..)).is_none() =>
            {
                Err(JournalError::Format { path: path.to_owned(), found })
            }
            _ => Ok(Self { bytes }),
        }
    }

    /// Everything in the segment, in order.
    pub fn items(&self) -> impl Iterator<Item = Item> {
        let has_header = self.bytes.len() >= SEGMENT_HEADER && self.bytes.starts_with(MAGIC);
        Items { bytes: &self.bytes, at: if has_header { SEGMENT_HEADER } else { 0 } }
    }

    /// When the first answer in it was received.
    #[must_use]
    pub fn first_received(&self) -> Option<Timestamp> {
        self.items().find_map(|item| match item {
            Item::Answer { answer, .. } => Some(answer.collected_at),
            Item::Gap { .. } => None,
        })
    }

    /// When the last answer in it was received, by account and by the shard, if any, that the collector keeps alone.
    #[must_use]
    pub fn newest_by_collector(&self) -> BTreeMap<(String, Option<String>), Timestamp> {
        let answers = self.items().filter_map(|item| match item {
            Item::Answer { answer, .. } => {
                let shard = answer.poll.and_then(|poll| poll.shard);
                Some(((answer.account_id.as_str().to_owned(), shard), answer.collected_at))
            }
            Item::Gap { .. } => None,
        });
        answers.collect()
    }

    /// The bytes of a gap.
    #[must_use]
    pub fn bytes(&self, start: u64, end: u64) -> &[u8] {
        let index = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(self.bytes.len());
        &self.bytes[index(start)..index(end)]
    }
}

impl BodyFile {
    /// Opens a file.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn open(path: &Path) -> Result<Self, JournalError> {
        File::open(path).and_then(|file| Self::of(file, path)).map_err(JournalError::read(path))
    }

    /// A file that is open already.
    ///
    /// # Errors
    /// Where nothing can be said of it.
    pub fn of(file: File, path: &Path) -> io::Result<Self> {
        let now = file.metadata()?;
        let edges = edges(&file, now.len())?;
        Ok(Self { length: now.len(), changed: (now.mtime(), now.mtime_nsec()), edges, file, path: path.to_owned() })
    }

    /// Whether the file is not what it was when it was opened. It may have grown, if it begins as it did, and what is
    /// new stands where it ended.
    #[must_use]
    pub fn is_changed(&self) -> bool {
        let Ok(now) = self.file.metadata() else { return true };
        match now.len().cmp(&self.length) {
            Ordering::Less => true,
            Ordering::Equal => (now.mtime(), now.mtime_nsec()) != self.changed,
            Ordering::Greater => edges(&self.file, self.length).ok() != Some(self.edges),
        }
    }

    /// The file's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads a body, in place of what `body` held. The bytes are not checked: whoever read the segment has done that.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn read(&self, at: u64, length: usize, body: &mut Vec<u8>) -> Result<(), JournalError> {
        body.resize(length, 0);
        self.file.read_exact_at(body, at).map_err(JournalError::read(&self.path))
    }
}

/// The hash of the first bytes of a file and of the last before a length.
fn edges(file: &File, length: u64) -> io::Result<u64> {
    let most = length.min(EDGE);
    let mut bytes = vec![0; usize::try_from(most).expect("an edge fits into memory")];
    file.read_exact_at(&mut bytes, 0)?;
    let first = XxHash64::oneshot(0, &bytes);
    file.read_exact_at(&mut bytes, length - most)?;
    Ok(XxHash64::oneshot(first, &bytes))
}

struct Items<'a> {
    bytes: &'a Bytes,
    at: usize,
}

impl Iterator for Items<'_> {
    type Item = Item;

    fn next(&mut self) -> Option<Item> {
        if self.at >= self.bytes.len() {
            return None;
        }
        let rest = self.bytes.slice(self.at..);
        if let Some((answer, length)) = frame::decode(&rest) {
            self.at += length;
            let bodies: usize = answer.bodies.iter().map(|body| body.bytes.len()).sum();
            return Some(Item::Answer { answer: Box::new(answer), bodies_at: (self.at - bodies) as u64 });
        }
        let start = self.at;
        self.at += next_frame(&rest).unwrap_or(rest.len());
        Some(Item::Gap { start: start as u64, end: self.at as u64 })
    }
}

/// Where the next whole frame begins, after a place where none does.
fn next_frame(bytes: &Bytes) -> Option<usize> {
    let markers = bytes.windows(frame::MARKER.len()).enumerate().skip(1).filter(|(_, window)| window == frame::MARKER);
    markers.map(|(at, _)| at).find(|&at| frame::decode(&bytes.slice(at..)).is_some())
}
