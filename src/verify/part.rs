//! One part: its checksum, its columns, its rows.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, RecordBatch, new_null_array};

use crate::archive::{
    Archive, ArchiveError, Checksum, Part, PartFile, PartName, Partition, Provenance, Scan, Spot, misplaced,
};
use crate::privacy::{Action, is_pseudonym};
use crate::schema::Schema;

use super::{Findings, Repair, Report, Severity, VerifyOptions};

/// A part that is looked at.
pub(super) struct Look<'a> {
    pub(super) schema: &'a Arc<Schema>,
    pub(super) partition: &'a Partition,
    pub(super) name: PartName,
    pub(super) path: PathBuf,
    pub(super) options: &'a VerifyOptions,
}

impl Look<'_> {
    /// An error where the fault is not the part's.
    pub(super) fn look(
        mut self,
        archive: &Archive,
        report: &mut Report,
        findings: &mut Findings,
    ) -> Result<(), ArchiveError> {
        let mut looked = archive.hold(&self.path);
        // A day that is published meanwhile has its rows in a part of another name.
        while looked.is_err() {
            let newest = archive.parts(self.partition).unwrap_or_default();
            let Some((name, path)) = newest.into_iter().find(|(name, _)| name.shard == self.name.shard) else { break };
            if name == self.name {
                break;
            }
            (self.name, self.path) = (name, path);
            looked = archive.hold(&self.path);
        }
        report.parts += 1;
        report.bytes += looked.as_ref().map_or(0, PartFile::length);
        let sealed = matches!(looked.as_ref().map(PartFile::checksum), Ok(Ok(Checksum::Right)));
        if let Err(error) = looked.and_then(|file| self.rows(archive, &file, report, findings)) {
            let (remedy, repair) = match &error {
                // There is no room here to hold it.
                ArchiveError::Disk(_) => return Err(error),
                ArchiveError::Io { .. } | ArchiveError::Bucket(_) => {
                    ("make it readable to this user, or restore it from a copy", None)
                }
                ArchiveError::Schema { .. } if sealed => ("use the newer dex-archive", None),
                _ => (REWRITE, Some(self.rewrite())),
            };
            findings.add(Severity::Error, &self.path, &error.to_string(), remedy, repair);
        }
        Ok(())
    }

    /// Reads the part; an error where that comes to an end early.
    fn rows(
        &self,
        archive: &Archive,
        file: &PartFile,
        report: &mut Report,
        findings: &mut Findings,
    ) -> Result<(), ArchiveError> {
        // While days are filed into other shards, parts are of either number of them.
        let shards = if archive.is_resharding() { 1 } else { archive.shards() };
        let place = (Spot { shard: self.name.shard, date: self.partition.date }, shards);
        let checksum = file.checksum()?;
        let part = file.part(self.schema)?;
        match checksum {
            Checksum::Right => (),
            Checksum::Wrong => self.add(Severity::Error, "its checksum is wrong: some value has changed", findings),
            Checksum::Missing => {
                self.add(Severity::Warning, "it has no checksum: somebody else has written it anew", findings);
            }
        }
        self.footer(&part, findings);
        let mut last: Option<RecordBatch> = None;
        let (mut rows, mut treated) = (0, BTreeSet::new());
        for batch in part.batches(self.scan().as_ref()) {
            let batch = whole(self.schema, &batch?);
            if let Some(problem) = misplaced(self.schema, last.as_ref(), &batch, place, self.options.deep) {
                self.add(Severity::Error, problem, findings);
                return Ok(());
            }
            rows += batch.num_rows() as u64;
            self.treatment(&batch, &mut treated);
            last = Some(batch);
        }
        report.rows += rows;
        if rows != part.rows() {
            self.add(Severity::Error, &format!("it has {rows} rows, and says {}", part.rows()), findings);
        }
        for column in treated {
            let problem = format!("column {column} holds values that the privacy rules would not let in now");
            let remedy = "they were written before the rules: `forget` removes a person's rows";
            findings.add(Severity::Warning, &self.path, &problem, remedy, None);
        }
        Ok(())
    }

    /// What the footer says of the part's origin.
    fn footer(&self, part: &Part, findings: &mut Findings) {
        let Provenance { dataset, schema_version, schema_fingerprint } = part.provenance().unwrap_or_default();
        let is_same_version = schema_version == Some(self.schema.version().to_string());
        if is_same_version && schema_fingerprint.as_deref() != Some(self.schema.fingerprint()) {
            let problem = "it was written by another table of the same version";
            let remedy = "check which dex-archive wrote it: the columns' meanings may differ";
            findings.add(Severity::Warning, &self.path, problem, remedy, None);
        }
        if dataset.as_ref() != Some(&self.schema.dataset) {
            self.add(Severity::Warning, "it does not say that it is of this dataset", findings);
        }
    }

    /// The columns that rows are told apart by, unless all are read.
    fn scan(&self) -> Option<Scan> {
        (!self.options.deep).then(|| of_keys(self.schema))
    }

    /// Notes the columns that hold what the rules in force would have kept out.
    fn treatment(&self, batch: &RecordBatch, found: &mut BTreeSet<String>) {
        for (name, action) in self.options.treated.iter().filter(|_| self.options.deep) {
            let Some(column) = batch.column_by_name(name) else { continue };
            let is_plain = |row: usize| match (action, column.as_string_opt::<i32>()) {
                (Action::Pseudonym, Some(texts)) => !texts.value(row).is_empty() && !is_pseudonym(texts.value(row)),
                _ => true,
            };
            if *action != Action::Keep && (0..column.len()).any(|row| column.is_valid(row) && is_plain(row)) {
                found.insert(name.clone());
            }
        }
    }

    fn add(&self, severity: Severity, problem: &str, findings: &mut Findings) {
        findings.add(severity, &self.path, problem, REWRITE, Some(self.rewrite()));
    }

    fn rewrite(&self) -> Repair {
        let Partition { dataset, date } = self.partition.clone();
        Repair::Rewrite { dataset, date, shard: self.name.shard }
    }
}

/// A scan of the columns that rows are told apart by.
pub(super) fn of_keys(schema: &Schema) -> Scan {
    let columns = schema.key.iter().chain(&schema.partition_by).copied();
    Scan { columns: columns.chain(schema.stand_in.map(|(_, by)| by)).collect(), ..Scan::default() }
}

/// A batch with every column of its schema; those that were not read are null.
pub(super) fn whole(schema: &Schema, batch: &RecordBatch) -> RecordBatch {
    let columns = schema.arrow().fields().iter().map(|field| {
        let read = batch.column_by_name(field.name()).map(Arc::clone);
        read.unwrap_or_else(|| new_null_array(field.data_type(), batch.num_rows()))
    });
    let columns: Vec<ArrayRef> = columns.collect();
    RecordBatch::try_new(Arc::clone(schema.arrow()), columns).expect("the columns are the schema's")
}

const REWRITE: &str = "verify --repair writes the part anew from what can be read, and keeps it in the quarantine";
