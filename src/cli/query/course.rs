//! How a value of an answer went: as a line of small bars, or as a chart for the terminal.

use crate::clock::{Timestamp, Zone};
use crate::query::{Answer, AnswerColumn, Cell, ColumnRole};
use crate::shown::digits;

use super::super::print;

/// The bars of a line.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Letters of a name at most.
const LONGEST_NAME: usize = 60;

/// The most charts that are drawn at once.
const MOST_CHARTS: usize = 12;

/// Letters and lines of a chart.
const NARROWEST: usize = 40;
const WIDEST: usize = 400;
const HEIGHT: usize = 10;

/// Room for the numbers at the left of a chart, at least.
const LABEL: usize = 9;

/// Letters of a chart beside them, at least.
const FEWEST_COLUMNS: usize = 20;

/// Points that a letter of a chart is wide and high: the dots of braille.
const DOTS: (usize, usize) = (2, 4);

/// One value of a series, bucket by bucket.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Course {
    pub(super) name: String,
    pub(super) unit: String,
    /// Where there is none, there is a gap.
    pub(super) values: Vec<Option<f64>>,
    starts: Vec<Timestamp>,
}

/// The courses in an answer about time: each value of each series.
pub(super) fn courses(answer: &Answer) -> Vec<Course> {
    let Some(start) = answer.of_role(ColumnRole::Start).next() else { return Vec::new() };
    let keys: Vec<usize> = answer.of_role(ColumnRole::Key).collect();
    let same = |a: &Vec<Cell>, b: &Vec<Cell>| keys.iter().all(|&key| a[key] == b[key]);
    let series: Vec<&[Vec<Cell>]> = answer.rows.chunk_by(same).collect();
    let is_one = series.len() == 1;
    let course = |rows: &[Vec<Cell>], at: usize, column: &AnswerColumn| {
        // A device's name says more than its id.
        let key = keys.iter().rev().find_map(|&key| rows[0][key].text()).filter(|_| !is_one);
        let name = key.into_iter().chain([column.name.clone()]).collect::<Vec<_>>().join(" ");
        let starts = rows.iter().filter_map(|row| if let Cell::Time(at) = row[start] { Some(at) } else { None });
        Course {
            name: shortened(&print::safe_word(&name)),
            unit: column.unit.clone(),
            values: rows.iter().map(|row| row[at].number()).collect(),
            starts: starts.collect(),
        }
    };
    let of_series = |rows| answer.of_role(ColumnRole::Value).map(move |at| (rows, at));
    series.into_iter().flat_map(of_series).map(|(rows, at)| course(rows, at, &answer.columns[at])).collect()
}

/// Charts of the courses in an answer, `width` letters wide.
pub(super) fn charts(answer: &Answer, zone: Zone, width: usize) -> String {
    let courses = courses(answer);
    let charts = courses.iter().take(MOST_CHARTS).map(|course| course.chart(zone, width.clamp(NARROWEST, WIDEST)));
    let rest = courses.len().saturating_sub(MOST_CHARTS);
    let more = format!("\n… and {rest} charts more: ask for fewer devices, groups or metrics\n");
    let charts = charts.chain((rest > 0).then_some(more));
    format!("{}\n\n{}", print::safe_word(&answer.title), charts.collect::<Vec<_>>().join("\n"))
}

impl Course {
    /// The least and the greatest value.
    pub(super) fn range(&self) -> Option<(f64, f64)> {
        let values = self.values.iter().flatten().copied();
        values
            .map(|value| (value, value))
            .reduce(|(least, greatest), (value, _)| (least.min(value), greatest.max(value)))
    }

    /// A letter for each bucket or for some together, a space for a gap.
    pub(super) fn sparkline(&self, longest: usize) -> String {
        let Some((least, greatest)) = self.range() else { return String::new() };
        let bar = |value: f64| {
            let share = if greatest > least { (value - least) / (greatest - least) } else { 0.5 };
            BARS[nearest(share, BARS.len() - 1)]
        };
        let together = self.values.len().div_ceil(longest.max(1));
        let letters = self.values.chunks(together).map(|values| mean(values).map_or(' ', bar));
        letters.collect()
    }

