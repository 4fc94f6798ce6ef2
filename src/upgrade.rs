//! Bringing parts that an older version wrote to what this one would write.
//!
//! An older part is read as it is: columns that it has not are null. An upgrade writes it anew with every column, and
//! what of its `unmapped` values has a column by now goes there. Which that is, [`Plan::refill`] knows. Only parts that
//! are older are touched.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, BooleanArray, RecordBatch};
use arrow_schema::ArrowError;
use arrow_select::zip::zip;

use crate::archive::{Archive, ArchiveError, PartName, Partition, ShardLock, while_replaced};
use crate::flatten::{Columns, Plan, Row};
use crate::schema::Schema;

/// A part that an older version wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outdated {
    /// Its day.
    pub partition: Partition,
    /// Its name.
    pub name: PartName,
    /// Rows in it.
    pub rows: u64,
}

/// What an upgrade did to a part.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Upgraded {
    /// Values that went from `unmapped` into a column of their own.
    pub values: u64,
    /// Bytes of the part.
    pub bytes: u64,
}

/// The parts of a dataset that an older version wrote, oldest day first; and what is wrong with those that are damaged.
///
/// # Errors
/// Where a folder or a part cannot be read.
pub fn outdated(archive: &Archive, schema: &Schema) -> Result<(Vec<Outdated>, Vec<ArchiveError>), ArchiveError> {
    let (mut found, mut damaged) = (Vec::new(), Vec::new());
    for partition in archive.partitions(schema)? {
        for (name, path) in archive.parts(&partition)? {
            match archive.look(&path, schema) {
                Ok(part) if part.is_current() => (),
                Ok(part) => found.push(Outdated { partition: partition.clone(), name, rows: part.rows() }),
                Err(error) if error.is_of_part() => damaged.push(error),
                Err(error) => return Err(error),
            }
        }
    }
    Ok((found, damaged))
}

/// Writes a part anew by the schema. None where it is gone meanwhile, or of a shard whose lock is not among `locks`.
///
/// # Errors
/// Where it is damaged, or the file system or the object store says no. The old one then stands.
pub fn upgrade(
    archive: &Archive,
    locks: &[ShardLock],
    schema: &Arc<Schema>,
    outdated: &Outdated,
) -> Result<Option<Upgraded>, ArchiveError> {
    let Some(lock) = locks.iter().find(|lock| lock.shard == outdated.name.shard) else { return Ok(None) };
    let plan = Plan::new(Arc::clone(schema));
    while_replaced(|| {
        let mut values = 0;
        let mut map = |batch: &RecordBatch| refilled(&plan, batch, &mut values);
        let Some(staged) = archive.stage_mapped(lock, schema, outdated.partition.date, &mut map)? else {
            return Ok(None);
        };
        Ok(Some(Upgraded { values, bytes: staged.publish()?.info.bytes }))
    })
}

/// A batch with those values in their columns that `unmapped` held of them; counts them.
fn refilled(plan: &Plan, batch: &RecordBatch, values: &mut u64) -> Result<RecordBatch, ArrowError> {
    let schema = plan.schema();
    let Some(unmapped) = schema.unmapped() else { return Ok(batch.clone()) };
    let texts = batch.column(unmapped).as_string::<i32>();
    if texts.null_count() == texts.len() {
        return Ok(batch.clone());
    }
    let (mut columns, mut row, mut moved) = (Columns::new(Arc::clone(schema)), Row::default(), Vec::new());
    for at in 0..batch.num_rows() {
        let text = if texts.is_valid(at) { texts.value(at) } else { "{}" };
        let is_free = |column: usize| batch.column(column).is_null(at);
        let refilled = plan.refill(text, &is_free, &mut row);
        columns.push(&row);
        // What is no object was not written by this program, and stays as it is.
        moved.push(refilled.is_ok() && texts.is_valid(at) && row.text(unmapped) != Some(text));
        *values += refilled.unwrap_or(0);
    }
    let (found, is_moved) = (columns.finish(), BooleanArray::from(moved));
    let fill = |(at, old): (usize, &ArrayRef)| -> Result<ArrayRef, ArrowError> {
        let new = found.column(at);
        let takes = |row: usize| is_moved.value(row) && (at == unmapped || (old.is_null(row) && new.is_valid(row)));
        let mask: BooleanArray = (0..batch.num_rows()).map(|row| Some(takes(row))).collect();
        if mask.true_count() == 0 { Ok(Arc::clone(old)) } else { zip(&mask, new, old) }
    };
    let filled = batch.columns().iter().enumerate().map(fill).collect::<Result<_, _>>()?;
    RecordBatch::try_new(Arc::clone(schema.arrow()), filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MORE: &str = r#"
[[column]]
name = "probe_ms"
path = "probe.ms"
type = "int64"
role = "gauge"
since = 2
description = "A value that came later."

[[column]]
name = "probes"
path = "probes"
type = "list"
role = "label"
since = 2
description = "A list that came later."

[[column.field]]
name = "name"
type = "string"
description = "Name."
"#;

    #[test]
    fn what_waited_in_unmapped_goes_into_its_column_and_the_rest_stays() {
        let table = include_str!("../schemas/device_state.toml");
        let newer = Arc::new(Schema::parse(&format!("{table}{MORE}")).expect("a schema"));
        let (old, new) = (Plan::new(Schema::device_state()), Plan::new(Arc::clone(&newer)));
        let bodies = [
            r#"{"deviceId":"a","probe":{"ms":7,"odd":true},"probes":[{"name":"x"},null],"more":1}"#,
            r#"{"deviceId":"b","probe":{"ms":"seven"}}"#,
            r#"{"deviceId":"c","probe":3,"cpuPct":1.5}"#,
            r#"{"deviceId":"d","cpuPct":2.5}"#,
        ];
        let rows = |plan: &Plan| {
            let (mut columns, mut row) = (Columns::new(Arc::clone(plan.schema())), Row::default());
            for body in bodies {
                plan.flatten(body.as_bytes(), &mut row).expect("a row");
                columns.push(&row);
            }
            columns.finish()
        };
        let written = rows(&old);
        // As the archive hands over an older part: its columns, and nulls for the later ones.
        let completed = newer.arrow().fields().iter().map(|field| {
            let column = written.column_by_name(field.name()).map(Arc::clone);
            column.unwrap_or_else(|| arrow_array::new_null_array(field.data_type(), written.num_rows()))
        });
        let completed = RecordBatch::try_new(Arc::clone(newer.arrow()), completed.collect()).expect("a batch");
        let mut values = 0;
        let upgraded = refilled(&new, &completed, &mut values).expect("a batch");
        assert_eq!(values, 2);
        assert!(upgraded == rows(&new), "as if it had been collected by the newer schema");
        assert!(refilled(&new, &upgraded, &mut values).expect("a batch") == upgraded);
        assert_eq!(values, 2, "a second time there is nothing to do");
    }
}
