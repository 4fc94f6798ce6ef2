//! Answers to everyday questions, from the files alone.
//!
//! [`trend()`] aggregates metrics of one device over time. It reads the days of the window, and of these
//! only the row groups that can hold the device and the columns asked for. Nothing here prints.

mod device;
mod trend;

use crate::archive::ArchiveError;
use crate::clock;

pub use device::resolve_device;
pub use trend::{Agg, Metric, Point, Trend, TrendOptions, Window, metrics, trend};

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The archive cannot be read.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// There is no such metric.
    #[error("{name:?} is no metric{}: `dex-archive schema` lists them", suggestion(.near))]
    Metric {
        /// What was asked for.
        name: String,
        /// What may have been meant.
        near: Vec<String>,
    },
    /// No device of that name has a state in the window.
    #[error("no device {device:?} between {} and {}", clock::format_timestamp(.window.since), clock::format_timestamp(.window.until))]
    NoDevice {
        /// What was asked for.
        device: String,
        /// Where it was looked for.
        window: Window,
    },
    /// Several devices have the name.
    #[error("several devices are named {name:?}: {}", .ids.join(", "))]
    Ambiguous {
        /// The name.
        name: String,
        /// Their ids.
        ids: Vec<String>,
    },
    /// The window has no length.
    #[error("the window ends ({}) before it begins ({})", clock::format_timestamp(.0.until), clock::format_timestamp(.0.since))]
    EmptyWindow(Window),
    /// There would be more buckets than anybody reads.
    #[error("{buckets} buckets are too many (at most {most}): use a longer --every or a shorter window", most = trend::MOST_BUCKETS)]
    Buckets {
        /// How many there would be.
        buckets: u64,
    },
}

fn suggestion(near: &[String]) -> String {
    if near.is_empty() { String::new() } else { format!(", did you mean {}", near.join(", ")) }
}
