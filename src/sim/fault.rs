//! Faults on purpose: which request gets which, and what it does to the answer.
//!
//! Drawn by hash from what is asked for and how often it was asked before, so that the same requests
//! meet the same faults. Faults have nothing to do with the rate limit.

use std::str::FromStr;
use std::time::Duration;

use super::SimError;
use super::answer::{Answer, Ending, envelope};
use super::dice::Dice;

/// What can be done to an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// `429`: too many requests, out of the blue; nothing is blocked.
    TooMany,
    /// `5xx`: a server's error as an HTML page.
    Server,
    /// `truncated`: the body ends too early, and with it the connection.
    Truncated,
    /// `reset`: the connection ends before an answer.
    Reset,
    /// `not-json`: 200 with an HTML page.
    NotJson,
    /// `failure`: 200 with an envelope that says `success: false`.
    Failure,
    /// `null`: 200 with a result of null.
    Null,
    /// `empty`: 200 with `{}`.
    Empty,
    /// `slow`: the answer, some hundred milliseconds late.
    Slow,
    /// `garbage`: 200 with JSON that is no device state.
    Garbage,
}

impl FaultKind {
    /// Every kind.
    pub const ALL: [Self; 10] = [
        Self::TooMany,
        Self::Server,
        Self::Truncated,
        Self::Reset,
        Self::NotJson,
        Self::Failure,
        Self::Null,
        Self::Empty,
        Self::Slow,
        Self::Garbage,
    ];

    /// How the command line and [`super::Served::fault`] call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::TooMany => "429",
            Self::Server => "5xx",
            Self::Truncated => "truncated",
            Self::Reset => "reset",
            Self::NotJson => "not-json",
            Self::Failure => "failure",
            Self::Null => "null",
            Self::Empty => "empty",
            Self::Slow => "slow",
            Self::Garbage => "garbage",
        }
    }

    /// What the fault makes of an answer.
    pub(super) fn spoil(self, answer: Answer, dice: Dice, live: bool) -> Answer {
        let nothing = if live { "absent" } else { "failed" };
        match self {
            Self::TooMany => Answer::too_many(1),
            Self::Server => Answer::page_of_html(*dice.pick(&[500, 502, 503, 504, 520, 522, 524])),
            Self::Truncated => {
                answer.ending(Ending::Cut { chunked: dice.chance(0.5), at: dice.with(1).between(0.1, 0.9) })
            }
            Self::Reset => answer.ending(Ending::Reset),
            Self::NotJson => Answer::page_of_html(200),
            Self::Failure => Answer { status: 200, ..Answer::failure(503, 10_500, "internal error, try again") },
            Self::Null => Answer::json(200, envelope("null"), nothing),
            Self::Empty => Answer::json(200, "{}".to_owned(), nothing),
            Self::Slow => Answer { delay: Duration::from_millis(200 + dice.below(700)), ..answer },
            Self::Garbage => Answer::json(200, garbage(dice, live), "garbage"),
        }
    }
}

fn garbage(dice: Dice, live: bool) -> String {
    let values =
        ["[1,\"two\",{\"colo\":\"SJC\"}]", "42", "\"ok\"", "true", "{\"colo\":\"SJC\",\"status\":\"connected\"}"];
    let value = *dice.pick(&values);
    if live && dice.with(1).chance(0.5) { value.to_owned() } else { envelope(value) }
}

/// How probable each kind of fault is, whatever the others do.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Faults([f64; FaultKind::ALL.len()]);

impl Faults {
    /// No faults.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// The same, but for the probability of one kind.
    #[must_use]
    pub fn with(mut self, kind: FaultKind, probability: f64) -> Self {
        self.0[kind as usize] = probability;
        self
    }

    /// Every kind with the same probability.
    #[must_use]
    pub fn every(probability: f64) -> Self {
        Self([probability; FaultKind::ALL.len()])
    }

    /// The probability of a kind.
    #[must_use]
    pub fn probability(&self, kind: FaultKind) -> f64 {
        self.0[kind as usize]
    }

    /// Each kind has a throw of its own; where several strike, one of them does.
    pub(super) fn draw(&self, dice: Dice) -> Option<FaultKind> {
        let mut kinds = FaultKind::ALL.into_iter().enumerate();
        let strike: Vec<FaultKind> = kinds
            .by_ref()
            .filter(|(at, kind)| dice.with(*at as u64).chance(self.probability(*kind)))
            .map(|(_, kind)| kind)
            .collect();
        (!strike.is_empty()).then(|| *dice.pick(&strike))
    }
}

impl FromStr for Faults {
    type Err = SimError;

    /// Reads `KIND=PERCENT`, or several with commas between them. The kind `all` stands for each.
    fn from_str(text: &str) -> Result<Self, SimError> {
        text.split(',').try_fold(Self::none(), |faults, part| {
            let parsed = parse(part).map_err(|reason| SimError::Fault { text: part.to_owned(), reason });
            let (kind, probability) = parsed?;
            Ok(kind.map_or(Self::every(probability), |kind| faults.with(kind, probability)))
        })
    }
}

/// A kind, or none for each of them, and its probability.
fn parse(part: &str) -> Result<(Option<FaultKind>, f64), &'static str> {
    let (kind, percent) = part.split_once('=').ok_or("write KIND=PERCENT, as in 5xx=10%")?;
    let percent: f64 = percent.trim_end_matches('%').parse().map_err(|_not_a_number| "the percentage is no number")?;
    if !(0.0..=100.0).contains(&percent) {
        return Err("the percentage must be 0 to 100");
    }
    let known = FaultKind::ALL.into_iter().find(|known| known.name() == kind);
    if known.is_none() && kind != "all" {
        return Err("the kinds are 429, 5xx, truncated, reset, not-json, failure, null, empty, slow, garbage, all");
    }
    Ok((known, percent / 100.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(faults: Faults) -> Vec<usize> {
        let mut counts = vec![0; FaultKind::ALL.len()];
        let draws = (0..10_000).filter_map(|n| faults.draw(Dice::new(7).with(n)));
        draws.for_each(|kind| counts[kind as usize] += 1);
        counts
    }

    #[test]
    fn reads_faults_and_draws_them_as_often_as_told() {
        let faults: Faults = "5xx=10%,slow=2.5".parse().expect("faults");
        assert_eq!(faults, Faults::none().with(FaultKind::Server, 0.1).with(FaultKind::Slow, 0.025));
        let counts = drawn(faults);
        assert!((900..1_100).contains(&counts[FaultKind::Server as usize]), "{counts:?}");
        assert!((190..310).contains(&counts[FaultKind::Slow as usize]), "{counts:?}");
        // Ten kinds that strike one answer in ten each leave 35 of 100 alone.
        let all = drawn("all=10%".parse().expect("faults"));
        assert!((6_300..6_700).contains(&all.iter().sum::<usize>()), "{all:?}");
        assert!(all.iter().all(|n| (550..760).contains(n)), "{all:?}");
        assert_eq!(drawn(Faults::none()), vec![0; 10]);
    }

    #[test]
    fn refuses_what_is_no_fault() {
        for (text, expect) in [
            ("5xx", "`5xx` is no fault: write KIND=PERCENT, as in 5xx=10%"),
            ("5xx=ten", "`5xx=ten` is no fault: the percentage is no number"),
            ("5xx=101%", "`5xx=101%` is no fault: the percentage must be 0 to 100"),
        ] {
            let error = text.parse::<Faults>().expect_err("no fault");
            assert_eq!(error.to_string(), expect);
        }
        assert!("fire=1%".parse::<Faults>().is_err());
    }
}
