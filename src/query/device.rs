//! Which device is meant.

use std::collections::BTreeSet;

use arrow_array::Array;
use arrow_array::cast::AsArray;

use crate::archive::{Archive, Part, Scan};
use crate::schema::Schema;
use crate::snapshot::DeviceId;

use super::{QueryError, Window};

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
    let at = |name| schema.index_of(name).expect("the table has the columns that devices are known by");
    let scan = Scan { columns: [at("device_id"), at("device_name")].into(), any_of: None };
    let mut ids = BTreeSet::new();
    for partition in archive.partitions(&schema)?.into_iter().filter(|partition| window.touches(partition.date)) {
        for (_, path) in archive.parts(&partition)? {
            for batch in Part::open(&path, &schema)?.batches(Some(&scan))? {
                let batch = batch?;
                let (device, names) = (batch.column(0).as_string::<i32>(), batch.column(1).as_string::<i32>());
                let rows = (0..batch.num_rows()).filter(|&row| names.is_valid(row) && is_same(names.value(row), name));
                ids.extend(rows.map(|row| device.value(row).to_owned()));
            }
        }
    }
    Ok(ids)
}

fn is_same(a: &str, b: &str) -> bool {
    a == b || a.to_lowercase() == b.to_lowercase()
}
