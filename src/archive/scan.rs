//! What a reader wants of a part.

use std::collections::BTreeSet;
use std::ops::Range;

/// What is wanted of a part.
#[derive(Debug, Clone, Default)]
pub struct Scan {
    /// Positions of the wanted columns in the schema.
    pub columns: BTreeSet<usize>,
    /// A text column and the values of which a row group or a page must be able to hold one. Other rows may come
    /// too: the caller filters.
    pub any_of: Option<(usize, Vec<String>)>,
    /// A timestamp and the microseconds of which a row group or a page must be able to hold one; here, too, other
    /// rows may come.
    pub within: Option<(usize, Range<i64>)>,
}
