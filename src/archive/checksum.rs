//! A checksum over a whole part, kept in the part itself.
//!
//! Parquet's pages have none as they are written here, so a bent bit may read as another value. The
//! footer's key-value metadata holds 16 hexadecimal digits under [`KEY`]: the XXH64 of the file with
//! those digits as zeros. They are filled in once the file is written, before it becomes durable.

use std::hash::Hasher;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use twox_hash::XxHash64;

use super::source::{Source, TAIL};
use crate::disk::{DiskError, DiskFile};

/// Name of the metadata entry.
pub(super) const KEY: &str = "dex_archive.xxh64";

/// How the names of this program's entries begin.
const OURS: &str = "dex_archive.";

/// What stands for the checksum until it is known.
pub(super) const BLANK: &str = "0000000000000000";

/// Bytes that are hashed at once.
const CHUNK: usize = 64 * 1024;

/// A file whose bytes are hashed as they are written. From [`Hashing::hold`] on they wait in memory: the end of
/// a part can be completed only when it is there as a whole.
#[derive(Debug)]
pub(super) struct Hashing {
    file: DiskFile,
    hash: XxHash64,
    end: Option<Vec<u8>>,
    /// What the file system said, where it refused a write: the Parquet writer passes on the words alone.
    refused: Refused,
}

/// The number of an error of the file system; 0 for none.
pub(super) type Refused = Arc<AtomicI32>;

/// What a part's checksum says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksum {
    /// The part is as it was written.
    Right,
    /// It is not.
    Wrong,
    /// It has none: it was not written by this program, or its footer is gone.
    Missing,
}

impl Hashing {
    pub(super) fn new(file: DiskFile) -> Self {
        Self { file, hash: XxHash64::with_seed(0), end: None, refused: Refused::default() }
    }

    /// Keeps what comes from now on in memory, until the file is sealed.
    pub(super) fn hold(&mut self) {
        self.end = Some(Vec::new());
    }

    /// What is held, up to the footer; and the footer, without what ends the file.
    pub(super) fn end(&self) -> Option<(&[u8], &[u8])> {
        let (held, tail) = self.end.as_ref()?.split_last_chunk::<TAIL>()?;
        let length = u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]);
        held.split_at_checked(held.len().checked_sub(usize::try_from(length).ok()?)?)
    }

    /// Where to look for what the file system said.
    pub(super) fn refused(&self) -> Refused {
        Arc::clone(&self.refused)
    }

    /// Writes what is held, with `before_footer` in front of the footer and the checksum filled in. Returns the
    /// length of the file.
    pub(super) fn seal(mut self, before_footer: &[u8]) -> Result<(DiskFile, u64), DiskError> {
        let sealed = self.complete(before_footer);
        sealed.map_err(DiskError::of("write", self.file.path()))?;
        let length = self.file.position();
        Ok((self.file, length))
    }

    fn complete(&mut self, before_footer: &[u8]) -> io::Result<()> {
        let no_place = || io::Error::other("there is no place for the checksum");
        let (indexes, footer) = self.end().ok_or_else(no_place)?;
        let (place, footer_start) = (indexes.len(), indexes.len() + before_footer.len());
        let digits = digits(footer).ok_or_else(no_place)?;
        let mut end = self.end.take().unwrap_or_default();
        end.splice(place..place, before_footer.iter().copied());
        self.hash.write(&end);
        let checksum = format!("{:016x}", self.hash.finish());
        end[footer_start + digits.start..footer_start + digits.end].copy_from_slice(checksum.as_bytes());
        self.file.write_all(&end)
    }
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(end) = &mut self.end {
            end.extend_from_slice(bytes);
            return Ok(bytes.len());
        }
        let written = self.file.write(bytes).inspect_err(|error| {
            self.refused.store(error.raw_os_error().unwrap_or(0), Ordering::Relaxed);
        })?;
        self.hash.write(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Reads a part from end to end and compares.
pub(super) fn check(source: &Source) -> io::Result<Checksum> {
    let Some(footer) = source.footer()? else { return Ok(Checksum::Missing) };
    let bytes = source.bytes(footer.start, usize::try_from(footer.end - footer.start).unwrap_or(usize::MAX))?;
    let Some(digits) = digits(&bytes) else {
        // Where other entries of ours are there, the one with the checksum is bent.
        let is_ours = bytes.windows(OURS.len()).any(|window| window == OURS.as_bytes());
        return Ok(if is_ours { Checksum::Wrong } else { Checksum::Missing });
    };
    let digits = footer.start + digits.start as u64..footer.start + digits.end as u64;
    let mut file = source.whole();
    let mut hash = XxHash64::with_seed(0);
    let mut said = Vec::new();
    let (mut at, mut chunk) = (0_u64, vec![0; CHUNK]);
    loop {
        let length = file.read(&mut chunk)?;
        if length == 0 {
            break;
        }
        // The digits may lie across the chunk's end.
        for position in digits.start.max(at)..digits.end.min(at + length as u64) {
            let byte = &mut chunk[usize::try_from(position - at).unwrap_or(0)];
            said.push(std::mem::replace(byte, b'0'));
        }
        hash.write(&chunk[..length]);
        at += length as u64;
    }
    let right = format!("{:016x}", hash.finish());
    Ok(if said == right.as_bytes() { Checksum::Right } else { Checksum::Wrong })
}

/// The digits behind the key: Thrift's compact protocol puts two bytes between a short key and value.
fn digits(footer: &[u8]) -> Option<Range<usize>> {
    let key = footer.windows(KEY.len()).rposition(|window| window == KEY.as_bytes())?;
    let start = key + KEY.len() + 2;
    let digits = start..start + BLANK.len();
    (digits.end <= footer.len()).then_some(digits)
}
