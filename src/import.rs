//! Bodies from files into the archive.
//!
//! A file holds one JSON value a line (NDJSON), or one value as a whole; each value is a device state,
//! an array of them, or the API's envelope around either. A line that is no JSON goes to the quarantine
//! with its number. Bodies take the way that answers of the API take: what was read is journalled and durable half a
//! second later, however slowly more comes. Those of a file that is there to stay are read from it when they are published.
//! Decompression and the choice of files are the caller's business.
//!
//! Lines of Logpush are put into the API's words first.

mod logpush;

use std::io::{self, BufRead, Read};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use bytes::Bytes;
use flume::{Receiver, RecvTimeoutError, Sender};

use crate::clock::Timestamp;
use crate::envelope::{self, Content};
use crate::ingest::{BodyFile, Ingest, IngestError, SYNC_AFTER};
use crate::snapshot::{AccountId, Answer, Body, Origin, Source};

use logpush::Translated;

/// What the rows of an import say of themselves.
#[derive(Debug, Clone)]
pub struct ImportOptions {
    /// What the files hold.
    pub form: Form,
    /// The account that the states belong to, where they do not say so themselves.
    pub account_id: Option<AccountId>,
    /// Name of the import; it stands in every row.
    pub sweep_id: String,
    /// When the states were collected.
    pub collected_at: Timestamp,
}

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Bodies of the API.
    Api,
    /// Lines of Logpush's `dex_device_state_events`.
    Logpush,
}

/// What a file brought. What became of it is known once it is published.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ImportStats {
    /// Values that the file holds: lines, where it has one on each.
    pub values: u64,
    /// Bodies in them.
    pub bodies: u64,
    /// Lines that were passed over, for nobody says whose states they are.
    pub unattributed: u64,
    /// The first of these, from 1.
    pub first_unattributed: Option<u64>,
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
    /// What was read cannot be taken in.
    #[error(transparent)]
    Ingest(#[from] IngestError),
}

/// Bodies that are handed over together, and bytes of them: as many, or as much.
const ANSWER_BODIES: usize = 256;
const ANSWER_BYTES: usize = 16 << 20;

/// The longest value that may be spread over lines, in bytes. More is taken for lines; where it begins as an array, for its
/// elements, one a line. (Tests have less.)
const WHOLE_BYTES: u64 = if cfg!(test) { 4 << 10 } else { 256 << 20 };

/// The longest line, in bytes. A file with a longer one is read up to it. (Tests have less.)
const LINE_BYTES: usize = if cfg!(test) { 1 << 20 } else { 1 << 30 };

/// Bytes that are read at once. What is buffered before should be no more.
pub const PIECE_BYTES: usize = 256 << 10;

/// Pieces that wait for the journal; more make the reading wait.
const WAITING_PIECES: usize = 4;

/// Takes in the bodies of a file. `name` is where they are said to come from. With `lasting`, they stand in that file,
/// at the places where `file` has them, and need not be journalled.
///
/// # Errors
/// Where the file cannot be read, or the journal not be written. What was read before is handed over, and counted.
pub fn read_file(
    ingest: &mut Ingest,
    file: Box<dyn BufRead + Send>,
    lasting: Option<BodyFile>,
    name: &str,
    options: &ImportOptions,
) -> (ImportStats, Result<(), ImportError>) {
    let (bodies, places, stats, synced) = (Vec::new(), Vec::new(), ImportStats::default(), Instant::now());
    let name = &Arc::from(name);
    let account = options.account_id.clone();
    // Lines of Logpush become other bodies than stand in the file.
    let lasting = lasting.filter(|_| options.form == Form::Api).map(Arc::new);
    let (named, bytes, is_array) = (None, 0, false);
    let mut import =
        Import { ingest, lasting, name, options, account, named, bodies, bytes, places, is_array, stats, synced };
    // A thread reads, so that what was read need not wait for what is still to come.
    let (sender, pieces) = flume::bounded(WAITING_PIECES);
    thread::spawn(move || read_pieces(file, &sender));
    let ended = import.take_all(&pieces);
    // What was read before a fault is taken in all the same.
    let flushed = import.flush();
    (import.stats, flushed.and(ended))
}

