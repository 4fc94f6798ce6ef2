//! Faults on purpose: which request gets which, and what it does to the answer.
//!
//! Drawn by hash from what is asked for and how often it was asked before, so that the same requests
//! meet the same faults. Faults have nothing to do with the rate limit, and those of a hostile server
//! (see `weather`) come and go by the clock instead.

use std::borrow::Cow;
use std::str::FromStr;

use super::SimError;
use super::answer::{Answer, Ending, envelope};
use super::dice::Dice;
use super::hostile::{self, Scene};

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
    /// `storm`: 429, with `Retry-After` as seconds or as a date, or with nothing but `Ratelimit`.
    Storm,
    /// `mid-reset`: the connection is reset in the middle of the body.
    MidReset,
    /// `dribble`: the body, a few bytes at a time; it takes some seconds.
    Dribble,
    /// `stalled`: the body stops, and the connection stays.
    Stalled,
    /// `endless`: the body begins as JSON and never ends.
    Endless,
    /// `bomb`: some hundred kB of gzip that hold some hundred MB.
    Bomb,
    /// `redirect`: 301, 302, 307 or 308 to [`super::ServerOptions::redirect_to`].
    Redirect,
    /// `as-html`: the right body under the name of `text/html`.
    AsHtml,
    /// `as-json`: an HTML page under the name of `application/json`.
    AsJson,
    /// `refused`: 200 with an envelope that says `success: false`, for reasons that vary.
    Refused,
    /// `empty-page`: a page of the list, not the first, without its rows.
    EmptyPage,
    /// `repeated-page`: a page of the list, not the first, with the rows of the one before.
    RepeatedPage,
    /// `shifted-page`: a page of the list that begins some rows too early or too late.
    ShiftedPage,
    /// `short-page`: pages of the list that are shorter than was asked for.
    ShortPage,
    /// `clock-off`: `Date` is wrong by hours, and at times `Retry-After` with it.
    ClockOff,
    /// `vanished`: a device of which nothing is known, or a list in which some devices are missing.
    Vanished,
}

impl FaultKind {
    /// Every kind that `all` stands for: those that any client must expect on any day.
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

    /// The kinds of a bad day.
    pub const HOSTILE: [Self; 16] = [
        Self::Storm,
        Self::MidReset,
        Self::Dribble,
        Self::Stalled,
        Self::Endless,
        Self::Bomb,
        Self::Redirect,
        Self::AsHtml,
        Self::AsJson,
        Self::Refused,
        Self::EmptyPage,
        Self::RepeatedPage,
        Self::ShiftedPage,
        Self::ShortPage,
        Self::ClockOff,
        Self::Vanished,
    ];

