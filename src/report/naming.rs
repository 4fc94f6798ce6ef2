//! What a device is called in the tables of a report, and where more is said of it.

use std::collections::BTreeMap;

use crate::query::Cell;

use super::ask::Known;
use super::model::TableRow;

/// The most rows of a table.
pub(super) const MOST_ROWS: usize = 15;

/// By device, where the section is that says more of it.
pub(super) type Anchors = BTreeMap<String, String>;

/// What a device is called in a table.
pub(super) struct Naming<'a> {
    pub(super) known: &'a Known,
    pub(super) anchors: &'a Anchors,
}

impl Naming<'_> {
    pub(super) fn row(&self, id: &str, cells: impl IntoIterator<Item = Cell>) -> TableRow {
        let name = Cell::Text(self.known.name(id));
        let cells = [name].into_iter().chain(cells).collect();
        TableRow { cells, is_poor: false, anchor: self.anchors.get(id).cloned() }
    }
}
