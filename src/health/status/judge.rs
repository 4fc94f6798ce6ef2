//! What the figures of a status say: how good or bad each is, and what to do about it. Nothing is read here.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::TimeDelta;

use crate::clock::{self, Moment, Timestamp};
use crate::health::{Check, LEAST_ROOM, Level};
use crate::query::MOST_MISSED;
use crate::shown::bytes;

use super::{SilentShard, Status, StatusOptions, Sweep, Unpublished, ratio};

/// Of the requests of a sweep, so many may fail.
const MOST_FAILED: f64 = 0.1;

/// So many states without a time are more than a device or two.
const MOST_TIMELESS: f64 = 0.01;

/// The disk should be good for so long.
const SHORTEST_ROOM: f64 = 14.0;

/// What was received later than this from now was received under another clock: so far apart are clocks that nobody sets.
const FUTURE: TimeDelta = TimeDelta::minutes(1);

impl Status {
    /// What the figures say.
    pub(super) fn judged(&self, options: &StatusOptions) -> Vec<Check> {
        let swept = self.last_sweeps.iter().map(|sweep| &sweep.account_id);
        let swept =
            swept.chain(self.unpublished.iter().map(|waiting| &waiting.account_id)).chain(&self.silent_accounts);
        let several = swept.collect::<BTreeSet<_>>().len() > 1;
        let name = |account: &str, shard: Option<&str>| {
            let called = options.accounts.get(account).map_or(account, String::as_str);
            let account = if several { format!(", {called}") } else { String::new() };
            format!("last sweep{account}{}", shard.map_or(String::new(), |shard| format!(", shard {shard}")))
        };
        let of_sweep = |sweep: &Sweep| match sweep.check(&name(&sweep.account_id, sweep.shard.as_deref()), options) {
            check if check.level == Level::Fine && self.empty_accounts.contains(&sweep.account_id) => Check::poor(
                &check.name,
                format!("{}; nobody was seen in 7 days", check.found),
                "look at the account's id, whether DEX is set up, and at a metadata boundary: `dex-archive doctor`",
            ),
            check => check,
        };
        let mut checks: Vec<Check> = self.last_sweeps.iter().map(of_sweep).collect();
        let waiting = self.unpublished.iter();
        checks.extend(waiting.map(|Unpublished { account_id, shard, newest }| {
            let name = name(account_id, shard.as_deref());
            by_age(&name, *newest, "it waits in the journal to be published", options)
        }));
        let silent = |account: &str, shard: Option<&str>| {
            let remedy = "nothing collects: run `dex-archive collect`, by hand and then from cron or as a service";
            Check::poor(&name(account, shard), "none in the last 7 days", remedy)
        };
        let shards = self.silent_shards.iter();
        checks.extend(shards.map(|SilentShard { account_id, shard }| silent(account_id, Some(shard))));
        checks.extend(self.silent_accounts.iter().map(|account| silent(account, None)));
        if checks.is_empty() {
            checks.push(silent("", None));
        }
        checks.extend([
            self.coverage_check(),
            self.journal_check(options),
            self.archive_check(),
            self.disk_check(),
            self.gap_check(),
        ]);
        checks.extend(self.unexpected_check());
        checks.extend(self.resharding.map(|shards| {
            let remedy = format!("wait for it, or end it: `dex-archive reshard --shards {shards}`");
            Check::poor("shards", format!("nobody can write: the archive is being filed into {shards}"), &remedy)
        }));
        checks.extend(self.pseudonyms_check());
        checks.extend(self.damage_check());
        checks
    }

    /// Whether the states are as the schema expects them.
    fn unexpected_check(&self) -> Option<Check> {
        let (name, all) = ("states, last day", self.states);
        if ratio(self.states_timeless, all.max(1)) > MOST_TIMELESS {
            let found =
                format!("{} of {all} have no time that can be read: each sweep files them anew", self.states_timeless);
            return Some(Check::poor(name, found, "see what stands there instead: `dex-archive schema drift`"));
        }
        (self.states_unmapped > 0).then(|| {
            let found = format!("{} of {all} hold something that no column has; it is kept", self.states_unmapped);
            Check::note(name, found, "see what: `dex-archive schema drift`")
        })
    }

    /// One key is as it should be.
    fn pseudonyms_check(&self) -> Option<Check> {
        let [_, .., last] = self.pseudonym_keys.as_slice() else { return None };
        let (count, since) = (self.pseudonym_keys.len(), clock::format_timestamp(last.since));
        let found = format!(
            "made with {count} keys, the last since {since}: a device cannot be followed across a change of key"
        );
        Some(Check::note("pseudonyms", found, ""))
    }

    fn damage_check(&self) -> Option<Check> {
        let first = self.damaged.first()?.display();
        let more = match self.damaged.len() - 1 {
            0 => String::new(),
            more => format!(", and {more} more"),
        };
        let remedy = "see what can be read of it: `dex-archive verify`, and mend it: `dex-archive verify --repair`";
        Some(Check::poor("damage", format!("rows of {first}{more} cannot be read"), remedy))
    }

