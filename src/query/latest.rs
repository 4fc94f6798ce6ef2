//! The newest state of each device.

use crate::clock;
use crate::schema::Kind;

use super::answer::{Answer, AnswerColumn, Cell};
use super::newest::Newest;
use super::scan::Days;
use super::wanted::{StateOptions, Wanted};
use super::{QueryError, no_state};

/// What a state is known by.
const KNOWN_BY: [&str; 2] = ["device_id", "timestamp"];

/// The newest state of each device in a window.
///
/// # Errors
/// Where the window has no length, there is no such column or no state in the window, or the archive cannot be read.
pub fn latest(days: &Days, options: &StateOptions) -> Result<Answer, QueryError> {
    let mut wanted = Wanted::new(options)?;
    // Those are there anyway.
    wanted.columns.retain(|&at| !KNOWN_BY.contains(&wanted.schema.columns[at].name.as_str()));
    let devices = options.devices.as_deref();
    let (schema, columns) = (&wanted.schema, &wanted.columns);
    let newest = Newest { schema, window: options.window, devices, columns, needed: None }.find(days)?;
    if newest.is_empty() {
        return Err(no_state(devices, options.window));
    }
    let rows = newest.into_iter().map(|(id, (micros, cells))| {
        [Cell::Text(id), Cell::from(clock::from_micros(micros))].into_iter().chain(cells).collect()
    });
    let [device, time] = KNOWN_BY.map(AnswerColumn::key);
    let keys = [device, time.of_kind(Kind::Timestamp)];
    let columns = keys.into_iter().chain(wanted.answer_columns()).collect();
    Ok(Answer { title: "newest states".to_owned(), columns, rows: rows.collect() })
}
