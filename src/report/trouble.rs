//! Which devices are in trouble, and which are the worst.

use std::collections::BTreeMap;

use crate::clock::Timestamp;
use crate::query::{Agg, Cell, Change, ColumnRole, QueryError, times_seen};

use super::Asking;
use super::model::{Section, Table, TableRow};
use super::naming::{MOST_ROWS, Naming};
use super::plan::{Bound, Limit};
use super::words::{plain, scale};

/// The most devices that have a section of their own.
const MOST_SECTIONS: usize = 12;

/// By device, what is computed of a metric over the whole window.
type Values = BTreeMap<String, f64>;

/// What a device may be bad at.
pub(super) struct Ranking {
    title: String,
    unit: String,
    bound: Bound,
    /// The worst first.
    devices: Vec<(String, f64)>,
}

impl Asking<'_> {
    pub(super) fn trouble(&self, rankings: &[Ranking], naming: &Naming) -> Section {
        let table = |ranking: &Ranking| {
            let in_trouble = ranking.in_trouble().count();
            let (divisor, unit) = scale(ranking.bound.value(), &ranking.unit);
            let rows = ranking.devices.iter().take(in_trouble.max(self.options.worst)).map(|(id, value)| TableRow {
                is_poor: ranking.bound.is_crossed_by(*value),
                ..naming.row(id, [Cell::Number(value / divisor)])
            });
            let side = if matches!(ranking.bound, Bound::Above(_)) { "above" } else { "below" };
            let devices = match in_trouble {
                0 => "none".to_owned(),
                1 => "1 device".to_owned(),
                many => format!("{many} devices"),
            };
            let title =
                format!("{}: {devices} {side} {} {unit}", ranking.title, plain(ranking.bound.value() / divisor));
            let value = if unit.is_empty() { "Value" } else { &unit };
            Table::new(title.trim_end(), &["Device", value], rows.collect(), MOST_ROWS.max(self.options.worst))
        };
        Section {
            title: "Devices in trouble".to_owned(),
            anchor: "trouble".to_owned(),
            note: "The worst of each kind over the whole window; those beyond the limit are marked.".to_owned(),
            tables: rankings.iter().filter(|ranking| !ranking.devices.is_empty()).map(table).collect(),
            ..Section::default()
        }
    }

    /// The devices by how bad they are, for each limit.
    pub(super) fn rankings(
        &self,
        states: &BTreeMap<String, i64>,
        changed: &[Change],
    ) -> Result<Vec<Ranking>, QueryError> {
        let mut by_agg: Vec<(Agg, Vec<&Limit>)> = Vec::new();
        for limit in &self.plan.limit {
            match by_agg.iter_mut().find(|(agg, _)| *agg == limit.agg) {
                Some((_, limits)) => limits.push(limit),
                None => by_agg.push((limit.agg, vec![limit])),
            }
        }
        let mut found: BTreeMap<&str, Ranking> = BTreeMap::new();
        for (agg, limits) in by_agg {
            let names: Vec<String> = limits.iter().map(|limit| limit.metric.clone()).collect();
            let answer = self.by_device(&names, &[agg])?;
            let key = answer.of_role(ColumnRole::Key).next().expect("what is asked by device says whose it is");
            for (limit, at) in limits.into_iter().zip(answer.value_columns()) {
                let values = answer.rows.iter().filter_map(|row| Some((row[key].text()?, row[at].number()?)));
                let unit = answer.columns[at].unit.clone();
                let ranking = Ranking::new(&limit.title, unit, self.bound(limit), values.collect());
                found.insert(&limit.name, ranking);
            }
        }
        let order = self.plan.limit.iter().filter_map(|limit| found.remove(limit.name.as_str()));
        let order: Vec<Ranking> = order.collect();
        let disconnects = &self.plan.disconnects;
        let left = self.disconnects(states, changed)?;
        let disconnects = Ranking::new(&disconnects.title, String::new(), Bound::Above(disconnects.above), left);
        Ok(order.into_iter().chain([disconnects]).collect())
    }

    /// How often a day each device disconnected, of those that did.
    fn disconnects(&self, states: &BTreeMap<String, i64>, changed: &[Change]) -> Result<Values, QueryError> {
        let disconnects = &self.plan.disconnects;
        let mut left: Values = states.keys().map(|id| (id.clone(), 0.0)).collect();
        // The API's examples write the value with a capital.
        let is_it = |cell: &Cell| cell.text().is_some_and(|text| text.eq_ignore_ascii_case(&disconnects.value));
        let is_one =
            |change: &&Change| change.column == disconnects.column && is_it(&change.from) && !is_it(&change.to);
        for change in changed.iter().filter(is_one) {
            *left.entry(change.device.clone()).or_default() += 1.0;
        }
        left.retain(|_, times| *times > 0.0);
        let days = if left.is_empty() { BTreeMap::new() } else { self.days_seen()? };
        left.iter_mut().for_each(|(id, times)| *times /= days.get(id).copied().unwrap_or(1.0));
        Ok(left)
    }

    /// The days from a device's first state to its last, and one at least: what happened once in an hour did not happen
    /// twenty-four times a day.
    fn days_seen(&self) -> Result<BTreeMap<String, f64>, QueryError> {
        let mut seen: BTreeMap<String, (Timestamp, Timestamp)> = BTreeMap::new();
        for ((_, device), (first, last)) in times_seen(self.days, self.options.window)? {
            // A device may have moved from one account to another.
            let all = seen.entry(device).or_insert((first, last));
            *all = (all.0.min(first), all.1.max(last));
        }
        let days = |(first, last): (Timestamp, Timestamp)| ((last - first).as_seconds_f64() / 86_400.0).max(1.0);
        Ok(seen.into_iter().map(|(device, times)| (device, days(times))).collect())
    }
}

