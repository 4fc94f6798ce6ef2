//! The fleet: which devices there are, and what each of them reported when.
//!
//! A pure function of its options and a time. It remembers nothing and knows nothing of HTTP.

use std::time::Duration;

use super::body::{self, Ids};
use super::device::Device;
use super::dice::{Dice, Topic};
use super::facts::{Facts, Metrics, measure};
use super::schedule::Schedule;
use super::shape::{Form, Shape};
use crate::clock::{Timestamp, from_epoch};

/// How long the newest state of a device counts as its present one: as far back as the API looks.
pub(super) const MEMORY_MS: i64 = 60 * 60_000;

/// What makes up a fleet; equal options make equal fleets.
#[derive(Clone, Debug)]
pub struct FleetOptions {
    /// How many devices there are.
    pub devices: u32,
    /// What everything is drawn from.
    pub seed: u64,
    /// How often a device reports.
    pub report_every: Duration,
    /// The account that the fleet belongs to: 32 hex digits.
    pub account_id: String,
    /// Which of the API's ages the bodies come from.
    pub shape: Shape,
}

impl Default for FleetOptions {
    fn default() -> Self {
        Self {
            devices: 100,
            seed: 7,
            report_every: Duration::from_mins(2),
            account_id: "01a7362d577a6c3019a474fd6f485823".to_owned(),
            shape: Shape::Current,
        }
    }
}

/// A fleet of simulated devices.
#[derive(Clone, Debug)]
pub struct Fleet(FleetOptions);

impl Fleet {
    /// A fleet; nothing is computed before it is asked for.
    #[must_use]
    pub fn new(options: FleetOptions) -> Self {
        Self(options)
    }

    /// What the fleet was made of.
    #[must_use]
    pub fn options(&self) -> &FleetOptions {
        &self.0
    }

    /// The UUID of a device.
    #[must_use]
    pub fn device_id(&self, index: u32) -> String {
        let high = self.dice(index).on(Topic::Uuid).number();
        uuid(high, index ^ self.mask(high))
    }

    /// The name of a device, which it may share with another.
    #[must_use]
    pub fn device_name(&self, index: u32) -> String {
        self.device(index).name().into_owned()
    }

    /// The device with a UUID; `None` when it is of another fleet.
    #[must_use]
    pub fn index_of(&self, device_id: &str) -> Option<u32> {
        // The UUID holds the index, masked, so that no table of ids is needed.
        let masked = u32::from_str_radix(device_id.get(28..36)?, 16).ok()?;
        let group = |range| u64::from_str_radix(device_id.get(range)?, 16).ok();
        let high = group(0..8)? << 32 | group(9..13)? << 16 | group(15..18)? << 4;
        let index = masked ^ self.mask(high);
        (index < self.0.devices && self.device_id(index) == device_id).then_some(index)
    }

    /// The newest state that a device reported at or before a time. `None`: it has been silent for
    /// more than the 60 minutes that the API looks back.
    #[must_use]
    pub fn state_at(&self, index: u32, at: Timestamp) -> Option<String> {
        let to_ms = at.timestamp_millis();
        let newest = self.schedule(index).newest(to_ms - MEMORY_MS, to_ms)?;
        Some(self.text(index, newest))
    }

    /// Every state that a device reported from a time to before another, in order.
    #[must_use]
    pub fn states_between(&self, index: u32, from: Timestamp, to: Timestamp) -> Vec<(Timestamp, String)> {
        let times = self.schedule(index).between(ceil_ms(from), ceil_ms(to));
        times.filter_map(|ms| Some((from_epoch(ms)?, self.text(index, ms)))).collect()
    }

    /// The body of the report that a device made at a time.
    pub(super) fn text(&self, index: u32, at_ms: i64) -> String {
        self.write(&self.facts(index, at_ms))
    }

    /// The body of a device's row for an hour: averages, under the attributes of the hour's last report.
    pub(super) fn hourly_text(&self, index: u32, hour_ms: i64, until_ms: i64) -> String {
        let device = self.device(index);
        let times: Vec<i64> = self.schedule(index).between(hour_ms, until_ms).collect();
        let measured: Vec<Metrics> = times.iter().map(|at| measure(&device, *at)).collect();
        let mut facts = Facts::of(device, times.last().copied().unwrap_or(hour_ms));
        facts.metrics = Metrics::average(&measured);
        facts.at_ms = hour_ms;
        self.write(&facts)
    }

    pub(super) fn facts(&self, index: u32, at_ms: i64) -> Facts {
        Facts::of(self.device(index), at_ms)
    }

    pub(super) fn form(&self, index: u32) -> Form {
        Form::of(self.0.shape, self.dice(index))
    }

    pub(super) fn schedule(&self, index: u32) -> Schedule {
        let every_ms = i64::try_from(self.0.report_every.as_millis()).unwrap_or(i64::MAX / 4).max(1);
        Schedule::of(self.dice(index), every_ms, self.form(index).time)
    }

    /// The dice of one device.
    pub(super) fn dice(&self, index: u32) -> Dice {
        Dice::new(self.0.seed).with(index.into())
    }

    fn device(&self, index: u32) -> Device {
        Device::of(self.dice(index), index)
    }

    fn write(&self, facts: &Facts) -> String {
        let index = facts.device.index;
        let ids = Ids { device: self.device_id(index), registration: registration_id(facts) };
        body::write(facts, &self.form(index), &ids)
    }

    /// What hides the index in a UUID, drawn from the digits in its first three groups.
    fn mask(&self, high: u64) -> u32 {
        let dice = Dice::new(self.0.seed).on(Topic::Uuid).with(high >> 4);
        u32::try_from(dice.below(1 << 32)).unwrap_or(0)
    }
}

