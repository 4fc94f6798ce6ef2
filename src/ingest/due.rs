//! When what is journalled is published: a publish writes the whole day anew, which is cheap while the day is small.

use std::time::Duration;

use crate::clock;

/// What a publish may take of the time: a hundredth.
const SHARE: u32 = 100;

/// How long rows wait at most where the rule is to weigh the cost.
const LONGEST: Duration = Duration::from_hours(1);

/// What a row of the day costs at its publish, measured: `cargo bench --bench compare_publish`.
const ROW: Duration = Duration::from_micros(5);

/// When a collector publishes what it has journalled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PublishRule {
    /// As soon as the publishes take no more than a hundredth of the time, and at the latest after an hour.
    #[default]
    Auto,
    /// After every sweep.
    Sweep,
    /// After so much time.
    Every(Duration),
}

impl PublishRule {
    /// Reads a rule as people type it: `auto`, `sweep`, or a time such as `15m`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "auto" => Some(Self::Auto),
            "sweep" => Some(Self::Sweep),
            time => clock::parse_duration(time).filter(|time| !time.is_zero()).map(Self::Every),
        }
    }

    /// For how long rows wait at most, if there is a chance to publish them.
    #[must_use]
    pub fn longest_wait(self) -> Duration {
        match self {
            Self::Every(time) => time.max(LONGEST),
            Self::Auto | Self::Sweep => LONGEST,
        }
    }

    /// Whether what has waited for so long is published now. If not, there is a chance again after `next`.
    pub(super) fn is_due(self, waited: Duration, next: Duration, day_rows: u64) -> bool {
        let longest = match self {
            Self::Sweep => return true,
            Self::Every(time) => time,
            Self::Auto => {
                let cost = ROW.saturating_mul(u32::try_from(day_rows).unwrap_or(u32::MAX));
                LONGEST.min(cost.saturating_mul(SHARE))
            }
        };
        waited.saturating_add(next) > longest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    #[test]
    fn a_rule_is_read_or_refused() {
        for (text, rule) in [
            ("auto", Some(PublishRule::Auto)),
            ("sweep", Some(PublishRule::Sweep)),
            ("15m", Some(PublishRule::Every(15 * MINUTE))),
            ("0s", None),
            ("", None),
            ("Auto", None),
            ("daily", None),
        ] {
            assert_eq!(PublishRule::parse(text), rule, "{text}");
        }
    }

    #[test]
    fn small_days_are_published_at_once_and_large_ones_within_the_hour() {
        // After how many minutes, asked every five, rows are published.
        let waits =
            |rule: PublishRule, rows| (0..100).map(|n| n * 5).find(|&n| rule.is_due(n * MINUTE, 5 * MINUTE, rows));
        assert_eq!(waits(PublishRule::Auto, 0), Some(0));
        assert_eq!(waits(PublishRule::Auto, 288_000), Some(0));
        assert_eq!(waits(PublishRule::Auto, 3_000_000), Some(25));
        assert_eq!(waits(PublishRule::Auto, 30_000_000), Some(60));
        assert_eq!(waits(PublishRule::Auto, u64::MAX), Some(60));
        assert_eq!(waits(PublishRule::Sweep, u64::MAX), Some(0));
        assert_eq!(waits(PublishRule::Every(15 * MINUTE), 0), Some(15));
    }
}
