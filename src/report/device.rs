//! What is said of single devices.

use crate::query::{Agg, Answer, Cell, Change, ColumnRole, Gap, QueryError, Who};

use super::Asking;
use super::ask::Known;
use super::fleet::{cause_words, share_chart};
use super::model::{Chart, Fact, Report, Section, Table, TableRow};

/// The most changes of a device that are shown, the newest first.
const MOST_CHANGES: usize = 10;

/// The most gaps.
const MOST_GAPS: usize = 20;

impl Asking<'_> {
    /// Says what there is to say of devices.
    pub(super) fn devices(&self, ids: &[String], report: &mut Report) -> Result<(), QueryError> {
        let known = self.known(Some(ids.to_vec()))?;
        let changed = self.changed()?;
        let (seen, unseen): (Vec<String>, Vec<String>) = ids.iter().cloned().partition(|id| known.has(id));
        report.devices = self.device_sections(&seen, &known, &changed)?;
        for ((section, id), at) in report.devices.iter_mut().zip(&seen).zip(1..) {
            section.anchor = format!("device-{at}");
            section.tables.extend(self.app_tables(Some(std::slice::from_ref(id)))?);
            section.tables.push(self.gap_table(id)?);
        }
        report.title = match ids {
            [one] => format!("Device report: {}", known.name(one)),
            many => format!("Report of {} devices", many.len()),
        };
        report.facts = vec![Fact::new("Devices", ids.len().to_string())];
        if !unseen.is_empty() {
            let fact = Fact::new("Without a state in this time", unseen.join(", "));
            report.facts.push(Fact { is_poor: true, ..fact });
        }
        Ok(())
    }

    /// A section for each device that has a state.
    pub(super) fn device_sections(
        &self,
        ids: &[String],
        known: &Known,
        changed: &[Change],
    ) -> Result<Vec<Section>, QueryError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let (courses, status) = (&self.plan.course, self.plan.share.first());
        let names = status.map(|shown| &shown.column).into_iter().chain(courses.iter().map(|course| &course.metric));
        let names: Vec<String> = names.cloned().collect();
        let answer = self.over_time(Who::Devices(ids.to_vec()), &names, &[Agg::Mean])?;
        let values = answer.value_columns();
        // The shares of the status, and then the courses.
        let first = values.end - courses.len();
        let key = answer.of_role(ColumnRole::Key).next().expect("what is asked of devices says whose it is");
        let section = |id: &String| {
            let of_device = |row: &&Vec<Cell>| row[key].text().as_ref() == Some(id);
            let rows = answer.rows.iter().filter(of_device).cloned().collect();
            let own = Answer { title: String::new(), columns: answer.columns.clone(), rows };
            let status = status.map(|shown| share_chart(&shown.title, &shown.column, &own, values.start..first));
            let charts = courses.iter().zip(first..).map(|(course, at)| {
                let mut chart = Chart::of(&course.title, &own, at..at + 1, |_| "mean".to_owned());
                let limit = self.plan.limit.iter().find(|limit| limit.metric == course.metric);
                chart.limit = limit.map(|limit| self.bound(limit).value());
                chart
            });
            let charts = status.into_iter().chain(charts).filter(has_values).collect();
            Section {
                title: known.name(id),
                facts: self.facts(id, known),
                charts,
                tables: vec![self.changes_of(id, changed)],
                ..Section::default()
            }
        };
        Ok(ids.iter().map(section).collect())
    }

    fn facts(&self, id: &str, known: &Known) -> Vec<Fact> {
        let seen = known.seen(id).and_then(|seen| match seen {
            Cell::Time(at) => Some(super::words::moment(*at, self.options.zone)),
            _ => None,
        });
        let last = [Fact::new("Last seen", seen.unwrap_or_else(|| "-".to_owned())), Fact::new("Id", id)];
        let facts = self
            .plan
            .fact
            .iter()
            .map(|shown| Fact::new(&shown.title, known.value(id, &shown.column).unwrap_or_else(|| "-".to_owned())));
        facts.chain(last).collect()
    }

    /// The newest changes of a device.
    fn changes_of(&self, id: &str, changed: &[Change]) -> Table {
        let shown = || self.plan.change.iter().chain(&self.plan.share);
        let title = |column: &str| shown().find(|shown| shown.column == column).map(|shown| shown.title.clone());
        let rows = changed.iter().rev().filter(|change| change.device == id).map(|change| {
            let what = title(&change.column).unwrap_or_else(|| change.column.clone());
            let cells = vec![change.at.into(), what.into(), change.from.clone(), change.to.clone()];
            TableRow { cells, ..TableRow::default() }
        });
        Table::new("Changes, newest first", &["At", "What", "From", "To"], rows.collect(), MOST_CHANGES)
    }

    /// The newest gaps of a device, and why there are no states.
    fn gap_table(&self, id: &str) -> Result<Table, QueryError> {
        let (has_accounts, mut gaps) =
            self.gaps_of(id)?.map_or((false, Vec::new()), |gaps| (gaps.has_accounts, gaps.all));
        // They come account by account.
        gaps.sort_by_key(|gap| std::cmp::Reverse(gap.from));
        let row = |gap: Gap| {
            let account = has_accounts.then_some(Cell::Text(gap.of.account));
            let times = [Cell::from(gap.from), gap.to.into()].into_iter();
            let rest = [Cell::Text(cause_words(gap.cause).to_owned()), gap.days_left.into()];
            TableRow { cells: times.chain(account).chain(rest).collect(), ..TableRow::default() }
        };
        let account = has_accounts.then_some("Account");
        let titles: Vec<&str> =
            ["From", "To"].into_iter().chain(account).chain(["Cause", "Days until it is lost"]).collect();
        Ok(Table::new("Gaps, newest first", &titles, gaps.into_iter().map(row).collect(), MOST_GAPS))
    }
}

fn has_values(chart: &Chart) -> bool {
    chart.series.iter().any(|line| line.values.iter().any(Option::is_some))
}