    fn chart(&self, zone: Zone, width: usize) -> String {
        let head = format!("{} [{}]\n", self.name, if self.unit.is_empty() { "-" } else { &self.unit });
        let Some((least, greatest)) = self.range() else { return format!("{head}  (no value)\n") };
        // Zero is in the picture where it is near, so that a small change does not look like a large one.
        let low = if least >= 0.0 && least < greatest * 0.75 { 0.0 } else { least };
        // So it is where there is but one value.
        let (low, high) = match (least.min(0.0), greatest.max(0.0)) {
            _ if greatest > low => (low, greatest),
            (0.0, 0.0) => (0.0, 1.0),
            with_zero => with_zero,
        };
        let labels = |line: usize| match line {
            0 => digits(high),
            _ if line == HEIGHT / 2 => digits(low + (high - low) * 0.5),
            _ if line + 1 == HEIGHT => digits(low),
            _ => String::new(),
        };
        let label = (0..HEIGHT).map(|line| labels(line).len()).fold(LABEL, usize::max);
        let columns = width.saturating_sub(label + 2).max(FEWEST_COLUMNS);
        let lines = self.braille((low, high), columns);
        let lines = lines.iter().enumerate().map(|(at, line)| {
            let said = labels(at);
            let tick = if said.is_empty() { '│' } else { '┤' };
            format!("{said:>label$} {tick}{line}\n")
        });
        let lines: String = lines.collect();
        format!("{head}{lines}{:label$} └{}\n{:label$}  {}\n", "", "─".repeat(columns), "", self.times(zone, columns))
    }

    /// The curve in braille, `columns` letters wide.
    fn braille(&self, (low, high): (f64, f64), columns: usize) -> Vec<String> {
        let (wide, tall) = (columns * DOTS.0, HEIGHT * DOTS.1);
        let last = self.values.len().saturating_sub(1).max(1);
        let dot = |at: usize, value: f64| {
            (at * (wide - 1) / last, tall - 1 - nearest((value - low) / (high - low), tall - 1))
        };
        let mut canvas = Canvas::new(columns);
        let dots = self.values.iter().enumerate().map(|(at, value)| value.map(|value| dot(at, value)));
        let mut before = None;
        for here in dots {
            if let Some(here) = here {
                canvas.line(before.unwrap_or(here), here);
            }
            before = here;
        }
        canvas.lines()
    }

    /// Under a chart: when its first, its middle and its last bucket begin, and in which zone where there is room.
    fn times(&self, zone: Zone, columns: usize) -> String {
        let word = |at: &Timestamp| zone.local(*at).format("%m-%d %H:%M").to_string();
        // Each once, where there are few.
        let (half, end) = (self.starts.len() / 2, self.starts.len().saturating_sub(1));
        let at = |place: Option<usize>| place.and_then(|place| self.starts.get(place)).map(word).unwrap_or_default();
        let (first, middle) = (at(Some(0)), at(Some(half).filter(|half| (1..end).contains(half))));
        let last = at(Some(end).filter(|end| *end > 0));
        let zone = zone.to_string();
        if columns < first.len() * 3 + zone.len() + 4 {
            return format!("{first:<width$}{last}", width = columns.saturating_sub(last.len()));
        }
        let columns_of_times = columns - zone.len() - 2;
        let (left, right) = (columns_of_times / 2, columns_of_times - columns_of_times / 2);
        let half = left - middle.len() / 2;
        format!("{first:<half$}{middle:<width$}{last}  {zone}", width = right + middle.len() / 2 - last.len())
    }
}

/// Letters of braille, each of two by four dots.
struct Canvas {
    letters: Vec<Vec<u8>>,
}

impl Canvas {
    fn new(columns: usize) -> Self {
        Self { letters: vec![vec![0; columns]; HEIGHT] }
    }

    fn dot(&mut self, (x, y): (usize, usize)) {
        // How Unicode numbers the dots: three rows of two, and below them a fourth.
        const BITS: [[u8; 2]; 4] = [[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]];
        self.letters[y / DOTS.1][x / DOTS.0] |= BITS[y % DOTS.1][x % DOTS.0];
    }

    fn line(&mut self, from: (usize, usize), to: (usize, usize)) {
        let steps = from.0.abs_diff(to.0).max(from.1.abs_diff(to.1)).max(1);
        let between = |a: usize, b: usize, step: usize| (a * (steps - step) + b * step + steps / 2) / steps;
        (0..=steps).for_each(|step| self.dot((between(from.0, to.0, step), between(from.1, to.1, step))));
    }

