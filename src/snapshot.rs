//! What is asked for and what comes back: accounts, devices, answers, polls.
//!
//! An [`Answer`] is what one request brought: its poll, and the raw bodies of the device states in
//! it. It crosses from the client to the journal. Before that only three things happen to a body: its device's id is read
//! where a list says who is there, another shard's is left out, and privacy rules are kept.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use chrono::TimeDelta;
use serde::{Deserialize, Serialize};

use crate::clock::{self, Timestamp};

/// How far back Cloudflare's history reaches (the API document).
pub const HISTORY: TimeDelta = TimeDelta::days(7);

/// States may reach Cloudflare so late: what is younger when it is read may still change.
pub const SETTLE: TimeDelta = TimeDelta::minutes(15);

/// Device states on a full page of the list: the most that the API gives at once.
pub const PAGE_ROWS: usize = 50;

/// A Cloudflare account: 32 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AccountId(String);

/// A physical device: a UUID in its usual form, lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceId(String);

/// An identifier that is not of its form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Not 32 hexadecimal digits.
    #[error("{0:?} is no account id: it has 32 hexadecimal digits, as the dashboard's address shows them")]
    Account(String),
    /// Not a UUID.
    #[error("{0:?} is no device id: a UUID such as cb49c27f-7f97-49c5-b6f3-f7c01ead0fd7 is expected")]
    Device(String),
}

/// Where device states come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The newest state of one device.
    Live,
    /// The newest states of the fleet, page by page.
    List,
    /// Every reported state of up to 7 days back.
    Raw,
    /// One averaged state per device and hour of up to 7 days back.
    Hourly,
    /// A file.
    Import,
    /// A file of Cloudflare's Logpush.
    Logpush,
}

/// The endpoint that a request went to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Endpoint {
    /// `/dex/devices/{id}/fleet-status/live`.
    Live,
    /// `/dex/fleet-status/devices`.
    List,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It brought something new.
    State,
    /// It brought what the archive has already.
    Unchanged,
    /// The API answered that there is no state in the window: not a failure.
    Absent,
    /// No answer that could be used, whatever was tried.
    Failed,
}

/// What a page of the list is of: a source, and the window that it covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// Which of the list's sources.
    pub source: Source,
    /// First moment of the window.
    #[serde(with = "clock::rfc3339")]
    pub from: Timestamp,
    /// End of the window.
    #[serde(with = "clock::rfc3339")]
    pub to: Timestamp,
}

/// The record of one request. Its JSON is a row of the `poll` dataset.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Poll {
    /// The pass over the fleet that it belongs to.
    pub sweep_id: String,
    /// The account that was asked.
    pub account_id: AccountId,
    /// When it was first sent.
    #[serde(with = "clock::rfc3339")]
    pub requested_at: Timestamp,
    /// Where it went.
    pub endpoint: Endpoint,
    /// The device that was asked for; none for a page of the whole list.
    pub device_id: Option<String>,
    /// The page of the list; none for one device.
    pub page: Option<u32>,
    /// What the page is of; none for one device's live state.
    pub listing: Option<Listing>,
    /// How it ended. Whether a state is new is known only once the archive has been looked at:
    /// until then an answer with states counts as [`Outcome::State`].
    pub outcome: Outcome,
    /// Bodies in the answer; once the archive has been looked at, but for those in the quarantine.
    pub rows: u32,
    /// HTTP status of the last attempt.
    pub http_status: Option<u16>,
    /// Cloudflare's error code.
    pub error_code: Option<i64>,
    /// Why it failed.
    pub error: Option<String>,
    /// How often it was sent.
    pub attempts: u32,
    /// From sending the last attempt to its last byte, in milliseconds.
    pub latency_ms: Option<f64>,
    /// Cloudflare's name for the answer.
    pub cf_ray: Option<String>,
    /// The only shard whose devices the collector keeps, and of how many: `3/8`.
    pub shard: Option<String>,
}

/// What one request, or one stretch of an imported file, brought.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The account that the states belong to.
    pub account_id: AccountId,
    /// The pass that brought them.
    pub sweep_id: String,
    /// Where they come from.
    pub source: Source,
    /// When they were received.
    pub collected_at: Timestamp,
    /// The raw bodies, one a device state.
    pub bodies: Vec<Body>,
    /// The request; none for a file.
    pub poll: Option<Poll>,
}

/// The raw text of one device state, as it was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body {
    /// The bytes; not yet known to be UTF-8, JSON or a device state.
    pub bytes: Bytes,
    /// Where it stands, if it was imported.
    pub origin: Option<Origin>,
}