/// What is read of a file.
enum Piece {
    /// One value that may be spread over lines: the whole file.
    Whole(Bytes),
    /// The lines that come are an array's.
    Array,
    /// Lines, as many as were there to be read.
    Lines(Bytes),
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
    while read_line(file, &mut text)? > 0 {
        take_mark(&mut text)?;
        if !text[start..].trim_ascii().is_empty() {
            break;
        }
        start = text.len();
    }
    let line = text[start..].trim_ascii();
    let is_array = line.first() == Some(&b'[');
    let mut read = Ok(0);
    if !is_value(line) && (is_array || line.first() == Some(&b'{')) {
        read = file.by_ref().take(WHOLE_BYTES).read_to_end(&mut text);
        if read.is_ok() && is_value(&text) {
            let _ = pieces.send(Piece::Whole(text.into()));
            return Ok(());
        }
        // The last line may have been cut by the limit.
        read = read.and_then(|_| read_line(file, &mut text));
        if is_array {
            let _ = pieces.send(Piece::Array);
        }
    }
    let _ = pieces.send(Piece::Lines(text.into()));
    read.map(drop)
}

/// Reads the rest of a line behind what is there; returns how many bytes it has. Of one that is too long, nothing is read.
fn read_line(file: &mut impl BufRead, text: &mut Vec<u8>) -> io::Result<usize> {
    let before = text.len();
    let read = file.by_ref().take(LINE_BYTES as u64).read_until(b'\n', text)?;
    if read < LINE_BYTES || text.ends_with(b"\n") {
        return Ok(read);
    }
    text.truncate(before);
    Err(too_long())
}

fn too_long() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("a line in it is longer than {LINE_BYTES} bytes"))
}

/// Puts blanks in the place of the mark that some programs write before a file's text.
fn take_mark(text: &mut [u8]) -> io::Result<()> {
    if text.starts_with(&[0xff, 0xfe]) || text.starts_with(&[0xfe, 0xff]) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is UTF-16: write it as UTF-8"));
    }
    if text.starts_with(&[0xef, 0xbb, 0xbf]) {
        text[..3].fill(b' ');
    }
    Ok(())
}

/// The element of an array in a line of it; the line where it is something else.
fn element(line: &[u8]) -> &[u8] {
    let bare = line.strip_suffix(b",").unwrap_or(line);
    let bare = bare.strip_prefix(b"[").unwrap_or(bare);
    let bare = bare.strip_suffix(b"]").unwrap_or(bare).trim_ascii();
    let is_one = bare.is_empty() || (bare.starts_with(b"{") && bare.ends_with(b"}"));
    if is_one { bare } else { line }
}

/// Hands over lines as they come. The last may have no end.
fn read_lines(file: &mut impl Read, pieces: &Sender<Piece>) -> io::Result<()> {
    let mut begun = Vec::new();
    loop {
        // It is read behind what is begun of a line.
        let mut lines = std::mem::take(&mut begun);
        let before = lines.len();
        lines.resize(before + PIECE_BYTES, 0);
        let read = match file.read(&mut lines[before..]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(None),
            read => read.map(Some),
        };
        lines.truncate(before + read.as_ref().map_or(0, |read| read.unwrap_or(0)));
        if matches!(read, Ok(None | Some(1..))) {
            let end = memchr::memrchr(b'\n', &lines[before..]).map_or(0, |end| before + end + 1);
            // To copy what is begun of a long line, piece after piece, would take time by its square.
            begun = if end == 0 { std::mem::take(&mut lines) } else { lines.split_off(end) };
        }
        let read = if begun.len() < LINE_BYTES { read } else { Err(too_long()) };
        let listening = lines.is_empty() || pieces.send(Piece::Lines(lines.into())).is_ok();
        if read? == Some(0) || !listening {
            return Ok(());
        }
    }
}

/// A file on its way in.
struct Import<'a> {
    ingest: &'a mut Ingest,
    /// The file, where it is there to stay.
    lasting: Option<Arc<BodyFile>>,
    name: &'a Arc<str>,
    options: &'a ImportOptions,
    /// Whose the bodies are that wait.
    account: Option<AccountId>,
    /// The last that a line named.
    named: Option<AccountId>,
    bodies: Vec<Body>,
    /// How long they are together.
    bytes: usize,
    /// Where each stands in the file.
    places: Vec<u64>,
    /// Whether each line is an element of an array.
    is_array: bool,
    stats: ImportStats,
    synced: Instant,
}

fn is_value(text: &[u8]) -> bool {
    std::str::from_utf8(text).is_ok_and(|text| envelope::read(text, usize::MAX).is_ok())
}