fn registration_id(facts: &Facts) -> String {
    let dice = facts.device.dice.on(Topic::Registration).with(facts.device.user(facts.at_ms));
    uuid(dice.number(), u32::try_from(dice.with(1).below(1 << 32)).unwrap_or(0))
}

/// A UUID of version 4 with 60 chosen bits at its front and 32 at its end.
fn uuid(high: u64, low: u32) -> String {
    let (front, second, third) = (high >> 32, high >> 16 & 0xffff, high >> 4 & 0xfff);
    let rest = high.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let (variant, middle) = (0x8000 | rest >> 48 & 0x3fff, rest >> 32 & 0xffff);
    format!("{front:08x}-{second:04x}-4{third:03x}-{variant:04x}-{middle:04x}{low:08x}")
}

/// Reports stand on whole milliseconds; a bound between two of them means the later one.
pub(super) fn ceil_ms(at: Timestamp) -> i64 {
    let micros = at.timestamp_micros();
    micros.div_euclid(1_000) + i64::from(micros.rem_euclid(1_000) > 0)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use chrono::TimeDelta;
    use serde_json::Value;

    use super::*;
    use crate::clock::parse_timestamp;

    fn noon() -> Timestamp {
        parse_timestamp("2026-11-24T12:00:00Z").expect("a timestamp")
    }

    fn fleet(devices: u32, shape: Shape) -> Fleet {
        Fleet::new(FleetOptions { devices, shape, ..FleetOptions::default() })
    }

    fn states(shape: Shape) -> Vec<Value> {
        let fleet = fleet(400, shape);
        let texts = (0..400).filter_map(|i| fleet.state_at(i, noon()));
        texts.map(|text| serde_json::from_str(&text).expect("a body is JSON")).collect()
    }

    #[test]
    fn ids_lead_back_to_their_devices() {
        let (fleet, stranger) =
            (fleet(3_000, Shape::Current), Fleet::new(FleetOptions { seed: 8, ..fleet(9, Shape::Current).0 }));
        let ids: HashSet<String> = (0..3_000).map(|i| fleet.device_id(i)).collect();
        assert_eq!(ids.len(), 3_000);
        assert!((0..3_000).all(|i| fleet.index_of(&fleet.device_id(i)) == Some(i)));
        assert_eq!(stranger.index_of(&fleet.device_id(3)), None);
        for odd in ["", "é", "cb49c27f-7f97-49c5-b6f3-f7c01ead0fd7", "éééééééééééééééééé", &fleet.device_id(3_000)]
        {
            assert_eq!(fleet.index_of(odd), None, "{odd}");
        }
    }

    #[test]
    fn a_state_is_the_last_of_the_hour_and_always_the_same() {
        for shape in [Shape::Current, Shape::Legacy, Shape::Mixed] {
            let (fleet, twin) = (fleet(100, shape), fleet(100, shape));
            for i in 0..100 {
                let to = noon() + TimeDelta::milliseconds(1);
                let hour = fleet.states_between(i, to - TimeDelta::hours(1), to);
                assert_eq!(twin.state_at(i, noon()), hour.last().map(|(_, text)| text.clone()), "device {i}");
            }
        }
    }

    #[test]
    fn times_in_bodies_are_the_times_of_the_reports() {
        let fleet = fleet(60, Shape::Mixed);
        for (at, text) in (0..60).flat_map(|i| fleet.states_between(i, noon(), noon() + TimeDelta::minutes(20))) {
            let body: Value = serde_json::from_str(&text).expect("a body is JSON");
            assert_eq!(body["timestamp"].as_str().and_then(parse_timestamp), Some(at), "{text}");
        }
    }

    #[test]
    fn current_bodies_have_all_43_keys_and_a_size_like_the_real_ones() {
        let states = states(Shape::Current);
        assert!((350..400).contains(&states.len()), "{}", states.len());
        assert!(states.iter().all(|s| s.as_object().is_some_and(|o| o.len() == 43)));
        let desktop: Vec<&Value> = states.iter().filter(|s| s["ispIpv6"]["version"] == 2).collect();
        assert!(desktop.iter().all(|s| s["ispIpv4"]["version"] == 1 && s["cpuPctByApp"][0]["cpu_pct"].is_f64()));
        let bytes: usize = states.iter().map(|s| s.to_string().len()).sum();
        assert!((2_300..3_100).contains(&(bytes / states.len())), "{}", bytes / states.len());
    }

    #[test]
    fn legacy_bodies_nest_their_apps_and_know_no_tunnel() {
        let states = states(Shape::Legacy);
        assert!(states.iter().all(|s| s.as_object().is_some_and(|o| o.len() == 38)));
        assert!(states.iter().any(|s| s["cpuPctByApp"][0][4]["name"].is_string()));
        assert!(states.iter().any(|s| s["deviceIpv4"]["version"] == "4"));
        assert!(states.iter().all(|s| s["timestamp"].as_str().is_some_and(|t| t.len() == 20)));
    }

    #[test]
    fn a_mixed_fleet_has_both_shapes_and_unknown_keys() {
        let states = states(Shape::Mixed);
        let count = |test: fn(&Value) -> bool| states.iter().filter(|s| test(s)).count();
        assert!(count(|s| s["cpuPctByApp"][0].is_array()) > 20);
        assert!(count(|s| s["cpuPctByApp"][0].is_object()) > 20);
        assert!(count(|s| s.get("diskLatency").is_some()) > 0);
        assert!(count(|s| s["ispIpv4"]["address"] == "REDACTED") > 0);
        assert!(count(|s| !s["timestamp"].as_str().unwrap_or("").contains('-')) > 0);
    }
}