    fn coverage_check(&self) -> Check {
        let name = "coverage, last day";
        if self.expected == 0 {
            return Check::note(name, "no whole interval yet in which a state was expected", "");
        }
        let (present, missed) = (ratio(self.present, self.expected), ratio(self.missed, self.expected));
        let found = format!(
            "{:.1} % of {} intervals have a state; {:.1} % were missed",
            present * 100.0,
            self.expected,
            missed * 100.0
        );
        if missed > MOST_MISSED {
            let remedy =
                "see why: `dex-archive query gaps --since 1d`; fill what can be filled: `dex-archive backfill`";
            return Check::poor(name, found, remedy);
        }
        Check::fine(name, found)
    }

    fn journal_check(&self, options: &StatusOptions) -> Check {
        let name = "journal";
        if self.pending_unreadable > 0 {
            let found = format!("{} of its segments cannot be read, and wait", self.pending_unreadable);
            return Check::poor(name, found, "see why: `dex-archive verify`");
        }
        let Some(Moment(since)) = self.pending_since else { return Check::fine(name, "nothing waits to be published") };
        let found =
            format!("{} wait to be published since {}", bytes(self.pending_bytes), clock::format_timestamp(since));
        if since > options.now + FUTURE {
            let remedy = "the clock was set back since: the next `dex-archive collect` publishes it";
            return Check::poor(name, found, remedy);
        }
        if (options.now - since).to_std().unwrap_or_default() > 2 * options.longest_wait {
            return Check::poor(name, found, "the next `dex-archive collect` publishes it, or says why it cannot");
        }
        Check::fine(name, found)
    }

    fn archive_check(&self) -> Check {
        let growth = self.bytes_per_day.map_or(String::new(), |growth| format!(", {} a day", bytes(growth)));
        Check::fine("archive", format!("{} in {} days{growth}", bytes(self.bytes), self.days))
    }

    fn disk_check(&self) -> Check {
        let name = "disk";
        let Some(free) = self.free_bytes else { return Check::note(name, "free space cannot be determined", "") };
        match self.days_until_full {
            _ if free < LEAST_ROOM => {
                Check::poor(name, format!("{} free", bytes(free)), "make room before the next publish")
            }
            Some(days) if days < SHORTEST_ROOM => {
                let found = format!("{} free: full in {days:.0} days", bytes(free));
                Check::poor(name, found, "make room, or keep fewer days: `dex-archive prune --keep 400d --dry-run`")
            }
            Some(days) if days < 10_000.0 => Check::fine(name, format!("{} free: for {days:.0} days", bytes(free))),
            _ => Check::fine(name, format!("{} free", bytes(free))),
        }
    }

    fn gap_check(&self) -> Check {
        let name = "oldest gap";
        let Some((Moment(since), left)) = self.oldest_gap.zip(self.oldest_gap_days_left) else {
            return match self.before_first {
                Some(Moment(since)) => {
                    let since = clock::format_timestamp(since);
                    let found =
                        format!("nothing was missed since the first sweep; Cloudflare has states since {since}");
                    Check::note(name, found, "fetch them before it forgets them: `dex-archive backfill`")
                }
                None => Check::fine(name, "nothing of the last 7 days was missed"),
            };
        };
        let since = clock::format_timestamp(since);
        let found = format!("states since {since} were missed; Cloudflare has them for {left:.1} days more");
        let is_divided = self.last_sweeps.iter().any(|sweep| sweep.shard.is_some());
        let remedy = if is_divided {
            "fetch them: `dex-archive backfill`"
        } else {
            "fetch them: `dex-archive backfill`, or collect with --self-heal"
        };
        if left < 1.0 { Check::poor(name, found, remedy) } else { Check::note(name, found, remedy) }
    }
}

impl Sweep {
    fn check(&self, name: &str, options: &StatusOptions) -> Check {
        let ended = self.waiting.map_or(self.ended.0, |waiting| waiting.0.max(self.ended.0));
        let counts = format!("{} states by {} requests, {} failed", self.states, self.requests, self.failed);
        let check = by_age(name, ended, &counts, options);
        if check.level == Level::Fine && ratio(self.failed, self.requests.max(1)) > MOST_FAILED {
            return Check::poor(name, check.found, "see what the API says: `dex-archive doctor`");
        }
        check
    }
}

/// A sweep that is of a time, and what else there is to say of it.
fn by_age(name: &str, ended: Timestamp, said: &str, options: &StatusOptions) -> Check {
    let age = (options.now - ended).to_std().unwrap_or_default();
    let ago = clock::format_duration(Duration::from_secs(age.as_secs()));
    let found = format!("{ago} ago: {said}");
    if age <= options.max_age {
        return Check::fine(name, found);
    }
    let longest = clock::format_duration(options.max_age);
    Check::poor(name, found, &format!("a sweep is expected at least every {longest}: look at the collector's log"))
}
