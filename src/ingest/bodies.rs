//! Bodies that stay in their files: where each lies, and what is known of it without reading it again.

use std::sync::Arc;

use serde::Serialize;

use crate::clock::{self, Timestamp};
use crate::flatten::{Cell, FlattenError, Plan, Row};
use crate::journal::{self, JournalError};
use crate::schema::Schema;
use crate::snapshot::{AccountId, Origin, Source};

/// Bodies, and what a row of each says besides.
#[derive(Debug, Default)]
pub(super) struct Bodies {
    pub(super) files: Vec<Opened>,
    pub(super) heads: Vec<Head>,
    /// The devices that they are of.
    pub(super) devices: Vec<Arc<str>>,
    pub(super) located: Vec<Located>,
}

/// A file that was read.
#[derive(Debug)]
pub(super) struct Opened {
    /// How files in the quarantine begin that hold something of it.
    pub(super) name: String,
    /// What it is.
    pub(super) from: String,
    pub(super) bodies: Arc<journal::BodyFile>,
    /// Whether others may change it: all but the journal's.
    pub(super) is_foreign: bool,
}

/// Where the bodies of an answer come from.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Head {
    pub(super) account_id: AccountId,
    pub(super) sweep_id: String,
    pub(super) source: Source,
    pub(super) collected_at: Timestamp,
}

/// A body, by its place.
#[derive(Debug)]
pub(super) struct Located {
    pub(super) place: BodyPlace,
    pub(super) origin: Option<Origin>,
}

/// Where a body lies, and where its row does.
#[derive(Debug, Clone, Copy)]
pub(super) struct BodyPlace {
    /// Among the bodies of the batch.
    pub(super) number: u32,
    pub(super) file: u32,
    pub(super) head: u32,
    pub(super) device: u32,
    pub(super) length: u32,
    pub(super) at: u64,
    /// Microseconds since the Unix epoch.
    pub(super) time: Option<i64>,
}

/// The columns that a row is sorted by before all others.
#[derive(Debug, Clone, Copy)]
pub(super) struct SortedBy {
    pub(super) device: usize,
    pub(super) time: usize,
}

impl BodyPlace {
    /// Length of the body in bytes.
    pub(super) fn bytes(self) -> u64 {
        self.length.into()
    }
}

impl SortedBy {
    pub(super) fn new(schema: &Schema) -> Self {
        Self { device: schema.key[0], time: schema.partition_by[0] }
    }

    pub(super) fn of(self, row: &Row) -> (&str, Option<i64>) {
        let time = match row.cell(self.time) {
            Cell::Timestamp(micros) => Some(micros),
            _ => None,
        };
        (row.text(self.device).unwrap_or_default(), time)
    }

    /// Reads a body into a row of one device and one time.
    pub(super) fn flatten(self, plan: &Plan, body: &[u8], row: &mut Row) -> Result<(), FlattenError> {
        plan.flatten(body, row)?;
        let is_twice = row.stands_twice(self.device) || row.stands_twice(self.time);
        if is_twice { Err(FlattenError::Twice) } else { Ok(()) }
    }
}

impl Bodies {
    /// Reads a body, in place of what `text` held.
    pub(super) fn read(&self, place: BodyPlace, text: &mut Vec<u8>) -> Result<(), JournalError> {
        self.file(place).bodies.read(place.at, place.length as usize, text)
    }

    /// The device and the time of a body.
    pub(super) fn key(&self, place: BodyPlace) -> (&str, Option<i64>) {
        (&self.devices[place.device as usize], place.time)
    }

    /// What a row says besides its body.
    pub(super) fn head(&self, place: BodyPlace) -> &Head {
        &self.heads[place.head as usize]
    }

    pub(super) fn file(&self, place: BodyPlace) -> &Opened {
        &self.files[place.file as usize]
    }

    /// A body's line in the quarantine.
    pub(super) fn quarantined(&self, body: &Located, bytes: &[u8], cause: &FlattenError) -> Vec<u8> {
        let (head, text) = (self.head(body.place), std::str::from_utf8(bytes).ok());
        let entry = Quarantined {
            cause: cause.to_string(),
            origin: body.origin.as_ref().map(ToString::to_string),
            account_id: head.account_id.as_str(),
            sweep_id: &head.sweep_id,
            source: head.source.as_str(),
            collected_at: clock::format_timestamp(head.collected_at),
            body: text,
            bytes: text.is_none().then_some(bytes),
        };
        let mut line = serde_json::to_vec(&entry).expect("an entry always has a form in JSON");
        line.push(b'\n');
        line
    }
}

/// A number of something of which a batch has fewer than 2^32.
pub(super) fn index(number: usize) -> u32 {
    u32::try_from(number).expect("a file has less than 4 Gi of bodies, and a batch few files")
}

/// A body in the quarantine, with what is known about it.
#[derive(Serialize)]
struct Quarantined<'a> {
    cause: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    origin: Option<String>,
    account_id: &'a str,
    sweep_id: &'a str,
    source: &'a str,
    collected_at: String,
    /// The body as it came, where it is text.
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'a str>,
    /// The body's bytes, where it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<&'a [u8]>,
}
