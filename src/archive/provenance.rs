//! What a part says of itself in its footer's key-value metadata: which dataset and schema it was written by.

use parquet::file::metadata::KeyValue;

use crate::schema::Schema;

use super::{ARCHIVE_FORMAT, checksum, write};

const DATASET: &str = "dex_archive.dataset";
const SCHEMA_VERSION: &str = "dex_archive.schema_version";
const SCHEMA_FINGERPRINT: &str = "dex_archive.schema_fingerprint";

/// What a part was written by; what it does not say is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Provenance {
    /// The dataset that it is of.
    pub dataset: Option<String>,
    /// The [version](Schema::version) of its schema.
    pub schema_version: Option<String>,
    /// The [fingerprint](Schema::fingerprint) of its schema.
    pub schema_fingerprint: Option<String>,
}

impl Provenance {
    /// Reads the entries of a footer.
    pub(super) fn read(entries: &[KeyValue]) -> Self {
        let value = |key: &str| entries.iter().find(|entry| entry.key == key)?.value.clone();
        Self {
            dataset: value(DATASET),
            schema_version: value(SCHEMA_VERSION),
            schema_fingerprint: value(SCHEMA_FINGERPRINT),
        }
    }
}

/// The entries of a part that is about to be written; its checksum is filled in later.
pub(super) fn entries(schema: &Schema) -> Vec<KeyValue> {
    let entry = |key: &str, value: String| KeyValue::new(key.to_owned(), value);
    vec![
        entry("dex_archive.format", ARCHIVE_FORMAT.to_string()),
        entry(DATASET, schema.dataset.clone()),
        entry(SCHEMA_VERSION, schema.version().to_string()),
        entry(SCHEMA_FINGERPRINT, schema.fingerprint().to_owned()),
        entry("dex_archive.tool", write::tool()),
        entry(checksum::KEY, checksum::BLANK.to_owned()),
    ]
}
