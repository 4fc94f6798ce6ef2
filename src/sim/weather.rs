//! The script of a bad day: which kinds of fault are on at a time.
//!
//! A pure function of a seed and the time since the start; the number of a request decides whether it
//! is struck. Calm and bad stretches take turns, and the kinds are dealt like cards, so that each of
//! them dominates a stretch before one does for the second time. What the kinds do is not known here.

use std::time::Duration;

use super::dice::{Dice, Topic};
use super::fault::FaultKind;
use super::list::is_gone;

/// How hostile a server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostileOptions {
    /// What the weather is drawn from.
    pub seed: u64,
    /// How long a stretch of calm or of bad weather is, give or take a third. The two together are
    /// twice that.
    pub stretch: Duration,
}

impl Default for HostileOptions {
    fn default() -> Self {
        Self { seed: 7, stretch: Duration::from_secs(5) }
    }
}

/// Tells the weather.
#[derive(Clone, Copy)]
pub struct Script {
    dice: Dice,
    stretch_ms: u64,
}

/// What is on at a time.
#[derive(Clone)]
pub struct Weather {
    dice: Dice,
    /// The kinds, the dominating one first, each with the share of answers that it strikes.
    kinds: Vec<(FaultKind, f64)>,
}

/// A fault that strikes, and what its details are drawn from.
#[derive(Clone, Copy)]
pub(super) struct Strike {
    pub(super) kind: FaultKind,
    pub(super) dice: Dice,
}

impl Script {
    /// A script; nothing is drawn before it is asked for.
    #[must_use]
    pub fn new(options: HostileOptions) -> Self {
        let stretch_ms = u64::try_from(options.stretch.as_millis()).unwrap_or(u64::MAX).clamp(1, 1 << 40);
        Self { dice: Dice::new(options.seed).on(Topic::Weather), stretch_ms }
    }

    /// The weather at a time after the start.
    #[must_use]
    pub fn weather(&self, elapsed: Duration) -> Weather {
        let ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        let (turn, within) = (ms / (2 * self.stretch_ms), ms % (2 * self.stretch_ms));
        let dice = self.dice.with(turn);
        let calm_ms = self.stretch_ms * (700 + dice.below(601)) / 1_000;
        let kinds = if within < calm_ms { Vec::new() } else { self.kinds(turn) };
        Weather { dice, kinds }
    }

    /// The kinds of one bad stretch.
    fn kinds(&self, turn: u64) -> Vec<(FaultKind, f64)> {
        let dice = self.dice.with(turn);
        let deck = self.deck(turn);
        let main = deck[usize::try_from(turn).unwrap_or(0) % deck.len()];
        let second = *dice.with(1).pick(&deck);
        let mut kinds = vec![(main, if is_total(main) { 1.0 } else { dice.with(2).between(0.6, 0.95) })];
        if second != main && !is_total(second) && dice.with(3).chance(0.6) {
            kinds.push((second, dice.with(4).between(0.1, 0.3)));
        }
        kinds
    }

    /// Every kind in the order in which they come; shuffled again when all have come.
    fn deck(&self, turn: u64) -> Vec<FaultKind> {
        let mut deck: Vec<FaultKind> = FaultKind::every().collect();
        let dice = self.dice.on(Topic::Deck).with(turn / deck.len() as u64);
        deck.sort_by_key(|kind| dice.with(*kind as u64).number());
        deck
    }
}

impl Weather {
    /// Whether every answer is left alone.
    #[must_use]
    pub fn is_calm(&self) -> bool {
        self.kinds.is_empty()
    }

    /// The kinds that are on, the dominating one first.
    pub fn kinds(&self) -> impl Iterator<Item = FaultKind> {
        self.kinds.iter().map(|(kind, _)| *kind)
    }

    /// What strikes a request, for a device or for the list.
    pub(super) fn strike(&self, number: u64, device: Option<u32>) -> Option<Strike> {
        let of_request = self.dice.with(number);
        self.kinds.iter().find_map(|&(kind, share)| {
            if kind == FaultKind::Vanished {
                // Who is gone is the same for every request of a stretch.
                let dice = self.dice.on(Topic::Absence);
                return device.is_none_or(|device| is_gone(dice, device)).then_some(Strike { kind, dice });
            }
            let strikes = kind.concerns(device.is_some()) && of_request.with(kind as u64).chance(share);
            strikes.then_some(Strike { kind, dice: of_request.on(Topic::FaultDetail) })
        })
    }
}

/// Whether a kind leaves no answer alone: a storm is one because nobody gets through, and devices are
/// gone for everybody or for nobody.
fn is_total(kind: FaultKind) -> bool {
    matches!(kind, FaultKind::Storm | FaultKind::Vanished)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn script(seed: u64) -> Script {
        Script::new(HostileOptions { seed, ..HostileOptions::default() })
    }

    /// The weather of each tenth of a second.
    fn day(script: Script, minutes: u64) -> Vec<Vec<FaultKind>> {
        (0..minutes * 600).map(|n| script.weather(Duration::from_millis(n * 100)).kinds().collect()).collect()
    }

    #[test]
    fn the_same_seed_makes_the_same_day() {
        assert_eq!(day(script(3), 10), day(script(3), 10));
        assert_ne!(day(script(3), 10), day(script(4), 10));
        let struck = |seed| {
            let weather = script(seed).weather(Duration::from_secs(9));
            (0..200).map(move |n| weather.strike(n, None).map(|s| (s.kind, s.dice.number()))).collect::<Vec<_>>()
        };
        assert_eq!(struck(3), struck(3));
        assert_ne!(struck(3), struck(4));
    }

    #[test]
    fn every_kind_comes_within_five_minutes() {
        for seed in 0..50 {
            let day = day(script(seed), 5);
            let mains: HashSet<&str> = day.iter().filter_map(|kinds| kinds.first()).map(|kind| kind.name()).collect();
            assert_eq!(mains.len(), FaultKind::every().count(), "seed {seed}");
            assert!(day.iter().all(|kinds| kinds.len() <= 2));
            let calm = day.iter().filter(|kinds| kinds.is_empty()).count();
            assert!((1_200..1_800).contains(&calm), "{calm} of 3000");
        }
    }

    #[test]
    fn calm_and_bad_weather_take_turns() {
        let day = day(script(7), 10);
        let lengths: Vec<usize> = day.chunk_by(|a, b| a == b).map(<[_]>::len).collect();
        assert_eq!(lengths.len(), 120, "two stretches every ten seconds");
        assert!(lengths.iter().all(|tenths| (34..=66).contains(tenths)), "{lengths:?}");
        assert!(script(7).weather(Duration::ZERO).is_calm());
    }

    #[test]
    fn the_dominating_kind_strikes_most_and_a_storm_strikes_all() {
        let script = script(7);
        for turn in 0..50 {
            let weather = script.weather(Duration::from_millis(turn * 10_000 + 9_999));
            let main = weather.kinds().next().expect("bad weather");
            let struck: Vec<_> = (0..400).map(|n| weather.strike(n, None).map(|s| s.kind)).collect();
            let by_main = struck.iter().filter(|kind| **kind == Some(main)).count();
            assert!(by_main > 200, "{main:?}: {by_main} of 400");
            assert!(main != FaultKind::Storm || by_main == 400);
        }
    }
}
