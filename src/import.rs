//! Bodies from files into the archive, by the way that answers of the API take.
//!
//! A file holds one JSON value a line (NDJSON), or one value as a whole; each value is a device state,
//! an array of them, or the API's envelope around either. A line that is no JSON goes to the quarantine
//! with its number. Decompression and the choice of files are the caller's business.

use std::io::{self, BufRead};

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

/// Journals the bodies of a file. `name` is where they are said to come from.
///
/// # Errors
/// Where the file cannot be read, or the journal not be written. What was read before is journalled.
pub fn read_file(
    ingest: &mut Ingest,
    file: &mut dyn BufRead,
    name: &str,
    options: &ImportOptions,
) -> Result<ImportStats, ImportError> {
    let mut import = Import { ingest, name, options, bodies: Vec::new(), stats: ImportStats::default() };
    let first = first_value(file).map_err(|error| import.unreadable(error))?;
    let mut number = 0;
    // A value that is spread over lines was read to the file's end; its lines count only if it is none.
    match &first {
        First::Whole(text) => import.take(1, text)?,
        First::Lines(lines) => {
            for line in lines.split_inclusive(|b| *b == b'\n') {
                number += 1;
                import.take(number, line)?;
            }
        }
    }
    let mut line = Vec::new();
    while file.read_until(b'\n', &mut line).map_err(|error| import.unreadable(error))? > 0 {
        number += 1;
        import.take(number, &line)?;
        line.clear();
    }
    import.flush()?;
    Ok(import.stats)
}

/// What a file begins with.
enum First {
    /// One value, which is the whole file.
    Whole(Vec<u8>),
    /// One or more lines.
    Lines(Vec<u8>),
}

/// A file on its way into the journal.
struct Import<'a> {
    ingest: &'a mut Ingest,
    name: &'a str,
    options: &'a ImportOptions,
    bodies: Vec<Body>,
    stats: ImportStats,
}

/// Reads the first line that is not blank. Where that is no value by itself, but may begin one, the
/// whole file is read.
fn first_value(file: &mut dyn BufRead) -> io::Result<First> {
    let mut text = Vec::new();
    let mut start = 0;
    while file.read_until(b'\n', &mut text)? > 0 && text[start..].trim_ascii().is_empty() {
        start = text.len();
    }
    let line = text[start..].trim_ascii();
    if is_value(line) || !matches!(line.first(), Some(b'[' | b'{')) {
        return Ok(First::Lines(text));
    }
    file.read_to_end(&mut text)?;
    Ok(if is_value(&text) { First::Whole(text) } else { First::Lines(text) })
}

fn is_value(text: &[u8]) -> bool {
    std::str::from_utf8(text).is_ok_and(|text| envelope::read(text).is_ok())
}

impl Import<'_> {
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
        if self.bodies.len() >= ANSWER_BODIES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), ImportError> {
        if self.bodies.is_empty() {
            return Ok(());
        }
        let answer = Answer {
            account_id: self.options.account_id.clone(),
            sweep_id: self.options.sweep_id.clone(),
            source: Source::Import,
            collected_at: self.options.collected_at,
            bodies: std::mem::take(&mut self.bodies),
            poll: None,
        };
        Ok(self.ingest.append(answer)?)
    }

    fn unreadable(&self, error: io::Error) -> ImportError {
        ImportError::Read { name: self.name.to_owned(), error }
    }
}
