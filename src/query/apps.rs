//! The applications that use most.

use std::collections::BTreeMap;

use arrow_array::cast::AsArray;
use arrow_array::types::Float64Type;
use arrow_array::{Array, RecordBatch};

use crate::schema::{Role, Schema};

use super::answer::{Answer, AnswerColumn, Cell};
use super::scan::Days;
use super::sum::Sum;
use super::window::Window;
use super::{Asked, QueryError, column, no_state, scan_of, texts, times};

/// What is asked of applications.
#[derive(Debug, Clone)]
pub struct AppsOptions {
    /// The devices' ids; none for all.
    pub devices: Option<Vec<String>>,
    /// What they use: the first words of a column's name, as `cpu` or `ram`.
    pub resource: String,
    /// Over which time.
    pub window: Window,
    /// So many are shown.
    pub top: usize,
}

/// The applications with the most of a resource: the mean and the maximum over the states that name them, and
/// how many these are. The order is that of the sum, so that a short peak counts for less than a steady load.
///
/// # Errors
/// Where the window has no length, there is no such resource or no state in the window, or the archive cannot be read.
pub fn apps(days: &Days, options: &AppsOptions) -> Result<Answer, QueryError> {
    options.window.check()?;
    let schema = Schema::device_state();
    let lists = || schema.columns.iter().enumerate().filter(|(_, column)| column.role == Role::Apps);
    let is_meant = |name: &str| {
        name.strip_prefix(options.resource.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
    };
    let list = lists().find(|(_, column)| is_meant(&column.name));
    let known = || lists().filter_map(|(_, column)| column.name.split('_').next().map(str::to_owned)).collect();
    let (list, entry) = list.ok_or_else(|| QueryError::Resource { name: options.resource.clone(), known: known() })?;
    let (device, time) = (column(&schema, "device_id"), column(&schema, "timestamp"));
    let scan = scan_of(&schema, options.devices.as_deref(), [device, time, list]);
    let asked = (&Asked::of(options.devices.as_deref()), options.window);
    let add = |found: &mut (bool, Apps), batch: &RecordBatch| take(batch, asked, &entry.name, found);
    let (mut all, mut is_empty) = (Apps::new(), true);
    days.fold(&schema, options.window, &scan, Default::default, add, |(has_states, found)| {
        is_empty &= !has_states;
        found.into_iter().for_each(|(name, usage)| all.entry(name).or_default().merge(&usage));
    })?;
    if is_empty {
        return Err(no_state(options.devices.as_deref(), options.window));
    }
    let mut sorted: Vec<(String, Usage)> = all.into_iter().collect();
    sorted.sort_by(|(a, first), (b, second)| second.sum.get().total_cmp(&first.sum.get()).then_with(|| a.cmp(b)));
    let rows = sorted.into_iter().take(options.top).map(|(name, usage)| usage.row(name));
    let value = entry.fields.last().map_or("value", |member| &member.name);
    let unit = entry.fields.last().and_then(|member| member.unit).map_or("", |unit| unit.name());
    let columns = vec![
        AnswerColumn::key("app"),
        AnswerColumn::states(),
        AnswerColumn::value(format!("{value}_mean"), unit),
        AnswerColumn::value(format!("{value}_max"), unit),
    ];
    Ok(Answer { title: format!("applications by {value}"), columns, rows: rows.collect() })
}

type Apps = BTreeMap<String, Usage>;

/// What an application used.
#[derive(Default)]
struct Usage {
    states: i64,
    sum: Sum,
    max: f64,
}

impl Usage {
    fn add(&mut self, value: f64) {
        self.max = if self.states == 0 { value } else { self.max.max(value) };
        self.states += 1;
        self.sum.add(value);
    }

    fn merge(&mut self, other: &Self) {
        self.max = if self.states == 0 { other.max } else { self.max.max(other.max) };
        self.states += other.states;
        self.sum.merge(other.sum);
    }

    #[expect(clippy::cast_precision_loss, reason = "fewer than 2^53 states")]
    fn row(&self, name: String) -> Vec<Cell> {
        // A sum beyond all doubles has no mean that could be told.
        let mean = Some(self.sum.get() / self.states as f64).filter(|mean| mean.is_finite());
        vec![name.into(), self.states.into(), mean.into(), self.max.into()]
    }
}

/// Takes in what the states of a batch that are asked about name, and whether there is one.
fn take(batch: &RecordBatch, (asked, window): (&Asked, Window), list: &str, (has_states, found): &mut (bool, Apps)) {
    let (ids, times) = (texts(batch, "device_id"), times(batch, "timestamp"));
    let lists = batch.column_by_name(list).expect("the scan has it").as_list::<i32>();
    for row in 0..batch.num_rows() {
        if !window.holds_row(times, row) || !asked.holds(ids.value(row)) {
            continue;
        }
        *has_states = true;
        if lists.is_null(row) {
            continue;
        }
        let apps = lists.value(row);
        let apps = apps.as_struct();
        let names = apps.column(0).as_string::<i32>();
        let values = apps.column(apps.num_columns() - 1).as_primitive::<Float64Type>();
        for app in (0..apps.len()).filter(|&app| apps.is_valid(app) && names.is_valid(app) && values.is_valid(app)) {
            match found.get_mut(names.value(app)) {
                Some(usage) => usage.add(values.value(app)),
                None => found.entry(names.value(app).to_owned()).or_default().add(values.value(app)),
            }
        }
    }
}
