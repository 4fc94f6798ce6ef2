//! Charts as SVG, to stand in a page: their colours are the page's business, by class and by the values here.

use std::fmt::Write;

use plotters::prelude::*;

use crate::clock::{self, Timestamp, Zone};
use crate::query::digits;

use super::model::{Chart, Line};
use super::words::{plain, scale};

/// The colours of series. The page's style names each, and has others for a dark page.
pub(super) const SERIES: [RGBColor; 8] = [
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xcc, 0x79, 0xa7),
    RGBColor(0xe6, 0x9f, 0x00),
    RGBColor(0x56, 0xb4, 0xe9),
    RGBColor(0x7a, 0x51, 0x95),
    RGBColor(0x8c, 0x8c, 0x8c),
];

/// Those of the rest: what is written, the lines of the grid, a limit.
const INK: RGBColor = RGBColor(0x44, 0x44, 0x44);
const GRID: RGBColor = RGBColor(0xdd, 0xdd, 0xdd);
const LIMIT: RGBColor = RGBColor(0xcc, 0x22, 0x22);

/// Width and height, in units of the picture: the page makes it as wide as there is room.
pub(super) const LARGE: (u32, u32) = (420, 190);
pub(super) const SMALL: (u32, u32) = (320, 160);

/// Room for what is written at the axes.
const LEFT: u32 = 48;
const BELOW: u32 = 22;

/// Room for a time that is written below a chart.
const TICK: u32 = 64;

