//! Who collects: each account or, where collectors divide its fleet, each shard of it, by the newest of what is published
//! and of what waits in the journal. Whether that is new enough, `status` says.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::archive::{shard_name, shards_by_name};
use crate::clock::Timestamp;
use crate::query::SweepSummary;

/// An account, and the only shard whose devices are kept, of how many: `3/8`.
pub(super) type CollectorKey = (String, Option<String>);

/// What is known of a collector.
#[derive(Debug, Default)]
pub(super) struct Newest {
    /// Its newest pass that is published.
    pub(super) sweep: Option<SweepSummary>,
    /// When the newest answer of it was received that waits in the journal.
    pub(super) waiting: Option<Timestamp>,
}

/// The collectors that each account is to have as its fleet is divided now, also those that were never heard of: one of
/// each of so many shards, or one of all devices. A sweep of all devices, by hand perhaps, does not end the division as long
/// as a sweep of one shard is not older than `max_age`.
pub(super) fn collectors(
    sweeps: &[SweepSummary],
    waiting: &BTreeMap<CollectorKey, Timestamp>,
    shards: u32,
    (now, max_age): (Timestamp, Duration),
) -> BTreeMap<CollectorKey, Newest> {
    let mut all: BTreeMap<CollectorKey, Newest> = BTreeMap::new();
    for sweep in sweeps {
        let collector = (sweep.account_id.clone(), sweep.shard.clone());
        all.entry(collector).or_default().sweep = Some(sweep.clone());
    }
    for (collector, at) in waiting {
        all.entry(collector.clone()).or_default().waiting = Some(*at);
    }
    // By account, how each division of its fleet ended last.
    let mut divisions: BTreeMap<String, BTreeMap<Option<u32>, Timestamp>> = BTreeMap::new();
    for ((account, shard), newest) in &all {
        let Some(at) = newest.at() else { continue };
        let ended = divisions.entry(account.clone()).or_default().entry(division(shard.as_deref())).or_insert(at);
        *ended = at.max(*ended);
    }
    let is_new = |at: Timestamp| (now - at).to_std().unwrap_or_default() <= max_age;
    for (account, ended) in divisions {
        let newest = ended.iter().max_by_key(|(division, at)| (division.is_some() && is_new(**at), **at));
        let Some((current, _)) = newest else { continue };
        all.retain(|(other, shard), _| *other != account || division(shard.as_deref()) == *current);
        if *current == Some(shards) {
            for shard in 0..shards {
                all.entry((account.clone(), Some(shard_name(shard, shards)))).or_default();
            }
        }
    }
    all
}

/// Among how many shards a fleet is divided, by the name of one of them.
fn division(shard: Option<&str>) -> Option<u32> {
    shard.and_then(shards_by_name)
}

impl Newest {
    fn at(&self) -> Option<Timestamp> {
        self.sweep.as_ref().map(|sweep| sweep.ended).max(self.waiting)
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;
    use crate::clock;

    #[test]
    fn the_collectors_are_those_of_the_division_that_collects() {
        let now = clock::parse_timestamp("2026-10-08T12:00:00Z").expect("a time");
        let sweep = |shard: Option<&str>, minutes: i64| SweepSummary {
            account_id: "a".to_owned(),
            sweep_id: "s".to_owned(),
            began: now - TimeDelta::minutes(minutes),
            ended: now - TimeDelta::minutes(minutes),
            requests: 1,
            failed: 0,
            states: 1,
            shard: shard.map(str::to_owned),
        };
        let told = |sweeps: &[SweepSummary], waiting: Option<&str>| {
            let waiting = waiting.map(|shard| (("a".to_owned(), Some(shard.to_owned())), now));
            let all = collectors(sweeps, &waiting.into_iter().collect(), 3, (now, Duration::from_hours(1)));
            let told = all.into_iter().map(|((_, shard), newest)| {
                let known = [newest.sweep.map(|_| "swept"), newest.waiting.map(|_| "waits")];
                format!("{} {}", shard.unwrap_or_default(), known.into_iter().flatten().collect::<Vec<_>>().join(" "))
            });
            told.collect::<Vec<_>>()
        };
        // Those that never were are told, and those of a former division are not.
        let shards = [sweep(Some("0/3"), 10), sweep(Some("1/3"), 3_000), sweep(Some("1/2"), 600)];
        assert_eq!(told(&shards, None), ["0/3 swept", "1/3 swept", "2/3 "]);
        assert_eq!(told(&shards, Some("2/3")), ["0/3 swept", "1/3 swept", "2/3 waits"]);
        // One by hand hides nobody; one that took their place does.
        assert_eq!(told(&[&shards[..], &[sweep(None, 1)]].concat(), None), ["0/3 swept", "1/3 swept", "2/3 "]);
        assert_eq!(told(&[sweep(Some("0/3"), 90), sweep(None, 1)], None), [" swept"]);
        // What waits is of the new division, and what is published of the former.
        assert_eq!(told(&[sweep(None, 70)], Some("1/3")), ["0/3 ", "1/3 waits", "2/3 "]);
        assert_eq!(told(&[], None), [""; 0]);
    }
}
