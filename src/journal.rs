//! Append-only files of answers that are not yet published.
//!
//! Bodies are journalled before rows are made of them: that can be done again, and never the reverse. A journal is a
//! folder of segments, written one after the other; a segment goes away once the parts that hold its rows are durable.
//! Deciding that is not the journal's business, and reading never writes: what a crash left half-written is reported, not
//! cut.
//!
//! # Format
//!
//! A segment is named `0000000042.journal` after its sequence number. It begins with the eight bytes
//! `DEXJRNL\0` and the format version (`u32`); frames follow. Numbers are little-endian.
//!
//! | bytes | field |
//! | --- | --- |
//! | 4 | marker `F5 64 78 46`; `F5` stands in no UTF-8 text, so none is found inside a body |
//! | 4 | length of the header |
//! | 4 | length of the bodies |
//! | 8 | XXH64 of the two lengths, the header and the bodies |
//! | … | header: JSON, an answer without its bodies but with the length and the origin of each |
//! | … | bodies, one after the other |
//!
//! A frame is an answer as a whole, so a request's poll and its states are kept together or not at all.

mod frame;
mod reader;
mod writer;

use std::io;
use std::path::{Path, PathBuf};

use crate::disk::DiskError;

pub use reader::{BodyFile, Item, Segment, first_received, segments};
pub use writer::Writer;

/// The version of the format above.
pub const JOURNAL_FORMAT: u32 = 1;

const MAGIC: &[u8; 8] = b"DEXJRNL\0";
const SEGMENT_HEADER: usize = MAGIC.len() + size_of::<u32>();

/// Why a journal cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file system would not change something.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The file system would not let something be read.
    #[error("cannot read {}: {error}", path.display())]
    Read {
        /// The segment, the folder, or a file that bodies are taken from.
        path: PathBuf,
        /// What it said.
        error: io::Error,
    },
    /// The segment was written by a later version.
    #[error("journal {} has format {found}, this version reads {JOURNAL_FORMAT}: use the newer dex-archive", path.display())]
    Format {
        /// The segment.
        path: PathBuf,
        /// The format it says it has.
        found: u32,
    },
}

impl JournalError {
    fn read(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self::Read { path, error }
    }
}

fn segment_name(sequence: u64) -> String {
    format!("{sequence:010}.journal")
}

