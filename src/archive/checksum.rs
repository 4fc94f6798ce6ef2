//! A checksum over a whole part, kept in the part itself.
//!
//! Parquet's pages have none as they are written here, so a bent bit may read as another value. The
//! footer's key-value metadata holds 16 hexadecimal digits under [`KEY`]: the XXH64 of the file with
//! those digits as zeros. They are filled in once the file is written, before it becomes durable.

use std::fs::File;
use std::hash::Hasher;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use twox_hash::XxHash64;

use crate::disk::{DiskError, DiskFile};

/// Name of the metadata entry.
pub(super) const KEY: &str = "dex_archive.xxh64";

/// What stands for the checksum until it is known.
pub(super) const BLANK: &str = "0000000000000000";

/// The length of the footer, and `PAR1`.
const TAIL: usize = 8;

/// Bytes that are hashed at once.
const CHUNK: usize = 64 * 1024;

/// A file whose bytes are hashed as they are written.
#[derive(Debug)]
pub(super) struct Hashing {
    file: DiskFile,
    hash: XxHash64,
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
        Self { file, hash: XxHash64::with_seed(0), refused: Refused::default() }
    }

    /// Where to look for what the file system said.
    pub(super) fn refused(&self) -> Refused {
        Arc::clone(&self.refused)
    }

    /// Bytes written so far.
    pub(super) fn length(&self) -> u64 {
        self.file.position()
    }

    /// Fills in the checksum of a file that is complete.
    pub(super) fn seal(mut self) -> Result<DiskFile, DiskError> {
        let path = self.file.path().to_owned();
        let digits = File::open(&path).and_then(|mut written| place(&mut written));
        let filled = digits.and_then(|digits| {
            let digits = digits.ok_or_else(|| io::Error::other("there is no place for the checksum"))?;
            self.file.seek(digits.start)?;
            self.file.write_all(format!("{:016x}", self.hash.finish()).as_bytes())
        });
        filled.map_err(DiskError::of("write", &path))?;
        Ok(self.file)
    }
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
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
pub(super) fn check(file: &mut File) -> io::Result<Checksum> {
    let Some(digits) = place(file)? else { return Ok(Checksum::Missing) };
    file.seek(SeekFrom::Start(0))?;
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

/// Where the digits stand in a file; none where it has no footer with them.
fn place(file: &mut File) -> io::Result<Option<Range<u64>>> {
    let length = file.seek(SeekFrom::End(0))?;
    let Some(tail_start) = length.checked_sub(TAIL as u64) else { return Ok(None) };
    let mut tail = [0; TAIL];
    file.seek(SeekFrom::Start(tail_start))?;
    file.read_exact(&mut tail)?;
    let footer_length = u64::from(u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]));
    let Some(footer_start) = tail_start.checked_sub(footer_length).filter(|_| tail.ends_with(b"PAR1")) else {
        return Ok(None);
    };
    let mut footer = vec![0; usize::try_from(footer_length).unwrap_or(0)];
    file.seek(SeekFrom::Start(footer_start))?;
    file.read_exact(&mut footer)?;
    Ok(digits(&footer).map(|digits| footer_start + digits.start as u64..footer_start + digits.end as u64))
}

/// The digits behind the key: Thrift's compact protocol puts two bytes between a short key and value.
fn digits(footer: &[u8]) -> Option<Range<usize>> {
    let key = footer.windows(KEY.len()).rposition(|window| window == KEY.as_bytes())?;
    let start = key + KEY.len() + 2;
    let digits = start..start + BLANK.len();
    footer.get(digits.clone())?.iter().all(u8::is_ascii_hexdigit).then_some(digits)
}
