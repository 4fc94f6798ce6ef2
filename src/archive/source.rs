//! The bytes of a part, as the decoder asks for them.
//!
//! Read by position, so that several threads can read one part; what will be decoded anyway is fetched at once.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};

use super::object::Object;

/// The length of a footer, and `PAR1`.
pub(super) const TAIL: usize = 8;

/// What is read in one go of an object that is read onward.
const STRETCH: usize = 256 * 1024;

/// An open file or a version of an object, and pieces of it that are in memory already.
#[derive(Debug, Clone)]
pub(super) struct Source {
    place: Origin,
    length: u64,
    held: Vec<(u64, Bytes)>,
}

#[derive(Debug, Clone)]
enum Origin {
    File(Arc<File>),
    Object(Arc<Object>),
}

/// Reads on from a position.
struct Onward {
    source: Source,
    at: u64,
}

impl Source {
    pub(super) fn new(file: File) -> io::Result<Self> {
        let length = file.metadata()?.len();
        Ok(Self { place: Origin::File(Arc::new(file)), length, held: Vec::new() })
    }

    pub(super) fn open(path: &Path) -> io::Result<Self> {
        File::open(path).and_then(Self::new)
    }

    /// An object of which the end is there already.
    pub(super) fn of_object(object: Arc<Object>, length: u64, end: Bytes) -> Self {
        Self { place: Origin::Object(object), length, held: vec![(length - end.len() as u64, end)] }
    }

    /// The length of all of it.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Whether each piece that is read costs a request.
    pub(super) fn is_far(&self) -> bool {
        matches!(self.place, Origin::Object(_))
    }

    /// The bytes from `start` on.
    pub(super) fn bytes(&self, start: u64, length: usize) -> io::Result<Bytes> {
        let Some(end) = start.checked_add(length as u64).filter(|&end| end <= self.length) else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        if let Some(bytes) = self.held(start).filter(|bytes| bytes.len() >= length) {
            return Ok(bytes.slice(..length));
        }
        match &self.place {
            _ if length == 0 => Ok(Bytes::new()),
            Origin::File(file) => {
                let mut bytes = vec![0; length];
                file.read_exact_at(&mut bytes, start)?;
                Ok(bytes.into())
            }
            Origin::Object(object) => {
                let mut read = object.ranges(std::slice::from_ref(&(start..end))).map_err(io::Error::other)?;
                read.pop().filter(|bytes| bytes.len() == length).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
            }
        }
    }

    /// This source, with pieces of it in memory, each of which lies inside it.
    pub(super) fn holding(&self, pieces: impl Iterator<Item = (u64, u64)>) -> io::Result<Self> {
        let Origin::Object(object) = &self.place else {
            let piece = |(start, length)| {
                let length = usize::try_from(length).map_err(|_too_long| io::ErrorKind::UnexpectedEof)?;
                self.bytes(start, length).map(|bytes| (start, bytes))
            };
            return Ok(Self { held: pieces.map(piece).collect::<io::Result<_>>()?, ..self.clone() });
        };
        let ranges: Vec<Range<u64>> = pieces.map(|(start, length)| start..start.saturating_add(length)).collect();
        if ranges.iter().any(|range| range.is_empty() || range.end > self.length) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let read = object.ranges(&ranges).map_err(io::Error::other)?;
        let read = ranges.iter().map(|range| range.start).zip(read);
        Ok(Self { held: read.chain(self.held.iter().cloned()).collect(), ..self.clone() })
    }

    /// This source, with what lies between the first and the last of the ranges of each group in memory, of which only the
    /// ranges themselves are read: the rest is zeros, which nobody looks at.
    pub(super) fn holding_sparse(&self, groups: &[Vec<Range<u64>>]) -> io::Result<Self> {
        let pieces = groups.iter().flatten().map(|range| (range.start, range.end - range.start));
        let read = self.holding(pieces)?;
        let mut held = Vec::new();
        for ranges in groups {
            let (first, last) =
                (ranges.iter().map(|range| range.start).min(), ranges.iter().map(|range| range.end).max());
            let Some((first, last)) = first.zip(last) else { continue };
            let at = |position: u64| usize::try_from(position - first).map_err(|_long| io::ErrorKind::UnexpectedEof);
            let mut span = vec![0; at(last)?];
            for range in ranges {
                let bytes = read.bytes(range.start, at(range.end)? - at(range.start)?)?;
                span[at(range.start)?..at(range.end)?].copy_from_slice(&bytes);
            }
            held.push((first, Bytes::from(span)));
        }
        Ok(Self { held: held.into_iter().chain(self.held.iter().cloned()).collect(), ..self.clone() })
    }

    /// Reads all of it.
    pub(super) fn whole(&self) -> impl Read + use<> {
        Onward { source: self.clone(), at: 0 }
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
            None if self.is_far() => {
                Box::new(BufReader::with_capacity(STRETCH, Onward { source: self.clone(), at: start }))
            }
            None => Box::new(BufReader::new(Onward { source: self.clone(), at: start })),
        })
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        Ok(self.bytes(start, length)?)
    }
}

impl Read for Onward {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = match &self.source.place {
            Origin::File(file) => file.read_at(buffer, self.at)?,
            Origin::Object(_) => {
                let left = usize::try_from(self.source.length.saturating_sub(self.at)).unwrap_or(usize::MAX);
                let bytes = self.source.bytes(self.at, left.min(buffer.len()))?;
                buffer[..bytes.len()].copy_from_slice(&bytes);
                bytes.len()
            }
        };
        self.at += read as u64;
        Ok(read)
    }
}
