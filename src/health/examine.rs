//! What a collector needs: an API that answers, and a place for the archive.

use std::time::Duration;

use chrono::TimeDelta;

use crate::api::{Client, Failure, MOST_CLOCK_AHEAD, Probe};
use crate::archive::{Archive, ArchiveError, Place};
use crate::clock;
use crate::disk;
use crate::envelope;
use crate::shown::bytes;
use crate::snapshot::DeviceId;

use super::{Check, LEAST_ROOM};

/// By so much clocks differ that nobody sets: the header is to the second.
const USUAL_SKEW: TimeDelta = TimeDelta::seconds(3);

/// An answer that takes longer is slow.
const SLOW: Duration = Duration::from_secs(3);

/// The check of the archive.
const ARCHIVE: &str = "archive";

/// Looks at the place of an archive, and at whether its pseudonyms go on: by the mark of their key, if any are to be
/// made, and by whether anybody said what may be written.
#[must_use]
pub fn examine_place(place: &Place, key_mark: Option<&str>, is_ruled: bool) -> Vec<Check> {
    let root = place.disk();
    let mut checks = match found(place) {
        Ok(archive) => {
            let of_pseudonyms = pseudonyms(&archive, key_mark, is_ruled);
            std::iter::once(usable(&archive)).chain(of_pseudonyms).collect()
        }
        Err(check) => vec![check],
    };
    checks.push(if disk::is_writable(root) {
        Check::fine("folder", format!("{} can be written to", root.display()))
    } else {
        let option = if place.is_in_bucket() { "--state-dir" } else { "--archive" };
        let remedy = &format!("make it the collecting user's, or name another with {option}");
        Check::poor("folder", format!("{} cannot be written to", root.display()), remedy)
    });
    checks.push(match disk::free_bytes(root) {
        Some(free) if free < LEAST_ROOM => {
            Check::poor("disk", format!("{} free", bytes(free)), "make room before the next sweep")
        }
        Some(free) => Check::fine("disk", format!("{} free", bytes(free))),
        None => Check::note("disk", "free space cannot be determined", ""),
    });
    checks
}

/// Asks the API, and looks at how it answers: two requests.
pub async fn examine(client: &Client) -> Vec<Check> {
    let list = client.probe_list().await;
    let mut checks = vec![endpoint("list of devices", &list)];
    let texts = list.states.iter().filter_map(|body| std::str::from_utf8(&body.bytes).ok());
    let device = texts.filter_map(envelope::device_id).find_map(|id| DeviceId::parse(&id).ok());
    match device {
        Some(device) => checks.push(endpoint("state of a device", &client.probe_live(&device).await)),
        None if list.failure.is_none() => {
            let remedy = "if there should be some, look at the account's id, and whether DEX is set up";
            checks.push(Check::note(
                "state of a device",
                "not tried: no device was on the list in the last hour",
                remedy,
            ));
        }
        None => checks.push(Check::note("state of a device", "not tried: the list could not be read", "")),
    }
    checks.push(limit(client, &list));
    checks.extend(clock_check(&list));
    checks
}

/// The archive of a place, or what is said where there is none that can be opened.
fn found(place: &Place) -> Result<Archive, Check> {
    Archive::open(place).map_err(|error| {
        let remedy = match error {
            ArchiveError::Absent(_) => {
                let found = format!("{} is still to be made", place.root().display());
                return Check::note(ARCHIVE, found, "the first collect does");
            }
            ArchiveError::Bucket(_) => "look at --archive, and at the variables of the bucket's cloud",
            ArchiveError::Format { .. } | ArchiveError::Description { .. } => {
                "do what it says: until then nothing is collected"
            }
            _ => "name the archive's own folder with --archive",
        };
        Check::poor(ARCHIVE, error.to_string(), remedy)
    })
}

/// Whether an archive can be read and written.
fn usable(archive: &Archive) -> Check {
    let name = ARCHIVE;
    if let Err(error) = archive.check_state() {
        return Check::poor(name, error.to_string(), "each archive in a bucket has a folder of its own for its state");
    }
    match archive.is_guarded() {
        Ok(true) => (),
        Ok(false) => {
            let found = "the object store writes over what is there although it was asked not to";
            return Check::poor(
                name,
                found,
                "use one that honours If-None-Match: here, two writers lose each other's rows",
            );
        }
        Err(error) if error.is_denied() => {
            return Check::poor(name, error.to_string(), "give the credentials the right to write");
        }
        Err(error) => return Check::poor(name, error.to_string(), "try again: it was there just now"),
    }
    match (0..archive.shards()).find_map(|shard| archive.holder(shard).transpose()) {
        Some(Ok(holder)) => {
            Check::note(name, format!("in use by {holder}"), "no other can collect or import meanwhile")
        }
        Some(Err(error)) => Check::poor(name, error.to_string(), "make the archive's files this user's"),
        None => Check::fine(name, format!("{} can be read, and nobody is writing to it", archive.root().display())),
    }
}

