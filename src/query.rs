//! Answers to everyday questions, from the files alone.
//!
//! [`trend()`] aggregates metrics of one device over time. It reads the days of the window, and of these
//! only the row groups that can hold the device and the columns asked for. Nothing here prints.

mod device;
mod trend;

use arrow_array::RecordBatch;

use crate::archive::{Archive, ArchiveError, Part, Scan};
use crate::clock;
use crate::schema::Schema;

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

/// Calls `batch` with the device states of the window's days, as far as `scan` asks for them.
fn each_batch(
    archive: &Archive,
    window: Window,
    scan: &Scan,
    batch: &mut dyn FnMut(&RecordBatch),
) -> Result<(), ArchiveError> {
    let schema = Schema::device_state();
    for partition in archive.partitions(&schema)?.into_iter().filter(|partition| window.touches(partition.date)) {
        let parts = archive.parts(&partition)?;
        if parts.is_empty() {
            tracing::warn!("{partition} has no part: its rows are not in this answer; run `dex-archive verify`");
        }
        for (_, path) in parts {
            for rows in Part::open(&path, &schema)?.batches(Some(scan))? {
                batch(&rows?);
            }
        }
    }
    Ok(())
}

/// The position of a column that every device state has.
fn column(schema: &Schema, name: &str) -> usize {
    schema.index_of(name).expect("the table has the columns that devices are known by")
}

fn suggestion(near: &[String]) -> String {
    if near.is_empty() { String::new() } else { format!(", did you mean {}", near.join(", ")) }
}
