//! What is said of the fleet.

use std::collections::{BTreeMap, BTreeSet};

use crate::clock;
use crate::query::{
    Agg, Answer, AppsOptions, Cause, Cell, Change, ColumnRole, DeviceGaps, MOST_MISSED, QueryError, Who, Window, apps,
};

use super::Asking;
use super::ask::Known;
use super::model::{Chart, Fact, Report, Section, Table, TableRow};
use super::naming::{Anchors, MOST_ROWS, Naming};
use super::plan::{Bound, Shown};
use super::trouble::{Ranking, chosen};
use super::words::percent;

/// The most applications that are shown.
const MOST_APPS: usize = 10;

impl Asking<'_> {
    /// Says what there is to say of the fleet.
    pub(super) fn fleet(&self, report: &mut Report) -> Result<(), QueryError> {
        "Fleet report".clone_into(&mut report.title);
        let (states, received) = self.states_by_device()?;
        let known = self.known(None)?;
        let changed = self.changed()?;
        let rankings = self.rankings(&states, &changed)?;
        let chosen = chosen(&rankings, self.options.worst);
        let anchors: Anchors = chosen.iter().zip(1..).map(|(id, at)| (id.clone(), format!("device-{at}"))).collect();
        let naming = Naming { known: &known, anchors: &anchors };
        let (coverage, covered) = self.coverage(received, &naming)?;
        let in_trouble: BTreeSet<&String> = rankings.iter().flat_map(Ranking::in_trouble).map(|(id, _)| id).collect();
        report.facts = vec![
            Fact::new("Devices seen", states.len().to_string()),
            Fact::new("States", states.values().sum::<i64>().to_string()),
            covered,
            Fact { is_poor: !in_trouble.is_empty(), ..Fact::new("Devices in trouble", in_trouble.len().to_string()) },
        ];
        report.sections = vec![
            coverage,
            self.status()?,
            self.in_use(&known),
            self.performance()?,
            self.trouble(&rankings, &naming),
            self.applications()?,
            changes_of_the_fleet(&changed, &self.plan.change),
        ];
        report.devices = self.device_sections(&chosen, &known, &changed)?;
        for (section, id) in report.devices.iter_mut().zip(&chosen) {
            section.anchor.clone_from(&anchors[id]);
        }
        Ok(())
    }

    /// How many states there are of each device, and of all over time.
    fn states_by_device(&self) -> Result<(BTreeMap<String, i64>, Chart), QueryError> {
        let answer = self.by_device(&[], &[])?;
        let states = answer.rows.iter().filter_map(|row| match row.as_slice() {
            [_, Cell::Text(id), Cell::Count(states)] => Some((id.clone(), *states)),
            _ => None,
        });
        let over_time = self.over_time(Who::Fleet { by: None }, &[], &[])?;
        let states_at = over_time.of_role(ColumnRole::States).next().expect("every trend counts its states");
        let mut chart = Chart::of("States received", &over_time, states_at..states_at + 1, |_| "states".to_owned());
        // Of what is still to come nobody knows, and it is no outage.
        let window = Window { until: self.options.window.until.min(self.options.now), ..self.options.window };
        chart.leave_out_parts(window, self.every, self.options.zone);
        Ok((states.collect(), chart))
    }

    fn coverage(&self, received: Chart, naming: &Naming) -> Result<(Section, Fact), QueryError> {
        let gaps = self.gaps()?;
        let (expected, present) = gaps.as_ref().map_or((0, 0), |gaps| (gaps.expected, gaps.present));
        let missing = |cause| gaps.as_ref().map_or(0, |gaps| gaps.missing(cause));
        let causes = Cause::ALL.map(|cause| {
            let cells =
                [cause_words(cause).to_owned().into(), Cell::count(missing(cause)), share(missing(cause), expected)];
            TableRow { cells: cells.into(), ..TableRow::default() }
        });
        let has_accounts = gaps.as_ref().is_some_and(|gaps| gaps.has_accounts);
        let devices = || gaps.iter().flat_map(|gaps| &gaps.all);
        let mut worst: Vec<&DeviceGaps> = devices().filter(|device| device.present < device.expected).collect();
        worst.sort_by_key(|device| device.present);
        let worst = worst.into_iter().map(|device| {
            // A device in one of several accounts is told by it.
            let account = has_accounts.then(|| Cell::Text(device.of.account.clone()));
            let cells = [share(device.present, device.expected), Cell::count(device.recoverable)];
            naming.row(&device.of.device, account.into_iter().chain(cells))
        });
        let recoverable: usize = devices().map(|device| device.recoverable).sum();
        let note = format!(
            "A state of each device is expected every {}.{}",
            clock::format_duration(self.options.expect),
            if recoverable > 0 {
                format!(" {recoverable} of the missing can still be fetched: dex-archive backfill.")
            } else {
                String::new()
            }
        );
        let covered = Fact {
            is_poor: ratio(missing(Cause::NotAsked) + missing(Cause::Failed), expected) > MOST_MISSED,
            ..Fact::new("Coverage", if expected > 0 { percent(ratio(present, expected)) } else { "-".to_owned() })
        };
        let account = has_accounts.then_some("Account");
        let titles: Vec<&str> = ["Device"].into_iter().chain(account).chain(["Coverage, %", "Recoverable"]).collect();
        let section = Section {
            title: "Coverage".to_owned(),
            anchor: "coverage".to_owned(),
            note,
            charts: vec![received],
            tables: vec![
                Table::new("Why states are missing", &["Cause", "Intervals", "Share, %"], causes.into(), MOST_ROWS),
                Table::new("Devices with most gaps", &titles, worst.collect(), MOST_ROWS),
            ],
            ..Section::default()
        };
        Ok((section, covered))
    }

    fn status(&self) -> Result<Section, QueryError> {
        let charts = self.plan.share.iter().map(|shown| {
            let answer = self.over_time(Who::Fleet { by: None }, std::slice::from_ref(&shown.column), &[Agg::Mean])?;
            Ok(share_chart(&shown.title, &shown.column, &answer, answer.value_columns()))
        });
        let charts = charts.collect::<Result<_, QueryError>>()?;
        Ok(Section {
            title: "Status and versions over time".to_owned(),
            anchor: "status".to_owned(),
            note: "The share of the states with each value.".to_owned(),
            charts,
            ..Section::default()
        })
    }

    fn in_use(&self, known: &Known) -> Section {
        let tables = self.plan.count.iter().map(|shown| {
            let mut counts: BTreeMap<String, usize> = BTreeMap::new();
            for id in known.ids() {
                *counts.entry(known.value(id, &shown.column).unwrap_or_else(|| "(none)".to_owned())).or_default() += 1;
            }
            let total = counts.values().sum();
            let mut counts: Vec<(String, usize)> = counts.into_iter().collect();
            counts.sort_by_key(|(_, devices)| std::cmp::Reverse(*devices));
            let rows = counts.into_iter().map(|(value, devices)| TableRow {
                cells: vec![Cell::Text(value), Cell::count(devices), share(devices, total)],
                ..TableRow::default()
            });
            Table::new(&shown.title, &["Value", "Devices", "Share, %"], rows.collect(), MOST_ROWS)
        });
        Section {
            title: "In use".to_owned(),
            anchor: "in-use".to_owned(),
            note: "Devices by the value of their newest state.".to_owned(),
            tables: tables.collect(),
            ..Section::default()
        }
    }

    fn performance(&self) -> Result<Section, QueryError> {
        const PERCENTILES: [Agg; 3] = [Agg::P50, Agg::P90, Agg::P99];
        // One at a time: all values of one metric are kept for its percentiles.
        let charts = self.plan.percentiles.iter().map(|shown| {
            let answer = self.over_time(Who::Fleet { by: None }, std::slice::from_ref(&shown.metric), &PERCENTILES)?;
            let name = |column: &str| column.rsplit('_').next().unwrap_or(column).to_owned();
            let mut chart = Chart::of(&shown.title, &answer, answer.value_columns(), name);
            chart.limit =
                self.plan.limit.iter().find(|limit| limit.metric == shown.metric).and_then(|limit| {
                    match self.bound(limit) {
                        Bound::Above(number) => Some(number),
                        Bound::Below(_) => None,
                    }
                });
            Ok(chart)
        });
        let charts = charts.collect::<Result<_, QueryError>>()?;
        Ok(Section {
            title: "Latency and loss".to_owned(),
            anchor: "performance".to_owned(),
            note: "Percentiles over the states of all devices.".to_owned(),
            charts,
            ..Section::default()
        })
    }

    fn applications(&self) -> Result<Section, QueryError> {
        Ok(Section {
            title: "Heaviest applications".to_owned(),
            anchor: "applications".to_owned(),
            tables: self.app_tables(None)?,
            ..Section::default()
        })
    }

    pub(super) fn app_tables(&self, devices: Option<&[String]>) -> Result<Vec<Table>, QueryError> {
        let of = |resource: &String| {
            let options = AppsOptions {
                devices: devices.map(<[String]>::to_vec),
                resource: resource.clone(),
                window: self.options.window,
                top: MOST_APPS,
            };
            let answer = apps(self.days, &options)?;
            let rows = answer.rows.into_iter().map(|cells| TableRow { cells, ..TableRow::default() });
            let unit = self.percent_unit();
            let columns = ["Application", "States", &format!("Mean, {unit}"), &format!("Maximum, {unit}")];
            Ok(Table::new(&format!("By {}", resource.to_uppercase()), &columns, rows.collect(), MOST_APPS))
        };
        self.plan.apps.resources.iter().map(of).collect()
    }
}