fn parse_segment_name(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".journal")?;
    let sequence = digits.parse().ok()?;
    (segment_name(sequence) == name).then_some(sequence)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::disk::Disk;
    use crate::snapshot::{AccountId, Answer, Body, Endpoint, Listing, Origin, Outcome, Poll, Source};
    use bytes::Bytes;

    fn answer(page: u32, bodies: &[&str]) -> Answer {
        let at = clock::parse_timestamp("2026-11-24T07:40:51.123456Z").expect("a timestamp");
        let account_id = AccountId::parse("01a7362d577a6c3019a474fd6f485823").expect("an account");
        let mut bodies: Vec<Body> = bodies.iter().copied().map(Body::new).collect();
        for (file, line) in [("states.ndjson", 17), ("states.ndjson", 18), ("more.ndjson", 1)] {
            let origin = Some(Origin { file: file.into(), line });
            bodies.push(Body { bytes: Bytes::from_static(b"\xff\xf5dxF"), origin });
        }
        let poll = Poll {
            sweep_id: "s".to_owned(),
            account_id: account_id.clone(),
            requested_at: at,
            endpoint: Endpoint::List,
            device_id: None,
            page: Some(page),
            listing: Some(Listing { source: Source::List, from: at, to: at }),
            outcome: Outcome::State,
            rows: 2,
            http_status: Some(200),
            error_code: None,
            error: None,
            attempts: 1,
            latency_ms: Some(12.5),
            cf_ray: Some("8f1-SJC".to_owned()),
            shard: None,
        };
        Answer {
            account_id,
            sweep_id: "s".to_owned(),
            source: Source::List,
            collected_at: at,
            bodies,
            poll: Some(poll),
        }
    }

    fn written(dir: &Path) -> (PathBuf, Vec<Answer>) {
        let answers: Vec<Answer> = (1..=3).map(|page| answer(page, &[r#"{"a":1}"#, "", "x"])).collect();
        let mut writer = Writer::create(&Disk::default(), dir, 7).expect("a segment");
        answers.iter().for_each(|answer| writer.append(answer).expect("room on the disk"));
        writer.sync().expect("a disk");
        (writer.path().to_owned(), answers)
    }

    fn read(path: &Path) -> (Vec<Answer>, Vec<(u64, u64)>) {
        let (mut answers, mut gaps) = (Vec::new(), Vec::new());
        let segment = Segment::read(path).expect("a segment");
        let bodies = BodyFile::open(path).expect("a segment");
        for item in segment.items() {
            match item {
                Item::Answer { answer, bodies_at } => {
                    let (mut at, mut again) = (bodies_at, Vec::new());
                    for body in &answer.bodies {
                        bodies.read(at, body.bytes.len(), &mut again).expect("a body");
                        assert_eq!(again, body.bytes);
                        at += body.bytes.len() as u64;
                    }
                    answers.push(*answer);
                }
                Item::Gap { start, end } => gaps.push((start, end)),
            }
        }
        (answers, gaps)
    }

    #[test]
    fn what_is_written_is_read_back() {
        let dir = tempfile::tempdir().expect("a folder");
        let (path, answers) = written(dir.path());
        assert_eq!(read(&path), (answers, vec![]));
        assert_eq!(segments(dir.path()).expect("a folder"), [(7, path)]);
    }

    #[test]
    fn a_segment_cut_anywhere_gives_the_whole_frames_before_the_cut() {
        let dir = tempfile::tempdir().expect("a folder");
        let (path, answers) = written(dir.path());
        let bytes = std::fs::read(&path).expect("a file");
        let ends: Vec<usize> = frame_ends(&bytes);
        let cut = dir.path().join("0000000008.journal");
        for length in 0..bytes.len() {
            put(&cut, &bytes[..length]);
            let whole = ends.iter().filter(|&&end| end <= length).count();
            let (kept, gaps) = read(&cut);
            assert_eq!(kept, answers[..whole], "cut at {length}");
            let clean = length == 0 || length == SEGMENT_HEADER || ends.contains(&length);
            assert_eq!(gaps.is_empty(), clean, "cut at {length}");
        }
    }

    #[test]
    fn one_flipped_bit_costs_no_other_frame() {
        let dir = tempfile::tempdir().expect("a folder");
        let (path, answers) = written(dir.path());
        let bytes = std::fs::read(&path).expect("a file");
        let ends = frame_ends(&bytes);
        let bent = dir.path().join("0000000008.journal");
        for at in 0..bytes.len() {
            let mut copy = bytes.clone();
            copy[at] ^= 1 << (at % 8);
            put(&bent, &copy);
            // A bent header costs nothing, but for being told.
            let hit = ends.iter().position(|&end| at < end).filter(|_| at >= SEGMENT_HEADER).unwrap_or(usize::MAX);
            let expect: Vec<_> =
                answers.iter().enumerate().filter(|(i, _)| *i != hit).map(|(_, a)| a.clone()).collect();
            let (kept, gaps) = read(&bent);
            assert_eq!(kept, expect, "flipped at {at}");
            let told = at < MAGIC.len() || at >= SEGMENT_HEADER;
            assert_eq!(gaps.len(), usize::from(told), "flipped at {at}");
        }
    }

    #[test]
    fn a_file_that_grows_is_the_same_and_any_other_change_is_noticed() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("states.ndjson");
        for (after, is_changed) in
            [("{}\n{}\n", false), ("{}\n{}\n{}\n", false), ("{}\n", true), ("{}\n[]\n", true), ("[]\n{}\n{}\n", true)]
        {
            put(&path, b"{}\n{}\n");
            let bodies = BodyFile::open(&path).expect("a file");
            let written = || std::fs::metadata(&path).and_then(|file| file.modified()).expect("a time");
            let before = written();
            while after != "{}\n{}\n" && written() == before {
                put(&path, after.as_bytes());
            }
            assert_eq!(bodies.is_changed(), is_changed, "{after:?}");
        }
    }

    #[test]
    fn a_segment_is_never_written_twice() {
        let dir = tempfile::tempdir().expect("a folder");
        drop(written(dir.path()));
        assert!(Writer::create(&Disk::default(), dir.path(), 7).is_err());
    }

    #[test]
    fn refuses_a_later_format_in_a_sentence() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join(segment_name(7));
        put(&path, b"DEXJRNL\0\x02\0\0\0frames of another kind");
        let said = Segment::read(&path).expect_err("an error").to_string();
        assert!(said.ends_with("has format 2, this version reads 1: use the newer dex-archive"), "{said}");
    }

    #[test]
    fn only_names_of_segments_are_segments() {
        for name in ["7.journal", "0000000007.journal~", "00000000a7.journal", ".journal", "readme"] {
            assert_eq!(parse_segment_name(name), None, "{name}");
        }
        assert_eq!(parse_segment_name("12345678901.journal"), Some(12_345_678_901));
    }

    fn frame_ends(bytes: &[u8]) -> Vec<usize> {
        let starts = bytes.windows(frame::MARKER.len()).enumerate().filter(|(_, window)| window == frame::MARKER);
        // The test's bodies hold the marker too: only those that begin a frame count.
        let frames = starts
            .filter_map(|(at, _)| frame::decode(&Bytes::copy_from_slice(&bytes[at..])).map(|(_, length)| at + length));
        frames.collect()
    }

    #[expect(clippy::disallowed_methods, reason = "a test bends a file")]
    fn put(path: &Path, bytes: &[u8]) {
        std::fs::write(path, bytes).expect("room on the disk");
    }
}