impl Ranking {
    fn new(title: &str, unit: String, bound: Bound, values: Values) -> Self {
        let mut devices: Vec<(String, f64)> = values.into_iter().collect();
        // The ids are in order, and the sort keeps that where values are equal.
        devices.sort_by(|(_, a), (_, b)| bound.badness(*b).total_cmp(&bound.badness(*a)));
        Self { title: title.to_owned(), unit, bound, devices }
    }

    pub(super) fn in_trouble(&self) -> impl Iterator<Item = &(String, f64)> {
        self.devices.iter().take_while(|(_, value)| self.bound.is_crossed_by(*value))
    }
}

/// The devices that have a section of their own: the worst of each kind, then the second worst, and so on, of those in
/// trouble; then in the same order of the others.
pub(super) fn chosen(rankings: &[Ranking], worst: usize) -> Vec<String> {
    let longest = rankings.iter().map(|ranking| ranking.devices.len()).max().unwrap_or(0);
    let of_rank = |rank: usize| {
        rankings.iter().filter_map(move |ranking| {
            let (id, value) = ranking.devices.get(rank)?;
            Some((id, ranking.bound.is_crossed_by(*value)))
        })
    };
    let ranked: Vec<(&String, bool)> = (0..worst.min(longest)).flat_map(of_rank).collect();
    let in_trouble = ranked.iter().filter(|(_, is_crossed)| *is_crossed);
    let mut chosen: Vec<String> = Vec::new();
    for (id, _) in in_trouble.chain(&ranked) {
        if chosen.len() < MOST_SECTIONS && !chosen.contains(id) {
            chosen.push((*id).clone());
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranking(limit: f64, devices: &[(String, f64)]) -> Ranking {
        Ranking::new("", String::new(), Bound::Above(limit), devices.iter().cloned().collect())
    }

    #[test]
    fn devices_in_trouble_come_before_healthy_ones() {
        let devices = |kind: &str, value: f64| -> Vec<(String, f64)> {
            (0..5_u32).map(|at| (format!("{kind}{at}"), value - f64::from(at))).collect()
        };
        // Of seven kinds nobody is in trouble, and of the last one four are.
        let healthy = (0..7).map(|kind| ranking(10.0, &devices(&format!("healthy{kind}-"), 9.0)));
        let rankings: Vec<Ranking> = healthy.chain([ranking(10.0, &devices("poor", 14.0))]).collect();
        let chosen = chosen(&rankings, 5);
        assert_eq!(chosen.len(), MOST_SECTIONS);
        assert_eq!(chosen[..5], ["poor0", "poor1", "poor2", "poor3", "healthy0-0"]);
    }
}