/// What became different, how often, and on how many devices.
fn changes_of_the_fleet(changed: &[Change], wanted: &[Shown]) -> Section {
    let of_column = |wanted: &Shown| {
        let mut kinds: BTreeMap<(String, String), (f64, BTreeSet<&str>)> = BTreeMap::new();
        for change in changed.iter().filter(|change| change.column == wanted.column) {
            let kind = (change.from.text().unwrap_or_default(), change.to.text().unwrap_or_default());
            let (times, devices) = kinds.entry(kind).or_default();
            *times += 1.0;
            devices.insert(&change.device);
        }
        let mut kinds: Vec<_> = kinds.into_iter().collect();
        kinds.sort_by_key(|(_, (_, devices))| std::cmp::Reverse(devices.len()));
        let rows = kinds.into_iter().map(|((from, to), (times, devices))| TableRow {
            cells: vec![from.into(), to.into(), Cell::count(devices.len()), times.into()],
            ..TableRow::default()
        });
        Table::new(&wanted.title, &["From", "To", "Devices", "Times"], rows.collect(), MOST_ROWS)
    };
    Section {
        title: "Changes".to_owned(),
        anchor: "changes".to_owned(),
        note: "From one state of a device to its next.".to_owned(),
        tables: wanted.iter().map(of_column).filter(|table| !table.rows.is_empty()).collect(),
        ..Section::default()
    }
}

/// Shares of one whole over time: columns are named as `column=value`.
pub(super) fn share_chart(title: &str, column: &str, answer: &Answer, columns: std::ops::Range<usize>) -> Chart {
    let value =
        |name: &str| name.strip_prefix(column).and_then(|rest| rest.strip_prefix('=')).unwrap_or(name).to_owned();
    Chart::of(title, answer, columns, value).stacked()
}

pub(super) fn cause_words(cause: Cause) -> &'static str {
    match cause {
        Cause::NotAsked => "nobody asked",
        Cause::Failed => "the request failed",
        Cause::Absent => "the API had no state",
        Cause::Silent => "the device was silent",
    }
}

/// A share in per cent, to a tenth.
fn share(part: usize, whole: usize) -> Cell {
    if whole > 0 { Cell::Number((ratio(part, whole) * 1_000.0).round() / 10.0) } else { Cell::Null }
}

/// A share of something; none of nothing.
#[expect(clippy::cast_precision_loss, reason = "for people")]
fn ratio(part: usize, whole: usize) -> f64 {
    part as f64 / whole.max(1) as f64
}
