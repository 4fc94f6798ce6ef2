//! When a device reports, and when it is away: arithmetic, so that no history is kept.

use super::dice::{Dice, Topic};
use super::shape::TimeForm;

const HOUR_MS: i64 = 3_600_000;

/// The share of time that a device is away, in spells of hours.
const AWAY: f64 = 0.05;

/// The report times of one device, in milliseconds since the epoch.
#[derive(Clone, Copy)]
pub(super) struct Schedule {
    dice: Dice,
    every_ms: i64,
    phase_ms: i64,
    whole_seconds: bool,
    spell_ms: i64,
}

impl Schedule {
    pub(super) fn of(device: Dice, every_ms: i64, form: TimeForm) -> Self {
        let phase = device.on(Topic::Phase).below(every_ms.unsigned_abs());
        let spell = device.on(Topic::SpellLength).below(6 * HOUR_MS.unsigned_abs());
        Self {
            dice: device,
            every_ms,
            phase_ms: phase.cast_signed(),
            // Two reports must not fall into one second when seconds are all that is printed.
            whole_seconds: form == TimeForm::WholeSeconds && every_ms >= 2_000,
            spell_ms: 2 * HOUR_MS + spell.cast_signed(),
        }
    }

    /// The newest report from `from_ms` to `to_ms`, both included.
    pub(super) fn newest(&self, from_ms: i64, to_ms: i64) -> Option<i64> {
        let mut until = to_ms;
        while until >= from_ms {
            let at = self.time(self.number_at(until));
            match self.away_since(at) {
                None => return (at >= from_ms).then_some(at),
                Some(start) => until = start - 1,
            }
        }
        None
    }

    /// Every report from `from_ms` to before `to_ms`, in order.
    pub(super) fn between(self, from_ms: i64, to_ms: i64) -> impl Iterator<Item = i64> {
        let schedule = self;
        let first = schedule.number_at(from_ms - 1) + 1;
        (first..)
            .map(move |n| schedule.time(n))
            .take_while(move |at| *at < to_ms)
            .filter(move |at| schedule.away_since(*at).is_none())
    }

    /// When report `number` is made. A later number is a later time.
    fn time(&self, number: i64) -> i64 {
        let slack = self.every_ms.unsigned_abs() / 8 + 1;
        let jitter = self.dice.on(Topic::Jitter).at(number).below(slack).cast_signed();
        let at = number * self.every_ms + self.phase_ms + jitter;
        if self.whole_seconds { at - at.rem_euclid(1_000) } else { at }
    }

    /// The number of the last report at or before a time, made or missed.
    fn number_at(&self, ms: i64) -> i64 {
        let mut number = (ms - self.phase_ms).div_euclid(self.every_ms) + 1;
        while self.time(number) > ms {
            number -= 1;
        }
        number
    }

    /// The start of the spell in which the device is away at a time.
    fn away_since(&self, ms: i64) -> Option<i64> {
        let shifted = ms + self.phase_ms.rem_euclid(self.spell_ms);
        let spell = shifted.div_euclid(self.spell_ms);
        let away = self.dice.on(Topic::Spell).at(spell).chance(AWAY);
        away.then(|| ms - shifted.rem_euclid(self.spell_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: i64 = 1_790_000_000_000;

    fn schedule(device: u64, form: TimeForm) -> Schedule {
        Schedule::of(Dice::new(7).with(device), 120_000, form)
    }

    #[test]
    fn the_newest_report_is_the_last_of_its_window() {
        for device in 0..300 {
            let form = if device % 2 == 0 { TimeForm::Space } else { TimeForm::WholeSeconds };
            let schedule = schedule(device, form);
            for step in 0..20 {
                let to = NOON + step * 777_777;
                let all: Vec<i64> = schedule.between(to - HOUR_MS, to + 1).collect();
                assert!(all.is_sorted_by(|a, b| a < b), "times rise");
                assert_eq!(schedule.newest(to - HOUR_MS, to), all.last().copied());
            }
        }
    }

    #[test]
    fn about_one_device_in_twenty_is_away() {
        let away = (0..20_000).filter(|d| schedule(*d, TimeForm::Space).away_since(NOON).is_some()).count();
        assert!((800..1_200).contains(&away), "{away}");
    }
}