/// A chart, as an `svg` element with a title and a description; none where it has no value.
pub(super) fn svg(chart: &Chart, zone: Zone, every_s: u64, (width, height): (u32, u32)) -> Option<String> {
    let frame = Frame::of(chart, every_s)?;
    let mut drawn = String::new();
    // What is drawn into a text has no reason to fail.
    frame.draw(chart, zone, SVGBackend::with_string(&mut drawn, (width, height))).ok()?;
    let body = drawn.split_once('>').map(|(_, body)| body)?;
    let title = maud::html! { title { (chart.title) } desc { (description(chart, &frame)) } }.into_string();
    let mut svg = String::with_capacity(drawn.len() + title.len() + 100);
    write!(svg, r#"<svg viewBox="0 0 {width} {height}" role="img">{title}{body}"#).ok()?;
    Some(svg)
}

/// What a chart shows, for who cannot see it.
fn description(chart: &Chart, frame: &Frame) -> String {
    let lines = chart.series.iter().map(|line| {
        let range = Chart::range(line).map_or("no value".to_owned(), |(least, mean, greatest)| {
            let [least, mean, greatest] = [least, mean, greatest].map(|value| digits(value / frame.divisor));
            format!("{least} to {greatest}, mean {mean} {}", frame.unit)
        });
        format!("{}: {}", line.name, range.trim_end())
    });
    lines.collect::<Vec<_>>().join("; ")
}

/// The time and the values that a chart spans.
pub(super) struct Frame {
    from: i64,
    to: i64,
    low: f64,
    high: f64,
    every: i64,
    divisor: f64,
    pub(super) unit: String,
}

impl Frame {
    pub(super) fn of(chart: &Chart, every_s: u64) -> Option<Self> {
        let every = i64::try_from(every_s).ok()?.max(1) * 1_000_000;
        let from = chart.starts.first()?.0.timestamp_micros();
        let to = chart.starts.last()?.0.timestamp_micros() + every;
        let values = || chart.series.iter().flat_map(|line| &line.values).flatten().copied();
        let (least, greatest) = values().map(|value| (value, value)).reduce(|(a, b), (c, d)| (a.min(c), b.max(d)))?;
        if chart.is_stacked {
            return Some(Self { from, to, low: 0.0, high: 100.0, every, divisor: 0.01, unit: "%".to_owned() });
        }
        // A limit is in the picture where it is near.
        let high = chart.limit.filter(|&limit| limit > greatest && limit < greatest * 2.0).unwrap_or(greatest);
        let low = if least >= 0.0 { 0.0 } else { least };
        let high = if high > low { high + (high - low) * 0.05 } else { low + 1.0 };
        let (divisor, unit) = scale(greatest, &chart.unit);
        Some(Self { from, to, low: low / divisor, high: high / divisor, every, divisor, unit })
    }

    fn draw(&self, chart: &Chart, zone: Zone, onto: SVGBackend) -> Result<(), Box<dyn std::error::Error>> {
        let area = onto.into_drawing_area();
        let most = usize::try_from(area.dim_in_pixel().0 / TICK).unwrap_or(2);
        let ticks = ticks(self.from, self.to, zone, most);
        let mut context = ChartBuilder::on(&area)
            .margin(6)
            .x_label_area_size(BELOW)
            .y_label_area_size(LEFT)
            .build_cartesian_2d((self.from..self.to).with_key_points(ticks), self.low..self.high)?;
        let label = ("sans-serif", 12).into_font().color(&INK);
        let time = |micros: &i64| clock::from_micros(*micros).map_or(String::new(), |at| time_words(at, zone));
        context
            .configure_mesh()
            .disable_x_mesh()
            .max_light_lines(1)
            .bold_line_style(GRID)
            .axis_style(INK)
            .label_style(label)
            .y_labels(5)
            .x_labels(most)
            .x_label_formatter(&time)
            .y_label_formatter(&|value| plain(*value))
            .draw()?;
        let lines = self.lines(chart);
        for (at, line) in lines.iter().enumerate() {
            let colour = SERIES[at % SERIES.len()];
            if chart.is_stacked {
                let below = at.checked_sub(1).map(|below| &lines[below]);
                context
                    .draw_series(self.areas(line, below).into_iter().map(|area| Polygon::new(area, colour.filled())))?;
            } else {
                let runs = self.runs(line);
                context.draw_series(runs.iter().map(|run| PathElement::new(run.clone(), colour.stroke_width(2))))?;
                // A value by itself is no line.
                let alone = runs.iter().filter(|run| run.len() == 1).flatten();
                context.draw_series(alone.map(|point| Circle::new(*point, 2, colour.filled())))?;
            }
        }
        if let Some(limit) = chart.limit.map(|limit| limit / self.divisor).filter(|limit| *limit <= self.high) {
            context.draw_series([PathElement::new(vec![(self.from, limit), (self.to, limit)], LIMIT)])?;
        }
        area.present()?;
        drop(context);
        Ok(())
    }

    /// The values of each series as they are drawn: in the unit of the picture, and of a whole each upon those before.
    fn lines(&self, chart: &Chart) -> Vec<Vec<(i64, Option<f64>)>> {
        let times: Vec<i64> = chart.starts.iter().map(|start| start.0.timestamp_micros()).collect();
        let mut upon = vec![0.0; times.len()];
        let mut line = |line: &Line| {
            let values = line.values.iter().zip(&times).zip(&mut upon);
            let values = values.map(|((value, time), upon)| {
                let value = value.map(|value| value / self.divisor);
                if chart.is_stacked {
                    *upon += value.unwrap_or(0.0);
                    return (*time, value.map(|_| upon.min(100.0)));
                }
                (*time, value)
            });
            values.collect()
        };
        chart.series.iter().map(&mut line).collect()
    }

    /// Values that follow each other without a gap, at the middle of their buckets.
    fn runs(&self, line: &[(i64, Option<f64>)]) -> Vec<Vec<(i64, f64)>> {
        let runs = line.split(|(_, value)| value.is_none()).filter(|run| !run.is_empty());
        let point = |(time, value): &(i64, Option<f64>)| Some((time + self.every / 2, (*value)?));
        runs.map(|run| run.iter().filter_map(point).collect()).collect()
    }

    /// What lies between a line and the one below, bucket by bucket as steps, without the gaps.
    fn areas(&self, line: &[(i64, Option<f64>)], below: Option<&Vec<(i64, Option<f64>)>>) -> Vec<Vec<(i64, f64)>> {
        let step = |(time, value): (i64, f64)| [(time, value), ((time + self.every).min(self.to), value)];
        let low = |at: usize| below.and_then(|below| below[at].1).unwrap_or(0.0);
        let known: Vec<usize> = (0..line.len()).filter(|&at| line[at].1.is_some()).collect();
        let runs = known.chunk_by(|a, b| a + 1 == *b);
        let area = |run: &[usize]| {
            let upper = run.iter().flat_map(|&at| step((line[at].0, line[at].1.unwrap_or(0.0))));
            let lower: Vec<_> = run.iter().flat_map(|&at| step((line[at].0, low(at)))).collect();
            upper.chain(lower.into_iter().rev()).collect()
        };
        runs.map(area).collect()
    }
}

/// The day that begins, or else the time of day.
fn time_words(at: Timestamp, zone: Zone) -> String {
    let local = zone.local(at);
    let form = if local.time() == chrono::NaiveTime::MIN { "%-d %b" } else { "%H:%M" };
    local.format(form).to_string()
}

/// The times that are written below a chart, at midnights or whole hours of a time zone.
fn ticks(from: i64, to: i64, zone: Zone, most: usize) -> Vec<i64> {
    const HOUR: i64 = 3_600_000_000;
    const HOURS: [i64; 6] = [1, 2, 3, 6, 12, 24];
    let fits = |step: i64| usize::try_from((to - from) / step).is_ok_and(|count| count <= most);
    let within = |at: &i64| (from..=to).contains(at);
    let day = |micros: i64| clock::from_micros(micros).map(|at: Timestamp| zone.local(at).date_naive());
    let days = day(from)
        .into_iter()
        .flat_map(|first| first.iter_days())
        .map_while(|date| clock::midnight(date, zone).map(|at| at.timestamp_micros()).filter(|at| *at <= to));
    match HOURS.into_iter().find(|hours| fits(hours * HOUR)) {
        Some(hours) if hours < 24 => {
            let of_day = |midnight: i64| (0..24 / hours).map(move |at| midnight + at * hours * HOUR);
            days.flat_map(of_day).filter(within).collect()
        }
        _ => {
            let days: Vec<i64> = days.filter(within).collect();
            let step = days.len().div_ceil(most.max(1)).max(1);
            days.into_iter().step_by(step).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::model::Start;

    fn chart(values: &[Option<f64>], is_stacked: bool) -> Chart {
        let start = clock::parse_timestamp("2026-10-01T00:00:00Z").expect("a time");
        let hour = |at: usize| Start(start + chrono::TimeDelta::hours(i64::try_from(at).expect("few")));
        Chart {
            title: "</title><script>".to_owned(),
            unit: "us".to_owned(),
            is_stacked,
            starts: (0..values.len()).map(hour).collect(),
            series: vec![Line { name: "p50".to_owned(), values: values.to_vec() }],
            limit: None,
        }
    }

    #[test]
    fn a_gap_is_a_gap_and_no_zero() {
        let chart = chart(&[Some(1_000.0), Some(2_000.0), None, Some(3_000.0), None, Some(1_000.0), Some(1.0)], false);
        let svg = svg(&chart, Zone::UTC, 3_600, LARGE).expect("a picture");
        let lines = svg.matches(r##"stroke="#0072B2" stroke-width="2""##).count();
        assert_eq!((lines, svg.matches("<circle").count()), (3, 1), "{svg}");
    }

    #[test]
    fn it_says_what_it_shows_and_foreign_text_is_text() {
        let chart = chart(&[Some(25_000.0), Some(75_000.0)], false);
        let svg = svg(&chart, Zone::UTC, 3_600, LARGE).expect("a picture");
        assert!(
            svg.contains("<title>&lt;/title&gt;&lt;script&gt;</title><desc>p50: 25.00 to 75.00, mean 50.00 ms</desc>")
        );
        assert!(svg.starts_with(r#"<svg viewBox="0 0 420 190" role="img">"#), "{svg}");
        assert!(!svg.contains("style="), "{svg}");
    }

    #[test]
    fn without_a_value_there_is_no_picture() {
        assert!(svg(&chart(&[None, None], false), Zone::UTC, 3_600, LARGE).is_none());
        assert!(svg(&chart(&[], true), Zone::UTC, 3_600, LARGE).is_none());
    }

    #[test]
    fn times_below_are_hours_or_days_of_the_zone() {
        let micros = |text: &str| clock::parse_timestamp(text).expect("a time").timestamp_micros();
        let hours = ticks(micros("2026-10-01T00:30:00Z"), micros("2026-10-01T05:00:00Z"), Zone::UTC, 7);
        assert_eq!((hours.len(), hours[0]), (5, micros("2026-10-01T01:00:00Z")));
        let berlin = Zone::parse("Europe/Berlin").expect("a zone");
        let days = ticks(micros("2026-10-20T00:00:00Z"), micros("2026-10-27T00:00:00Z"), berlin, 7);
        assert_eq!((days[0], days.last()), (micros("2026-10-20T22:00:00Z"), Some(&micros("2026-10-26T23:00:00Z"))));
        let words = |text: &str| time_words(clock::parse_timestamp(text).expect("a time"), berlin);
        assert_eq!([words("2026-10-26T23:00:00Z"), words("2026-10-26T11:00:00Z")], ["27 Oct", "12:00"]);
    }
}