/// A place in an imported file; shown as `states.ndjson:17`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Name of the file.
    pub file: Arc<str>,
    /// The line, from 1 on.
    pub line: u64,
}

impl AccountId {
    /// Reads an account id.
    ///
    /// # Errors
    /// Where it has not 32 hexadecimal digits.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        let fits = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
        if !fits {
            return Err(IdError::Account(text.to_owned()));
        }
        Ok(Self(text.to_ascii_lowercase()))
    }

    /// The 32 digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl DeviceId {
    /// Reads a device id.
    ///
    /// # Errors
    /// Where it is not a UUID of 36 characters.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        let fits = text.len() == 36
            && text.bytes().enumerate().all(|(at, b)| match at {
                8 | 13 | 18 | 23 => b == b'-',
                _ => b.is_ascii_hexdigit(),
            });
        if !fits {
            return Err(IdError::Device(text.to_owned()));
        }
        Ok(Self(text.to_ascii_lowercase()))
    }

    /// The UUID.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AccountId {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl Source {
    /// Those that Cloudflare's history is read in.
    pub const HISTORY: [Self; 2] = [Self::Raw, Self::Hourly];

    /// The word for it in the archive.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::List => "list",
            Self::Raw => "raw",
            Self::Hourly => "hourly",
            Self::Import => "import",
            Self::Logpush => "logpush",
        }
    }
}

impl Endpoint {
    /// The word for it in the archive.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::List => "list",
        }
    }
}

impl Outcome {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::State, Self::Unchanged, Self::Absent, Self::Failed];

    /// The word for it in the archive.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::State => "state",
            Self::Unchanged => "unchanged",
            Self::Absent => "absent",
            Self::Failed => "failed",
        }
    }

    /// The outcome that a word of the archive stands for.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|outcome| outcome.as_str() == word)
    }
}

impl Body {
    /// A body as it came over the network.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self { bytes: Bytes::copy_from_slice(text.as_bytes()), origin: None }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        write!(formatter, "{}:{}", self.file, self.line)
    }
}

/// A name for a pass over the fleet: its start to the second and four digits of a number, so that names
/// sort by time and two collectors do not share one.
#[must_use]
pub fn sweep_id(start: Timestamp, number: u16) -> String {
    format!("{}-{number:04x}", start.format("%Y%m%dT%H%M%SZ"))
}

#[cfg(test)]
impl Poll {
    /// A request, for tests.
    pub(crate) fn example(endpoint: Endpoint) -> Self {
        Self {
            sweep_id: "s".to_owned(),
            account_id: AccountId::parse("01a7362d577a6c3019a474fd6f485823").expect("an id"),
            requested_at: clock::from_micros(0).expect("a time"),
            endpoint,
            device_id: None,
            page: None,
            listing: None,
            outcome: Outcome::State,
            rows: 0,
            http_status: None,
            error_code: None,
            error: None,
            attempts: 1,
            latency_ms: None,
            cf_ray: None,
            shard: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_ids_to_their_form() {
        assert!(AccountId::parse("01a7362d577a6c3019a474fd6f485823").is_ok());
        for bad in ["", "01a7362d577a6c3019a474fd6f48582", "01a7362d577a6c3019a474fd6f48582g", "../../etc"] {
            assert_eq!(AccountId::parse(bad), Err(IdError::Account(bad.to_owned())));
        }
        let device = DeviceId::parse("CB49C27F-7f97-49c5-b6f3-f7c01ead0fd7").expect("a device id");
        assert_eq!(device.as_str(), "cb49c27f-7f97-49c5-b6f3-f7c01ead0fd7");
        for bad in ["", "laptop-17", "cb49c27f-7f97-49c5-b6f3-f7c01ead0fd", "cb49c27f/7f97-49c5-b6f3-f7c01ead0fd7"] {
            assert_eq!(DeviceId::parse(bad), Err(IdError::Device(bad.to_owned())));
        }
    }

    #[test]
    fn an_outcome_is_the_word_that_is_written() {
        for outcome in Outcome::ALL {
            assert_eq!(serde_json::to_value(outcome).expect("a word"), outcome.as_str());
            assert_eq!(Outcome::parse(outcome.as_str()), Some(outcome));
        }
        assert_eq!(Outcome::parse("State"), None);
    }

    #[test]
    fn names_of_sweeps_sort_by_time() {
        let at = clock::parse_timestamp("2026-11-24T07:40:51.9Z").expect("a timestamp");
        assert_eq!(sweep_id(at, 0xab), "20261124T074051Z-00ab");
    }
}
