//! The questions that a report asks of the archive.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::TimeDelta;

use crate::clock::Zone;
use crate::query::{
    Agg, Answer, Cell, ChangesOptions, GapsOptions, QueryError, StateOptions, TrendOptions, Who, changes, gaps, latest,
    metrics, trend,
};
use crate::schema::Unit;

use super::Asking;
use super::plan::{Bound, Limit};

/// Longer than any window, so that all of it is one bucket.
const ONE_BUCKET: Duration = Duration::from_hours(1_000 * 365 * 24);

/// For so long before the window a state is looked for that its first one is a change from.
const KNOWN_BEFORE: TimeDelta = TimeDelta::days(1);

/// The unit of percentages that are 0 to 1.
const FRACTION: &str = "of 1";

/// A change of a device's state.
pub(super) struct Change<'a> {
    pub(super) at: &'a Cell,
    pub(super) device: String,
    pub(super) column: String,
    pub(super) from: &'a Cell,
    pub(super) to: &'a Cell,
}

/// The changes that an answer lists, oldest first.
pub(super) fn changes_in(answer: &Answer) -> impl DoubleEndedIterator<Item = Change<'_>> {
    let place = |name: &str| {
        answer.columns.iter().position(|column| column.name == name).expect("an answer about changes has the column")
    };
    let [at, device, column, from, to] = ["at", "device_id", "column", "from", "to"].map(place);
    let text = |cell: &Cell| cell.text().unwrap_or_default();
    answer.rows.iter().map(move |row| Change {
        at: &row[at],
        device: text(&row[device]),
        column: text(&row[column]),
        from: &row[from],
        to: &row[to],
    })
}

impl Asking<'_> {
    /// The newest values of what devices are known by.
    pub(super) fn known(&self, devices: Option<Vec<String>>) -> Result<Known, QueryError> {
        let facts = self.plan.fact.iter().chain(&self.plan.count).map(|shown| shown.column.as_str());
        let mut columns: Vec<String> = Vec::new();
        for name in ["device_name"].into_iter().chain(facts) {
            if !columns.iter().any(|column| column == name) {
                columns.push(name.to_owned());
            }
        }
        let options = StateOptions { devices, columns, window: self.options.window };
        Ok(Known::of(&latest(self.days, &options)?))
    }

    pub(super) fn changed(&self) -> Result<Answer, QueryError> {
        let columns = self.plan.change.iter().map(|shown| &shown.column);
        let columns = columns.chain([&self.plan.disconnects.column]).cloned().collect();
        let states = StateOptions { devices: self.options.devices.clone(), columns, window: self.options.window };
        changes(self.days, &ChangesOptions { states, back: KNOWN_BEFORE })
    }

    /// A limit, on the scale that percentages have in this archive.
    pub(super) fn bound(&self, limit: &Limit) -> Bound {
        if self.has_fractions && is_percent(&limit.metric) { limit.bound.hundredth() } else { limit.bound }
    }

    /// Whether percentages are 0 to 1.
    pub(super) fn finds_fractions(&self) -> Result<bool, QueryError> {
        let judged_by = std::slice::from_ref(&self.plan.percent_judged_by);
        let who = Who::Fleet { by: None };
        let answer = self.trend(who, judged_by, &[Agg::Max], ONE_BUCKET, Zone::UTC)?;
        let most: Vec<f64> = answer.rows.iter().filter_map(|row| row.last()?.number()).collect();
        // Where nobody says it, they are what most of the API's are.
        Ok(!most.is_empty() && most.iter().all(|most| *most <= 1.0))
    }

    pub(super) fn by_device(&self, names: &[String], aggs: &[Agg]) -> Result<Answer, QueryError> {
        self.trend(Who::Fleet { by: Some("device_id".to_owned()) }, names, aggs, ONE_BUCKET, Zone::UTC)
    }

    pub(super) fn over_time(&self, who: Who, names: &[String], aggs: &[Agg]) -> Result<Answer, QueryError> {
        self.trend(who, names, aggs, self.every, self.options.zone)
    }

    fn trend(
        &self,
        who: Who,
        names: &[String],
        aggs: &[Agg],
        every: Duration,
        zone: Zone,
    ) -> Result<Answer, QueryError> {
        let (window, aggs) = (self.options.window, aggs.to_vec());
        let mut answer = trend(self.days, &TrendOptions { who, metrics: metrics(names)?, window, every, zone, aggs })?;
        let percent =
            answer.columns.iter_mut().filter(|column| self.has_fractions && column.unit == Unit::Percent.name());
        percent.for_each(|column| FRACTION.clone_into(&mut column.unit));
        Ok(answer)
    }

    /// Where states are missing. Where no interval is over in which one was expected, none is.
    pub(super) fn gaps(&self, devices: Option<Vec<String>>, each: bool) -> Result<Answer, QueryError> {
        match gaps(self.days, &self.gaps_options(devices, each)) {
            Err(QueryError::NothingExpected(_) | QueryError::NoneEnded(_)) => {
                Ok(Answer { title: String::new(), columns: Vec::new(), rows: Vec::new() })
            }
            answer => answer,
        }
    }

    fn gaps_options(&self, devices: Option<Vec<String>>, each: bool) -> GapsOptions {
        let options = self.options;
        let (window, every, zone, now) = (options.window, options.expect, options.zone, options.now);
        GapsOptions { devices, window, every, zone, each, now }
    }
}

/// The newest values of each device.
pub(super) struct Known {
    columns: Vec<String>,
    rows: BTreeMap<String, Vec<Cell>>,
}

impl Known {
    fn of(answer: &Answer) -> Self {
        let columns = answer.columns.iter().map(|column| column.name.clone()).collect();
        let rows = answer.rows.iter().filter_map(|row| Some((row.first()?.text()?, row.clone()))).collect();
        Self { columns, rows }
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = &String> {
        self.rows.keys()
    }

    pub(super) fn value(&self, id: &str, column: &str) -> Option<String> {
        let at = self.columns.iter().position(|name| name == column)?;
        self.rows.get(id)?.get(at)?.text()
    }

    /// When the newest state is of.
    pub(super) fn seen(&self, id: &str) -> Option<&Cell> {
        let at = self.columns.iter().position(|name| name == "timestamp")?;
        self.rows.get(id)?.get(at)
    }

    /// The device's name, or else its id.
    pub(super) fn name(&self, id: &str) -> String {
        self.value(id, "device_name").unwrap_or_else(|| id.to_owned())
    }
}

fn is_percent(metric: &str) -> bool {
    let metric = metrics(&[metric.to_owned()]);
    metric.is_ok_and(|found| found.iter().any(|metric| metric.unit == Some(Unit::Percent)))
}
