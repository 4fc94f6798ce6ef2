//! What the kinds of a bad day make of one answer.
//!
//! When they strike is for `weather` to say; how bodies break off or never end, for `flow`.

use chrono::TimeDelta;

use super::answer::{Answer, Ending, http_date};
use super::dice::Dice;
use crate::clock::Timestamp;

/// What a fault may depend on.
pub(super) struct Scene {
    pub(super) dice: Dice,
    pub(super) live: bool,
    pub(super) now: Timestamp,
    /// Where a redirect leads.
    pub(super) elsewhere: String,
}

/// Reasons to refuse. None of them is about credentials or routes: those end a sweep for good, and
/// no weather does that.
const REASONS: [(u32, &str); 6] = [
    (971, "Please wait and consider throttling your request speed"),
    (1_001, "the request could not be processed"),
    (10_013, "unknown error"),
    (10_429, "too many concurrent queries"),
    (10_500, "internal error, try again"),
    (10_504, "upstream timed out"),
];

/// JSON that begins well, with what could follow for ever.
static ENDLESS: [(&str, &str); 4] = [
    ("{\"success\":true,\"errors\":[],\"messages\":[],\"result\":", " "),
    ("{\"success\":true,\"errors\":[],\"messages\":[],\"result\":", "7"),
    ("{\"success\":true,\"errors\":[],\"messages\":[],\"result\":\"", "x"),
    ("{\"success\":true,\"errors\":[],\"messages\":[],\"result\":[", "{},"),
];

/// 429, and one of three ways to say for how long.
pub(super) fn storm(scene: &Scene) -> Answer {
    let answer = match scene.dice.below(3) {
        0 => Answer::too_many(1),
        1 => throttled_at(scene.now),
        _ => Answer::throttled(),
    };
    answer.header("ratelimit", "\"default\";r=0;t=1".to_owned())
}

/// An answer that takes two seconds or three.
pub(super) fn dribble(answer: Answer, dice: Dice) -> Answer {
    let pause_ms = 80 + dice.with(2).below(60);
    Answer { ending: Ending::Dribble { chunked: dice.chance(0.5), pause_ms }, ..answer }
}

pub(super) fn endless(answer: Answer, dice: Dice) -> Answer {
    answer.ending(Ending::Endless(dice.pick(&ENDLESS)))
}

pub(super) fn redirect(scene: &Scene) -> Answer {
    let status = *scene.dice.pick(&[301, 302, 307, 308]);
    Answer::page_of_html(status).header("location", scene.elsewhere.clone())
}

/// An envelope with one, two or three reasons.
pub(super) fn refused(dice: Dice) -> Answer {
    let reasons = (0..=dice.below(3)).map(|which| {
        let (code, message) = dice.with(which).pick(&REASONS);
        format!("{{\"code\":{code},\"message\":\"{message}\"}}")
    });
    let errors = reasons.collect::<Vec<_>>().join(",");
    let body = format!("{{\"success\":false,\"errors\":[{errors}],\"messages\":[],\"result\":null}}");
    Answer::json(200, body, "failed")
}

/// An answer by a clock that is wrong by hours; one in three is a 429 whose `Retry-After` goes by it.
pub(super) fn clock_off(answer: Answer, scene: &Scene) -> Answer {
    let hours = i64::try_from(1 + scene.dice.below(12)).unwrap_or(1);
    let off = TimeDelta::hours(if scene.dice.with(1).chance(0.5) { hours } else { -hours });
    let there = scene.now + off;
    let answer = if scene.dice.with(2).chance(1.0 / 3.0) { throttled_at(there) } else { answer };
    answer.header("date", http_date(there))
}

/// 429 until a date that is one or two seconds ahead.
fn throttled_at(now: Timestamp) -> Answer {
    Answer::throttled().header("retry-after", http_date(now + TimeDelta::seconds(2)))
}
