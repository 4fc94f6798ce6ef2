//! Bodies from files into the archive, by the way that answers of the API take.
//!
//! A file holds one JSON value a line (NDJSON), or one value as a whole; each value is a device state,
//! an array of them, or the API's envelope around either. A line that is no JSON goes to the quarantine
//! with its number. What was read is durable half a second later, however slowly more comes.
//! Decompression and the choice of files are the caller's business.

use std::io::{self, BufRead, Read};
use std::thread;
use std::time::{Duration, Instant};

use flume::{Receiver, RecvTimeoutError, Sender};

use crate::clock::Timestamp;
use crate::envelope::{self, Content};
use crate::ingest::{Ingest, IngestError};
use crate::snapshot::{AccountId, Answer, Body, Source};

/// What the rows of an import say of themselves.
#[derive(Debug, Clone)]
pub struct ImportOptions {
    /// The account that the states belong to.
    pub account_id: AccountId,
    /// Name of the import; it stands in every row.
    pub sweep_id: String,
    /// When the states were collected.
    pub collected_at: Timestamp,
}

/// What a file brought. What became of it is known once it is published.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ImportStats {
    /// Values that the file holds: lines, where it has one on each.
    pub values: u64,
    /// Bodies in them.
    pub bodies: u64,
}

/// Why a file could not be taken in.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The file cannot be read.
    #[error("cannot read {name}: {error}")]
    Read {
        /// Name of the file.
        name: String,
        /// Why not.
        error: io::Error,
    },
    /// What was read cannot be journalled.
    #[error(transparent)]
    Ingest(#[from] IngestError),
}

/// Bodies that are journalled together.
const ANSWER_BODIES: usize = 256;

/// How long a body may wait for others before it is journalled and synced.
const SYNC_AFTER: Duration = Duration::from_millis(500);

/// The longest value that may be spread over lines, in bytes. More is taken for lines of which the first
/// is broken.
const WHOLE_BYTES: u64 = 256 << 20;

/// Lines that wait for the journal; more make the reading wait.
const WAITING_LINES: usize = 128;

/// Journals the bodies of a file. `name` is where they are said to come from.
///
/// # Errors
/// Where the file cannot be read, or the journal not be written. What was read before is journalled.
pub fn read_file(
    ingest: &mut Ingest,
    file: Box<dyn BufRead + Send>,
    name: &str,
    options: &ImportOptions,
) -> Result<ImportStats, ImportError> {
    let (bodies, stats, synced) = (Vec::new(), ImportStats::default(), Instant::now());
    let mut import = Import { ingest, name, options, bodies, stats, synced };
    // A thread reads, so that what was read need not wait for what is still to come.
    let (sender, pieces) = flume::bounded(WAITING_LINES);
    thread::spawn(move || read_pieces(file, &sender));
    let ended = import.take_all(&pieces);
    // What was read before a fault is taken in all the same.
    import.flush()?;
    ended.map(|()| import.stats)
}

/// What is read of a file.
enum Piece {
    /// One value that may be spread over lines: the whole file.
    Whole(Vec<u8>),
    Line(Vec<u8>),
    /// Nothing more can be read.
    Failed(io::Error),
}

/// Reads until the file ends, or nobody listens any more.
fn read_pieces(mut file: Box<dyn BufRead + Send>, pieces: &Sender<Piece>) {
    let read = read_first(&mut file, pieces).and_then(|()| read_lines(&mut file, pieces));
    if let Err(error) = read {
        // Where nobody listens, nobody has to know.
        let _ = pieces.send(Piece::Failed(error));
    }
}

/// Reads the first line that is not blank. Where that is no value by itself, but may begin one, the
/// whole file is read; its lines count only if it is none.
fn read_first(file: &mut impl BufRead, pieces: &Sender<Piece>) -> io::Result<()> {
    let mut text = Vec::new();
    let mut start = 0;
    while file.read_until(b'\n', &mut text)? > 0 && text[start..].trim_ascii().is_empty() {
        start = text.len();
    }
    let line = text[start..].trim_ascii();
    if !is_value(line) && matches!(line.first(), Some(b'[' | b'{')) {
        file.by_ref().take(WHOLE_BYTES).read_to_end(&mut text)?;
        if is_value(&text) {
            let _ = pieces.send(Piece::Whole(text));
            return Ok(());
        }
        // The last line may have been cut by the limit.
        file.read_until(b'\n', &mut text)?;
    }
    text.split_inclusive(|b| *b == b'\n').for_each(|line| drop(pieces.send(Piece::Line(line.to_vec()))));
    Ok(())
}

fn read_lines(file: &mut impl BufRead, pieces: &Sender<Piece>) -> io::Result<()> {
    loop {
        let mut line = Vec::new();
        let read = file.read_until(b'\n', &mut line);
        let listening = line.is_empty() || pieces.send(Piece::Line(line)).is_ok();
        if read? == 0 || !listening {
            return Ok(());
        }
    }
}

/// A file on its way into the journal.
struct Import<'a> {
    ingest: &'a mut Ingest,
    name: &'a str,
    options: &'a ImportOptions,
    bodies: Vec<Body>,
    stats: ImportStats,
    synced: Instant,
}

fn is_value(text: &[u8]) -> bool {
    std::str::from_utf8(text).is_ok_and(|text| envelope::read(text).is_ok())
}

impl Import<'_> {
    fn take_all(&mut self, pieces: &Receiver<Piece>) -> Result<(), ImportError> {
        let mut number = 0;
        loop {
            match pieces.recv_timeout(SYNC_AFTER) {
                Ok(Piece::Whole(text)) => self.take(1, &text)?,
                Ok(Piece::Line(line)) => {
                    number += 1;
                    self.take(number, &line)?;
                }
                Ok(Piece::Failed(error)) => return Err(ImportError::Read { name: self.name.to_owned(), error }),
                Err(RecvTimeoutError::Timeout) => self.flush()?,
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
        }
    }

    /// Takes a value, or a line that should be one.
    fn take(&mut self, number: u64, text: &[u8]) -> Result<(), ImportError> {
        let text = text.trim_ascii();
        if text.is_empty() {
            return Ok(());
        }
        self.stats.values += 1;
        match std::str::from_utf8(text).ok().and_then(|text| envelope::read(text).ok()) {
            Some(Content::States(states)) => {
                for state in states {
                    self.push(number, state.as_bytes())?;
                }
                Ok(())
            }
            Some(Content::Absent) => Ok(()),
            // What it is wrong with, the reading of the journal says, with the line kept as it is.
            Some(Content::Refused(_)) | None => self.push(number, text),
        }
    }

    fn push(&mut self, number: u64, bytes: &[u8]) -> Result<(), ImportError> {
        let origin = Some(format!("{}:{number}", self.name).into());
        self.bodies.push(Body { bytes: bytes.into(), origin });
        self.stats.bodies += 1;
        if self.bodies.len() >= ANSWER_BODIES || self.synced.elapsed() >= SYNC_AFTER { self.flush() } else { Ok(()) }
    }

    /// Journals what waits, and syncs unless that was done just now.
    fn flush(&mut self) -> Result<(), ImportError> {
        if !self.bodies.is_empty() {
            let answer = Answer {
                account_id: self.options.account_id.clone(),
                sweep_id: self.options.sweep_id.clone(),
                source: Source::Import,
                collected_at: self.options.collected_at,
                bodies: std::mem::take(&mut self.bodies),
                poll: None,
            };
            self.ingest.append(answer)?;
        }
        if self.synced.elapsed() >= SYNC_AFTER {
            self.ingest.sync()?;
            self.synced = Instant::now();
        }
        Ok(())
    }
}
