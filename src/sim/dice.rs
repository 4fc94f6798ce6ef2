//! Chance without state: numbers that depend only on a seed and on what they are drawn for.
//!
//! Not for secrets, and no stream of numbers: the same question always has the same answer.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "the one place that turns hashes and milliseconds into fractions"
)]

/// What a number is drawn for, so that no two questions share one.
#[derive(Clone, Copy)]
pub(super) enum Topic {
    Uuid = 1,
    Registration,
    Phase,
    Jitter,
    SpellLength,
    Spell,
    Platform,
    Mode,
    Tunnel,
    City,
    Provider,
    Place,
    Colo,
    Upgrade,
    Build,
    Name,
    Status,
    Wifi,
    Memory,
    Ipv6,
    Firewall,
    Cpu,
    Ram,
    Disk,
    Battery,
    Rtt,
    Loss,
    Signal,
    Traffic,
    Counters,
    Apps,
    Shape,
    TimeForm,
    Quirk,
    Users,
    Absence,
    Fault,
    FaultDetail,
    Ray,
    Weather,
    Deck,
}

/// A point in the tree of questions.
#[derive(Clone, Copy)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(mix(seed ^ 0x5851_f42d_4c95_7f2d))
    }

    /// The dice for one topic.
    pub(super) fn on(self, topic: Topic) -> Self {
        self.with(topic as u64)
    }

    /// The dice for one of many equals: a device, a report, a day.
    pub(super) fn with(self, key: u64) -> Self {
        Self(mix(self.0 ^ key.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0xd1b5_4a32_d192_ed03)))
    }

    /// The dice for one of a row that may begin before zero.
    pub(super) fn at(self, place: i64) -> Self {
        self.with(place.cast_unsigned())
    }

    pub(super) fn number(self) -> u64 {
        self.0
    }

    /// A whole number from 0 to `count` - 1.
    pub(super) fn below(self, count: u64) -> u64 {
        ((u128::from(self.0) * u128::from(count)) >> 64) as u64
    }

    /// A fraction from 0 to just under 1.
    pub(super) fn unit(self) -> f64 {
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub(super) fn chance(self, probability: f64) -> bool {
        self.unit() < probability
    }

    pub(super) fn between(self, low: f64, high: f64) -> f64 {
        low + self.unit() * (high - low)
    }

    pub(super) fn pick<T>(self, from: &[T]) -> &T {
        &from[self.below(from.len() as u64) as usize]
    }

    /// Picks by weights, which sum up to 100.
    pub(super) fn weighted<T: Copy>(self, from: &[(u64, T)]) -> T {
        let mut left = self.below(100);
        for &(weight, item) in from {
            if left < weight {
                return item;
            }
            left -= weight;
        }
        from[from.len() - 1].1
    }

    /// A smooth walk between -1 and 1 that turns about every `hours`.
    pub(super) fn wave(self, at_ms: i64, hours: f64) -> f64 {
        let turns = at_ms as f64 / 3_600_000.0 / hours;
        0.6 * swing(turns + self.with(1).unit()) + 0.4 * swing(turns * 3.7 + self.with(2).unit())
    }
}

/// A sine made of two parabolas, because a real sine may differ in its last bit between systems.
pub(super) fn swing(turns: f64) -> f64 {
    let part = turns - turns.floor();
    if part < 0.5 { 16.0 * part * (0.5 - part) } else { -16.0 * (part - 0.5) * (1.0 - part) }
}

/// The nearest whole number.
pub(super) fn whole(value: f64) -> i64 {
    value.round() as i64
}

/// A whole number as a fraction.
pub(super) fn real(value: i64) -> f64 {
    value as f64
}

fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}