impl Import<'_> {
    fn take_all(&mut self, pieces: &Receiver<Piece>) -> Result<(), ImportError> {
        let (mut number, mut behind) = (0, 0);
        loop {
            match pieces.recv_timeout(SYNC_AFTER) {
                Ok(Piece::Whole(text)) => {
                    self.take(1, &text, 0)?;
                    behind += text.len() as u64;
                }
                Ok(Piece::Array) => self.is_array = true,
                Ok(Piece::Lines(lines)) => {
                    let mut start = 0;
                    for end in memchr::memchr_iter(b'\n', &lines).chain([lines.len()]) {
                        if start < lines.len() {
                            number += 1;
                            self.take(number, &lines.slice(start..end), behind + start as u64)?;
                        }
                        start = end + 1;
                    }
                    behind += lines.len() as u64;
                }
                Ok(Piece::Failed(error)) => return Err(ImportError::Read { name: self.name.to_string(), error }),
                Err(RecvTimeoutError::Timeout) => self.flush()?,
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
        }
    }

    /// Takes a value, or a line that should be one, which stands at a place of the file.
    fn take(&mut self, number: u64, line: &Bytes, at: u64) -> Result<(), ImportError> {
        let text = line.trim_ascii();
        // A line may be an array by itself.
        let is_element = self.is_array && !(text.starts_with(b"[") && is_value(text));
        let text = line.slice_ref(if is_element { element(text) } else { text });
        let place = |part: &[u8]| at + (part.as_ptr().addr() - line.as_ptr().addr()) as u64;
        if text.is_empty() {
            return Ok(());
        }
        self.stats.values += 1;
        let utf8 = || std::str::from_utf8(&text).ok();
        if self.options.form == Form::Logpush {
            return self.take_line(number, utf8().and_then(logpush::translate), &text);
        }
        // Whether it is whole, whoever makes a row of it finds out.
        if envelope::begins_as_state(&text) {
            return self.push(number, place(&text), text);
        }
        match utf8().and_then(|text| envelope::read(text, usize::MAX).ok()) {
            Some(Content::States(states)) => {
                let mut push = |state: &[u8]| self.push(number, place(state), text.slice_ref(state));
                states.into_iter().try_for_each(|state| push(state.as_bytes()))
            }
            Some(Content::Absent) => Ok(()),
            // What is wrong with it, whoever makes a row of it finds out; the line is kept as it is.
            Some(Content::Refused(_)) | None => self.push(number, place(&text), text.clone()),
        }
    }

    /// Takes a line of Logpush. One that cannot be put into the API's words is kept as it is.
    fn take_line(&mut self, number: u64, line: Option<Translated>, text: &Bytes) -> Result<(), ImportError> {
        // Whose it is, one that cannot be read says as little as what it says.
        let of_others = line.is_none().then(|| self.named.clone()).flatten();
        let (account, body) = line.map_or_else(|| (None, text.clone()), |line| (line.account, Bytes::from(line.body)));
        self.named = account.clone().or(self.named.take());
        let account = account.or_else(|| self.options.account_id.clone()).or(of_others);
        if account != self.account {
            // Bodies of one answer are of one account.
            self.journal()?;
            self.account = account;
        }
        self.push(number, 0, body)
    }

    fn push(&mut self, line: u64, place: u64, bytes: Bytes) -> Result<(), ImportError> {
        if self.account.is_none() {
            self.stats.unattributed += 1;
            self.stats.first_unattributed.get_or_insert(line);
            return Ok(());
        }
        let origin = Some(Origin { file: Arc::clone(self.name), line });
        self.bytes += bytes.len();
        self.bodies.push(Body { bytes, origin });
        self.places.push(place);
        self.stats.bodies += 1;
        let is_much = self.bodies.len() >= ANSWER_BODIES || self.bytes >= ANSWER_BYTES;
        if is_much || self.synced.elapsed() >= SYNC_AFTER { self.flush() } else { Ok(()) }
    }

    fn journal(&mut self) -> Result<(), ImportError> {
        let Some(account_id) = self.account.clone().filter(|_| !self.bodies.is_empty()) else { return Ok(()) };
        let answer = Answer {
            account_id,
            sweep_id: self.options.sweep_id.clone(),
            source: if self.options.form == Form::Logpush { Source::Logpush } else { Source::Import },
            collected_at: self.options.collected_at,
            bodies: std::mem::take(&mut self.bodies),
            poll: None,
        };
        let places = std::mem::take(&mut self.places);
        self.bytes = 0;
        match &self.lasting {
            Some(file) => Ok(self.ingest.append_lasting(answer, file, &places)?),
            None => Ok(self.ingest.append(answer)?),
        }
    }

    /// Journals what waits, and syncs unless that was done just now.
    fn flush(&mut self) -> Result<(), ImportError> {
        self.journal()?;
        if self.synced.elapsed() >= SYNC_AFTER {
            self.ingest.sync()?;
            self.synced = Instant::now();
        }
        Ok(self.ingest.publish_if_much()?)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::archive::{Archive, Shards};
    use crate::clock;
    use crate::disk::Disk;
    use crate::privacy::Policy;

    /// What a file of these bytes brings: new states, and what went to the quarantine.
    fn taken(file: &[u8]) -> (u64, u64) {
        let (_dir, mut ingest) = read(file);
        let published = ingest.publish().expect("a publish");
        (published.states_new, published.quarantined)
    }

    /// An archive's writer that has read a file of these bytes.
    fn read(file: &[u8]) -> (tempfile::TempDir, Ingest) {
        let (dir, ingest, (_, read)) = try_to_read(file);
        read.expect("a file");
        (dir, ingest)
    }

    /// One that has tried to, and what came of it.
    fn try_to_read(file: &[u8]) -> (tempfile::TempDir, Ingest, (ImportStats, Result<(), ImportError>)) {
        let dir = tempfile::tempdir().expect("a folder");
        let now = clock::parse_timestamp("2026-10-02T12:00:00Z").expect("a time");
        let archive = Archive::open_or_create(&dir.path().join("a"), 1, now, Disk::default()).expect("an archive");
        let (mut ingest, _) = Ingest::open(archive, Shards::All, "a test", Policy::default()).expect("the shard");
        let account = AccountId::parse("01a7362d577a6c3019a474fd6f485823").expect("an id");
        let options =
            ImportOptions { form: Form::Api, account_id: Some(account), sweep_id: "s".to_owned(), collected_at: now };
        let file = Box::new(Cursor::new(file.to_vec()));
        let read = read_file(&mut ingest, file, None, "file", &options);
        (dir, ingest, read)
    }

    fn states(count: usize, between: &str) -> String {
        let state = |n: usize| format!(r#"{{"deviceId":"{n}","timestamp":"2026-10-02T10:00:00Z","mode":"[x],"}}"#);
        (0..count).map(state).collect::<Vec<_>>().join(between)
    }

    #[test]
    fn an_array_of_any_length_is_taken_element_by_element() {
        for count in [3, 500] {
            for text in [
                format!("[{}]", states(count, ",")),
                format!("[\n{}\n]\n", states(count, ",\n")),
                format!("[{}]\n", states(count, ",\n")),
                format!(" [\n\n{}\n,\n{}\n]", states(1, ""), states(count, "\n,\n")),
            ] {
                assert_eq!(taken(text.as_bytes()), (count as u64, 0), "{}", &text[..60]);
            }
        }
        assert_eq!(taken(b"[\n{\"deviceId\":\n").1, 1, "what is no element is kept as it is");
        let pages = format!("[{{\"deviceId\":\n[{}]\n[{}]", states(2, ","), states(1, ","));
        assert_eq!(taken(pages.as_bytes()), (2, 1), "a line may be an array by itself");
    }

    #[test]
    fn what_is_journalled_is_published_once_it_is_much() {
        let days =
            |ingest: &Ingest| ingest.archive().partitions(&crate::schema::Schema::device_state()).expect("days").len();
        assert_eq!(days(&read(states(100, "\n").as_bytes()).1), 0);
        let (_dir, mut ingest) = read(states(40_000, "\n").as_bytes());
        assert_eq!(days(&ingest), 1, "before anybody asks");
        assert_eq!(ingest.publish().expect("a publish").states_new, 40_000, "and all of it is told");
    }

    #[test]
    fn a_line_has_an_end() {
        let long = vec![b'x'; 2 * LINE_BYTES];
        let array = "[\n".to_owned() + &states(2, ",\n");
        // Of the last one, what stood before the limit for values is kept as it is.
        for (before, bodies) in [("", 0), (&(states(3, "\n") + "\n"), 3), (&array, 2)] {
            let file = [before.as_bytes(), &long, b"\n", states(1, "").as_bytes()].concat();
            let (_, _, (stats, read)) = try_to_read(&file);
            assert!(matches!(read, Err(ImportError::Read { .. })) && stats.bodies == bodies, "{stats:?} {read:?}");
        }
        let most = "x".repeat(LINE_BYTES - 1) + "\n";
        try_to_read(most.as_bytes()).2.1.expect("a line");
    }

    #[test]
    fn a_mark_before_the_text_costs_no_state() {
        for text in [states(2, "\n"), format!("[\n{}]", states(2, ","))] {
            assert_eq!(taken(format!("\u{feff}{text}").as_bytes()).0, 2, "{text}");
        }
        let (sender, pieces) = flume::unbounded();
        read_pieces(Box::new(Cursor::new(b"\xff\xfe{\0".to_vec())), &sender);
        assert!(matches!(pieces.recv(), Ok(Piece::Failed(error)) if error.to_string().contains("UTF-16")));
    }
}