    fn lines(&self) -> Vec<String> {
        let letter =
            |dots: &u8| if *dots == 0 { ' ' } else { char::from_u32(0x2800 + u32::from(*dots)).unwrap_or(' ') };
        let lines = self.letters.iter().map(|line| line.iter().map(letter).collect::<String>().trim_end().to_owned());
        lines.collect()
    }
}

/// A share of `most`, to the nearest whole number.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "few dots")]
fn nearest(share: f64, most: usize) -> usize {
    ((share.clamp(0.0, 1.0) * most as f64).round() as usize).min(most)
}

/// A name that leaves room beside it.
fn shortened(name: &str) -> String {
    match name.char_indices().nth(LONGEST_NAME) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name.to_owned(),
    }
}

fn mean(values: &[Option<f64>]) -> Option<f64> {
    let there: Vec<f64> = values.iter().flatten().copied().collect();
    #[expect(clippy::cast_precision_loss, reason = "a few values")]
    let count = there.len() as f64;
    (!there.is_empty()).then(|| there.iter().sum::<f64>() / count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::parse_timestamp;

    fn course(values: &[Option<f64>]) -> Course {
        let start = parse_timestamp("2026-10-01T00:00:00Z").expect("a time");
        let starts = (0..values.len()).map(|hour| start + chrono::TimeDelta::hours(i64::try_from(hour).unwrap_or(0)));
        Course {
            name: "cpu_pct_mean".to_owned(),
            unit: "pct".to_owned(),
            values: values.to_vec(),
            starts: starts.collect(),
        }
    }

    #[test]
    fn a_gap_is_a_space_and_not_a_zero() {
        assert_eq!(course(&[Some(0.0), None, Some(7.0), Some(3.5)]).sparkline(60), "▁ █▅");
        assert_eq!(course(&[None, Some(5.0)]).sparkline(60), " ▅");
        assert_eq!(course(&[None]).sparkline(60), "");
        let long: Vec<Option<f64>> = (0..600).map(|at| Some(f64::from(at))).collect();
        assert_eq!(course(&long).sparkline(60).chars().count(), 60);
    }

    #[test]
    fn a_chart_has_axes_units_and_gaps() {
        let values: Vec<Option<f64>> =
            (0..48).map(|at| (!(20..28).contains(&at)).then(|| f64::from(at % 13))).collect();
        let chart = course(&values).chart(Zone::UTC, 72);
        expect_test::expect![[r"
            cpu_pct_mean [pct]
                12.00 ┤              ⡰⡇                               ⢀⢾
                      │            ⢠⠊ ⢇                              ⡔⠁⠸⡀
                      │           ⡠⠃  ⢸                            ⢀⠜   ⡇
                      │         ⢠⠊    ⢸                          ⢀⠔⠁    ⡇         ⢀⠔
                      │       ⢀⠔⠁     ⢸        ⡀                ⡰⠁      ⡇       ⢀⠔⠁
                 6.00 ┤      ⡠⠃        ⡇      ⡰⠁              ⢀⠜        ⢸      ⢀⠎
                      │    ⢀⠜          ⡇    ⡠⠊               ⡠⠃         ⢸    ⢀⠔⠁
                      │   ⡔⠁           ⡇  ⢀⠔⠁              ⢠⠊           ⢸   ⡠⠊
                      │ ⢀⠎             ⢱ ⢠⠃                ⠁            ⠈⡆⢀⠎
                    0 ┤⡰⠁              ⢸⠔⠁                               ⡷⠁
                      └─────────────────────────────────────────────────────────────
                       10-01 00:00            10-02 00:00           10-02 23:00  UTC
        "]]
        .assert_eq(&chart);
    }

    #[test]
    fn a_chart_of_one_value_has_zero_in_it_and_each_time_once() {
        let chart = |values: &[Option<f64>]| course(values).chart(Zone::UTC, 72);
        let (all, none) = (chart(&[Some(1.0); 3]), chart(&[Some(0.0)]));
        assert!(all.contains(" 1.00 ┤") && all.contains(" 0.5000 ┤") && all.contains(" 0 ┤"), "{all}");
        assert!(none.contains(" 1.00 ┤") && none.contains(" 0 ┤"), "{none}");
        let below = chart(&[Some(-60.0)]);
        assert!(below.contains(" 0 ┤") && below.contains(" -60.00 ┤"), "{below}");
        for (count, times) in [(1, 1), (2, 2), (3, 3)] {
            let chart = chart(&vec![Some(1.0); count]);
            assert_eq!(chart.matches("10-01 ").count(), times, "{chart}");
        }
    }
}
