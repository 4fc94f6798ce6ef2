//! Which device is meant.

use std::collections::BTreeSet;

use arrow_array::Array;
use arrow_array::cast::AsArray;

use crate::archive::{Archive, Scan};
use crate::schema::Schema;
use crate::snapshot::DeviceId;

use super::{QueryError, Window, column, each_batch};

/// The id of the device that `text` names: an id, or a name as it stood in the window, in upper or
/// lower case.
///
/// # Errors
/// Where no device has the name, or several have.
pub fn resolve_device(archive: &Archive, text: &str, window: Window) -> Result<String, QueryError> {
    if let Ok(id) = DeviceId::parse(text) {
        return Ok(id.as_str().to_owned());
    }
    let ids = named(archive, text, window)?;
    match ids.len() {
        0 => Err(QueryError::NoDevice { device: text.to_owned(), window }),
        1 => Ok(ids.into_iter().collect()),
        _ => Err(QueryError::Ambiguous { name: text.to_owned(), ids: ids.into_iter().collect() }),
    }
}

fn named(archive: &Archive, name: &str, window: Window) -> Result<BTreeSet<String>, QueryError> {
    let schema = Schema::device_state();
    let scan = Scan { columns: [column(&schema, "device_id"), column(&schema, "device_name")].into(), any_of: None };
    let mut ids = BTreeSet::new();
    each_batch(archive, window, &scan, &mut |batch| {
        let (devices, names) = (batch.column(0).as_string::<i32>(), batch.column(1).as_string::<i32>());
        let rows = (0..batch.num_rows()).filter(|&row| names.is_valid(row) && is_same(names.value(row), name));
        ids.extend(rows.map(|row| devices.value(row).to_owned()));
    })?;
    Ok(ids)
}

fn is_same(a: &str, b: &str) -> bool {
    a == b || a.to_lowercase() == b.to_lowercase()
}