    /// Every kind there is, in the order of their numbers.
    pub(super) fn every() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().chain(Self::HOSTILE)
    }

    /// What each is called, for people, and that `all` stands for the plain ones.
    #[must_use]
    pub fn words() -> String {
        let names = |kinds: &[Self]| kinds.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(", ");
        format!("{}, or all for each of these; also {}", names(&Self::ALL), names(&Self::HOSTILE))
    }

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
            Self::Storm => "storm",
            Self::MidReset => "mid-reset",
            Self::Dribble => "dribble",
            Self::Stalled => "stalled",
            Self::Endless => "endless",
            Self::Bomb => "bomb",
            Self::Redirect => "redirect",
            Self::AsHtml => "as-html",
            Self::AsJson => "as-json",
            Self::Refused => "refused",
            Self::EmptyPage => "empty-page",
            Self::RepeatedPage => "repeated-page",
            Self::ShiftedPage => "shifted-page",
            Self::ShortPage => "short-page",
            Self::ClockOff => "clock-off",
            Self::Vanished => "vanished",
        }
    }

    /// Whether it can strike the answer of an endpoint.
    pub(super) fn concerns(self, live: bool) -> bool {
        !live || !matches!(self, Self::EmptyPage | Self::RepeatedPage | Self::ShiftedPage | Self::ShortPage)
    }

    /// What the fault makes of an answer.
    pub(super) fn spoil(self, answer: Answer, scene: &Scene) -> Answer {
        let (dice, live) = (scene.dice, scene.live);
        let (chunked, at) = (dice.chance(0.5), dice.with(1).between(0.1, 0.9));
        let nothing = if live { "absent" } else { "failed" };
        match self {
            Self::TooMany => Answer::too_many(1),
            Self::Server => Answer::page_of_html(*dice.pick(&[500, 502, 503, 504, 520, 522, 524])),
            Self::Truncated => answer.ending(Ending::Cut { chunked, at, torn: false }),
            Self::Reset => answer.ending(Ending::Reset),
            Self::NotJson => Answer::page_of_html(200),
            Self::Failure => Answer { status: 200, ..Answer::failure(503, 10_500, "internal error, try again") },
            Self::Null => Answer::json(200, envelope("null"), nothing),
            Self::Empty => Answer::json(200, "{}".to_owned(), nothing),
            Self::Slow => Answer { delay_ms: 200 + dice.below(700), ..answer },
            Self::Garbage => Answer::json(200, garbage(dice, live), "garbage"),
            Self::Storm => hostile::storm(scene),
            Self::MidReset => answer.ending(Ending::Cut { chunked, at, torn: true }),
            Self::Dribble => hostile::dribble(answer, dice),
            Self::Stalled => answer.ending(Ending::Stalled { chunked, at }),
            Self::Endless => hostile::endless(answer, dice),
            Self::Bomb => answer.ending(Ending::Bomb { fill: *dice.pick(b" 7") }),
            Self::Redirect => hostile::redirect(scene),
            Self::AsHtml => Answer { html: true, ..answer },
            Self::AsJson => Answer { html: false, ..Answer::page_of_html(200) },
            Self::Refused => hostile::refused(dice),
            Self::ClockOff => hostile::clock_off(answer, scene),
            Self::Vanished => Answer::absent(dice.below(3)),
            // Bent where the rows are known.
            Self::EmptyPage | Self::RepeatedPage | Self::ShiftedPage | Self::ShortPage => answer,
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
pub struct Faults([f64; FaultKind::ALL.len() + FaultKind::HOSTILE.len()]);

impl Faults {
    /// No faults.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// These faults, but for the probability of one kind.
    #[must_use]
    pub fn with(mut self, kind: FaultKind, probability: f64) -> Self {
        self.0[kind as usize] = probability;
        self
    }

    /// Every kind of [`FaultKind::ALL`] with the same probability.
    #[must_use]
    pub fn every(probability: f64) -> Self {
        FaultKind::ALL.into_iter().fold(Self::none(), |faults, kind| faults.with(kind, probability))
    }

    /// The probability of a kind.
    #[must_use]
    pub fn probability(&self, kind: FaultKind) -> f64 {
        self.0[kind as usize]
    }

    /// Each kind has a throw of its own; where several strike, one of them does.
    pub(super) fn draw(&self, dice: Dice, live: bool) -> Option<FaultKind> {
        let strike: Vec<FaultKind> = FaultKind::every()
            .filter(|kind| kind.concerns(live))
            .filter(|kind| dice.with(*kind as u64).chance(self.probability(*kind)))
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
            let kinds = kind.map_or(FaultKind::ALL.to_vec(), |kind| vec![kind]).into_iter();
            Ok(kinds.fold(faults, |faults, kind| faults.with(kind, probability)))
        })
    }
}

/// A kind, or none for each that `all` stands for, and its probability.
fn parse(part: &str) -> Result<(Option<FaultKind>, f64), Cow<'static, str>> {
    let (kind, percent) = part.split_once('=').ok_or("write KIND=PERCENT, as in 5xx=10%")?;
    let percent: f64 = percent.trim_end_matches('%').parse().map_err(|_not_a_number| "the percentage is no number")?;
    if !(0.0..=100.0).contains(&percent) {
        return Err("the percentage must be 0 to 100".into());
    }
    let known = FaultKind::every().find(|known| known.name() == kind);
    if known.is_none() && kind != "all" {
        return Err(format!("the kinds are {}", FaultKind::words()).into());
    }
    Ok((known, percent / 100.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(faults: Faults) -> Vec<usize> {
        let mut counts = vec![0; FaultKind::ALL.len()];
        let draws = (0..10_000).filter_map(|n| faults.draw(Dice::new(7).with(n), false));
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

    #[test]
    fn every_kind_has_a_name_that_is_read() {
        for (number, kind) in FaultKind::every().enumerate() {
            assert_eq!(kind as usize, number);
            let faults: Faults = format!("{}=100%", kind.name()).parse().expect("a fault");
            assert_eq!(faults, Faults::none().with(kind, 1.0));
        }
    }

    #[test]
    fn all_is_none_of_the_hostile_kinds_and_pages_are_no_devices() {
        let both: Faults = "bomb=10%,all=5%,slow=1%".parse().expect("faults");
        let expected = Faults::every(0.05).with(FaultKind::Bomb, 0.1).with(FaultKind::Slow, 0.01);
        assert_eq!(both, expected, "who names one and then all means both");
        let all: Faults = "all=100%".parse().expect("faults");
        assert!(FaultKind::HOSTILE.into_iter().all(|kind| all.probability(kind) == 0.0));
        let empty = Faults::none().with(FaultKind::EmptyPage, 1.0);
        assert_eq!(empty.draw(Dice::new(7), true), None);
        assert_eq!(empty.draw(Dice::new(7), false), Some(FaultKind::EmptyPage));
    }
}
