//! What one report tells: the device's attributes at that time, and its measurements.
//!
//! Measurements walk: a base of the device's own, slow waves, the rhythm of its working day, noise.

use std::borrow::Cow;

use super::device::{City, Device, Place, Provider};
use super::dice::{Dice, Topic, real, swing, whole};

/// Measured values that an hourly row averages.
#[derive(Clone, Copy, Default)]
pub(super) struct Metrics {
    pub(super) cpu: f64,
    pub(super) ram: f64,
    pub(super) disk: f64,
    pub(super) battery: f64,
    pub(super) rtt_us: f64,
    pub(super) loss: f64,
    pub(super) signal: f64,
}

/// One report.
pub(super) struct Facts {
    pub(super) device: Device,
    pub(super) at_ms: i64,
    pub(super) name: Cow<'static, str>,
    pub(super) email: String,
    pub(super) version: String,
    pub(super) colo: &'static str,
    pub(super) city: &'static City,
    pub(super) provider: &'static Provider,
    pub(super) place: Place,
    pub(super) ssid: Option<String>,
    pub(super) mode: &'static str,
    pub(super) status: &'static str,
    pub(super) firewall: bool,
    pub(super) charging: bool,
    /// From 0 at night to 1 in the afternoon.
    pub(super) activity: f64,
    pub(super) metrics: Metrics,
}

impl Facts {
    pub(super) fn of(device: Device, at_ms: i64) -> Self {
        let activity = activity(&device, at_ms);
        let metrics = measure(&device, at_ms);
        Self {
            at_ms,
            name: device.name(),
            email: device.email(at_ms),
            version: device.version(at_ms),
            colo: device.colo(at_ms),
            city: device.city(at_ms),
            provider: device.provider(at_ms),
            place: device.place(at_ms),
            ssid: device.ssid(at_ms),
            mode: device.mode(at_ms),
            status: device.status(at_ms),
            firewall: device.firewall(at_ms),
            charging: battery(&device, at_ms + 60_000) > metrics.battery,
            activity,
            metrics,
            device,
        }
    }

    /// The dice of this report alone.
    pub(super) fn dice(&self, topic: Topic) -> Dice {
        self.device.dice.on(topic).at(self.at_ms)
    }

    /// An attribute by the name of its query parameter.
    pub(super) fn attribute(&self, name: &str) -> Option<&str> {
        match name {
            "platform" => Some(self.device.platform),
            "status" => Some(self.status),
            "mode" => Some(self.mode),
            "version" => Some(&self.version),
            "colo" => Some(self.colo),
            _ => None,
        }
    }

    pub(super) fn connected(&self) -> bool {
        self.status == "connected"
    }
}

impl Metrics {
    /// The averages of a few reports.
    pub(super) fn average(of: &[Self]) -> Self {
        let count = real(i64::try_from(of.len().max(1)).unwrap_or(i64::MAX));
        let mean = |field: fn(&Self) -> f64| of.iter().map(field).sum::<f64>() / count;
        Self {
            cpu: mean(|m| m.cpu),
            ram: mean(|m| m.ram),
            disk: mean(|m| m.disk),
            battery: mean(|m| m.battery),
            rtt_us: mean(|m| m.rtt_us),
            loss: mean(|m| m.loss),
            signal: mean(|m| m.signal),
        }
    }
}

pub(super) fn measure(device: &Device, at_ms: i64) -> Metrics {
    let at = |topic| device.dice.on(topic);
    let noise = |topic| at(topic).at(at_ms).between(-1.0, 1.0);
    let wave = |topic, hours| at(topic).wave(at_ms, hours);
    let cpu = at(Topic::Cpu).between(2.0, 22.0) + 25.0 * activity(device, at_ms);
    let ram = at(Topic::Ram).between(35.0, 80.0) + 5.0 * activity(device, at_ms);
    let rtt = 4_000.0 + 45_000.0 * at(Topic::Rtt).unit().powi(2);
    let lossy = at(Topic::Loss).at(at_ms);
    Metrics {
        cpu: (cpu + 8.0 * wave(Topic::Cpu, 2.0) + 6.0 * noise(Topic::Cpu)).clamp(0.3, 100.0),
        ram: (ram + 6.0 * wave(Topic::Ram, 6.0) + 1.5 * noise(Topic::Ram)).clamp(10.0, 99.0),
        disk: at(Topic::Disk).between(25.0, 90.0) + 4.0 * wave(Topic::Disk, 400.0) + 0.05 * noise(Topic::Disk),
        battery: battery(device, at_ms),
        rtt_us: (rtt * (1.0 + 0.3 * wave(Topic::Rtt, 3.0) + 0.15 * noise(Topic::Rtt))).max(900.0),
        loss: if lossy.chance(0.05) { 6.0 * lossy.with(1).unit().powi(2) } else { 0.0 },
        signal: (at(Topic::Signal).between(-75.0, -42.0) + 6.0 * wave(Topic::Signal, 1.5)).clamp(-92.0, -28.0),
    }
}

fn battery(device: &Device, at_ms: i64) -> f64 {
    (58.0 + 45.0 * device.dice.on(Topic::Battery).wave(at_ms, 9.0)).clamp(1.0, 100.0)
}

/// High at two in the afternoon, low at two at night.
fn activity(device: &Device, at_ms: i64) -> f64 {
    let turns = real(device.local_ms(at_ms)) / 86_400_000.0 - 8.0 / 24.0;
    0.5 + 0.5 * swing(turns)
}

/// A rate that is mostly small and at times large, and larger by day.
pub(super) fn burst(facts: &Facts, which: u64, mean: f64) -> i64 {
    let unit = facts.dice(Topic::Traffic).with(which).unit();
    whole(4.0 * mean * unit.powi(4) * (0.2 + 0.8 * facts.activity) * 2.0)
}
