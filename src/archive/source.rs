//! The bytes of a part, as the decoder asks for them.
//!
//! Read by position, so that several threads can read one part; whole column chunks that will be decoded
//! anyway are fetched at once.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};

/// The length of a footer, and `PAR1`.
pub(super) const TAIL: usize = 8;

/// An open file, and pieces of it that are in memory already.
#[derive(Debug, Clone)]
pub(super) struct Source {
    file: Arc<File>,
    length: u64,
    held: Vec<(u64, Bytes)>,
}

/// Reads on from a position.
struct Onward {
    file: Arc<File>,
    at: u64,
}

impl Source {
    pub(super) fn new(file: File) -> io::Result<Self> {
        let length = file.metadata()?.len();
        Ok(Self { file: Arc::new(file), length, held: Vec::new() })
    }

    /// The bytes from `start` on.
    pub(super) fn bytes(&self, start: u64, length: usize) -> io::Result<Bytes> {
        if start.checked_add(length as u64).is_none_or(|end| end > self.length) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, start)?;
        Ok(bytes.into())
    }

    /// The same file, with pieces of it in memory.
    pub(super) fn holding(&self, pieces: impl Iterator<Item = (u64, u64)>) -> io::Result<Self> {
        let piece = |(start, length)| {
            let length = usize::try_from(length).map_err(|_too_long| io::ErrorKind::UnexpectedEof)?;
            self.bytes(start, length).map(|bytes| (start, bytes))
        };
        Ok(Self { held: pieces.map(piece).collect::<io::Result<_>>()?, ..self.clone() })
    }

    /// Reads all of it.
    pub(super) fn whole(&self) -> impl Read + use<> {
        Onward { file: Arc::clone(&self.file), at: 0 }
    }

    /// Where the footer stands; none where the file does not end as Parquet does.
    pub(super) fn footer(&self) -> io::Result<Option<Range<u64>>> {
        let Some(end) = self.length.checked_sub(TAIL as u64) else { return Ok(None) };
        let tail = self.bytes(end, TAIL)?;
        let length = u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]);
        Ok(end.checked_sub(u64::from(length)).filter(|_| tail.ends_with(b"PAR1")).map(|start| start..end))
    }

    fn held(&self, start: u64) -> Option<Bytes> {
        let inside = |(at, bytes): &&(u64, Bytes)| (*at..at + bytes.len() as u64).contains(&start);
        let (at, bytes) = self.held.iter().find(inside)?;
        Some(bytes.slice(usize::try_from(start - at).ok()?..))
    }
}

impl Length for Source {
    fn len(&self) -> u64 {
        self.length
    }
}

impl ChunkReader for Source {
    type T = Box<dyn Read + Send>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        Ok(match self.held(start) {
            Some(bytes) => Box::new(bytes.reader()),
            None => Box::new(BufReader::new(Onward { file: Arc::clone(&self.file), at: start })),
        })
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        match self.held(start).filter(|bytes| bytes.len() >= length) {
            Some(bytes) => Ok(bytes.slice(..length)),
            None => Ok(self.bytes(start, length)?),
        }
    }
}

impl Read for Onward {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}
