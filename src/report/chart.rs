//! Charts as SVG, to stand in a page: their colours are the page's business, by class and by the values here.

use std::fmt::Write;

use chrono::NaiveDate;
use plotters::prelude::*;

use crate::clock::{self, Timestamp, Zone};
use crate::shown::digits;

use super::model::{Chart, Line};
use super::words::{plain, scale, short};

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

/// Room for what is written at the axes; on the right for half of a time that is written below the end.
const LEFT: u32 = 48;
const BELOW: u32 = 22;
const MARGIN: u32 = 6;
const RIGHT: u32 = 22;

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
    lines.chain(frame.limit_words(chart)).collect::<Vec<_>>().join("; ")
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
    /// None where there is no value, or what they span is no number.
    pub(super) fn of(chart: &Chart, every_s: u64) -> Option<Self> {
        let every = i64::try_from(every_s).ok()?.max(1).checked_mul(1_000_000)?;
        let from = chart.starts.first()?.0.timestamp_micros();
        let to = chart.starts.last()?.0.timestamp_micros().checked_add(every)?;
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
        let (low, high) = (low / divisor, high / divisor);
        // Between such values an axis is never done with its steps.
        (high - low).is_finite().then_some(Self { from, to, low, high, every, divisor, unit })
    }

    /// The limit as it is drawn; none where it is not in the picture.
    fn limit(&self, chart: &Chart) -> Option<f64> {
        let limit = chart.limit.map(|limit| limit / self.divisor);
        limit.filter(|limit| (self.low..=self.high).contains(limit))
    }

    /// What the line of the limit is.
    pub(super) fn limit_words(&self, chart: &Chart) -> Option<String> {
        let limit = plain(self.limit(chart)?);
        Some(format!("limit {limit} {}", self.unit).trim_end().to_owned())
    }

    /// A value as it is written at its axis, where next to nothing is the noise of its steps.
    fn value_words(&self, value: f64) -> String {
        let value = if value.abs() < (self.high - self.low) * 1e-9 { 0.0 } else { value };
        short(value, self.high.abs().max(self.low.abs()))
    }

    fn draw(&self, chart: &Chart, zone: Zone, onto: SVGBackend) -> Result<(), Box<dyn std::error::Error>> {
        let area = onto.into_drawing_area();
        let most = usize::try_from(area.dim_in_pixel().0 / TICK).unwrap_or(2);
        let ticks = ticks(self.from, self.to, zone, most);
        let mut context = ChartBuilder::on(&area)
            .margin(MARGIN)
            .margin_right(RIGHT)
            .x_label_area_size(BELOW)
            .y_label_area_size(LEFT)
            .build_cartesian_2d((self.from..self.to).with_key_points(ticks), self.low..self.high)?;
        let label = ("sans-serif", 12).into_font().color(&INK);
        let time = |micros: &i64| clock::from_micros(*micros).map_or(String::new(), |at| time_words(at, zone));
        let value = |value: &f64| self.value_words(*value);
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
            .y_label_formatter(&value)
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
        if let Some(limit) = self.limit(chart) {
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
    const HOURS: [u32; 6] = [1, 2, 3, 6, 12, 24];
    let fits = |hours: u32| usize::try_from((to - from) / (i64::from(hours) * HOUR)).is_ok_and(|count| count <= most);
    let within = |at: &i64| (from..=to).contains(at);
    let day = |micros: i64| clock::from_micros(micros).map(|at: Timestamp| zone.local(at).date_naive());
    let begin = |date: &NaiveDate| clock::midnight(*date, zone).map(|at| at.timestamp_micros());
    let days = day(from)
        .into_iter()
        .flat_map(|first| first.iter_days())
        .take_while(|date| begin(date).is_some_and(|at| at <= to));
    match HOURS.into_iter().find(|hours| fits(*hours)) {
        Some(hours) if hours < 24 => {
            // By the clock on the wall: a day on which it is changed is longer or shorter, and an hour of it left out.
            let moment = |date: NaiveDate, hour: u32| zone.moment(date.and_hms_opt(hour, 0, 0)?);
            let of_day = |date: NaiveDate| (0..24 / hours).filter_map(move |at| moment(date, at * hours));
            let mut times: Vec<i64> = days.flat_map(of_day).map(|at| at.timestamp_micros()).filter(within).collect();
            times.dedup();
            times
        }
        _ => {
            let days: Vec<i64> = days.filter_map(|date| begin(&date)).filter(within).collect();
            let step = days.len().div_ceil(most.max(1)).max(1);
            days.into_iter().step_by(step).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Moment;

    fn chart(values: &[Option<f64>], is_stacked: bool) -> Chart {
        let start = clock::parse_timestamp("2026-10-01T00:00:00Z").expect("a time");
        let hour = |at: usize| Moment(start + chrono::TimeDelta::hours(i64::try_from(at).expect("few")));
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
    fn values_that_no_axis_spans_are_no_picture() {
        for values in [[f64::MAX, 0.0], [f64::MAX, f64::MIN], [1e308, -1e308]] {
            assert!(svg(&chart(&values.map(Some), false), Zone::UTC, 3_600, LARGE).is_none(), "{values:?}");
        }
        assert!(svg(&chart(&[Some(1e308), Some(4.0)], false), Zone::UTC, 3_600, LARGE).is_some());
    }

    #[test]
    fn a_limit_is_told_where_it_is_drawn() {
        let with = |limit: f64| Chart { limit: Some(limit), ..chart(&[Some(25_000.0), Some(75_000.0)], false) };
        let svg = |chart: &Chart| svg(chart, Zone::UTC, 3_600, LARGE).expect("a picture");
        let drawn = svg(&with(50_500.0));
        assert!(drawn.contains("mean 50.00 ms; limit 50.5 ms</desc>") && drawn.contains("#CC2222"), "{drawn}");
        let drawn = svg(&with(900_000.0));
        assert!(!drawn.contains("limit") && !drawn.contains("#CC2222"), "{drawn}");
    }

    #[test]
    fn what_is_written_at_an_axis_has_room() {
        let written = |most: f64| {
            let chart = Chart { unit: "ms".to_owned(), ..chart(&[Some(0.0), Some(most)], false) };
            let svg = svg(&chart, Zone::UTC, 82_800, LARGE).expect("a picture");
            let texts = svg.split("</text>").filter_map(|part| Some(part.rsplit_once('>')?.1.trim().to_owned()));
            (texts.collect::<Vec<_>>(), svg)
        };
        let (texts, svg) = written(12_345_678.0);
        assert!(texts.contains(&"0".to_owned()) && texts.contains(&"10M".to_owned()), "{texts:?}");
        let (texts, _) = written(0.004);
        assert!(texts.contains(&"0.002".to_owned()) && texts.contains(&"0".to_owned()), "{texts:?}");
        // The time at the end, half of which is beyond it.
        let at_end = svg.split("<text ").filter(|text| text.contains("2 Oct"));
        let at_end: Vec<u32> = at_end.filter_map(|text| text.split('"').nth(1)?.parse().ok()).collect();
        assert!(at_end.iter().all(|x| x + RIGHT <= LARGE.0) && !at_end.is_empty(), "{at_end:?}");
    }

    #[test]
    fn times_of_a_day_on_which_the_clock_is_changed_are_those_of_the_wall() {
        let micros = |text: &str| clock::parse_timestamp(text).expect("a time").timestamp_micros();
        let berlin = Zone::parse("Europe/Berlin").expect("a zone");
        let words = |from: &str, to: &str, most: usize| {
            let ticks = ticks(micros(from), micros(to), berlin, most);
            let words = ticks.iter().map(|at| time_words(clock::from_micros(*at).expect("a time"), berlin));
            words.collect::<Vec<_>>()
        };
        let spring = words("2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z", 4);
        assert_eq!(spring, ["29 Mar", "06:00", "12:00", "18:00", "30 Mar"]);
        let autumn = words("2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z", 4);
        assert_eq!(autumn, ["25 Oct", "06:00", "12:00", "18:00", "26 Oct"]);
        let hours = words("2026-03-29T00:00:00Z", "2026-03-29T02:00:00Z", 4);
        assert_eq!(hours, ["01:00", "03:00", "04:00"]);
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