/// Whether pseudonyms go on as they began; nothing where there are none.
fn pseudonyms(archive: &Archive, key_mark: Option<&str>, is_ruled: bool) -> Option<Check> {
    let name = "pseudonyms";
    let keys = archive.pseudonym_keys();
    let known = keys.iter().find(|key| Some(key.mark.as_str()) == key_mark);
    let since = clock::format_timestamp(known.or(keys.last())?.since);
    Some(match key_mark {
        Some(_) if known.is_some() => Check::fine(name, format!("made with the same key since {since}")),
        Some(_) => {
            let found = format!("the key is another than since {since}");
            Check::poor(
                name,
                found,
                "put the former key back: with this one, every person and device gets a new pseudonym",
            )
        }
        None if is_ruled => Check::note(name, format!("none are made any more; there are since {since}"), ""),
        None => {
            let found = format!("the archive holds some since {since}, and there are no [privacy] rules");
            Check::poor(name, found, "name the config that has them with --config: no collect begins without")
        }
    })
}

fn endpoint(name: &str, probe: &Probe) -> Check {
    let latency =
        clock::format_duration(Duration::from_millis(u64::try_from(probe.latency.as_millis()).unwrap_or(u64::MAX)));
    let status = probe.status.map_or(String::new(), |status| format!("HTTP {status}, "));
    match &probe.failure {
        None if probe.latency > SLOW => {
            Check::note(name, format!("{status}{latency}: slow"), "a sweep of many devices will take long")
        }
        None => Check::fine(name, format!("{status}{latency}")),
        Some(Failure::Denied(reason) | Failure::Forbidden(reason)) => {
            let remedy = "give the token the permission `Cloudflare DEX Read` (or Zero Trust Read) of this account, \
                          and look at the account's id, and at whether the token is still valid";
            Check::poor(name, reason, remedy)
        }
        Some(Failure::Unreachable(reason)) => {
            Check::poor(name, reason, "look at the network, the proxy, and --api-url")
        }
        Some(failure) if probe.status == Some(404) => {
            Check::poor(name, failure.reason(), "look at the account's id, and at --api-url")
        }
        Some(failure) => Check::poor(name, failure.reason(), "try again; if it stays, it is Cloudflare's to mend"),
    }
}

/// What the server says of its limit, beside what is kept to.
fn limit(client: &Client, probe: &Probe) -> Check {
    let name = "rate limit";
    let budget = client.pacer().budget();
    let kept = budget.requests_in(Duration::from_mins(5));
    let kept = kept.map_or("requests are sent without a limit".to_owned(), |requests| {
        format!("at most {requests} requests in 5m are sent")
    });
    let left = probe.remaining.map_or(String::new(), |left| format!(", {left} left"));
    let Some((quota, window)) = probe.quotas.first() else {
        return Check::fine(name, format!("the server names none; {kept}"));
    };
    let named = format!("the server allows {quota} in {}{left}; {kept}", clock::format_duration(*window));
    match budget.requests_in(*window) {
        Some(ours) if ours > u64::from(*quota) => Check::note(
            name,
            named,
            "set --rate-limit to what the server allows: until then, it is corrected as it goes",
        ),
        _ => Check::fine(name, named),
    }
}

fn clock_check(probe: &Probe) -> Option<Check> {
    let ahead = probe.clock_ahead?;
    let seconds = ahead.num_seconds().unsigned_abs();
    let side = if ahead > TimeDelta::zero() { "ahead of" } else { "behind" };
    let found = format!("{seconds} s {side} the API's");
    let remedy = "set the clock by NTP: what a sweep asks for is counted from it";
    Some(match ahead.abs() {
        skew if skew > MOST_CLOCK_AHEAD => Check::poor("clock", found, remedy),
        skew if skew > USUAL_SKEW => Check::note("clock", found, remedy),
        _ => Check::fine("clock", "as the API's"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_is_refused_may_have_expired() {
        let refused = Probe {
            failure: Some(Failure::Denied("HTTP 401".to_owned())),
            status: Some(401),
            latency: Duration::from_millis(80),
            clock_ahead: None,
            quotas: Vec::new(),
            remaining: None,
            states: Vec::new(),
        };
        let check = endpoint("list of devices", &refused);
        assert!(check.found == "HTTP 401" && check.remedy.ends_with("whether the token is still valid"), "{check:?}");
    }
}
