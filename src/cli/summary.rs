//! What a sweep and a publish did, in words.

use crate::clock;
use crate::collect::CollectStats;
use crate::ingest::Held;
use crate::shown::bytes;

use super::{Exit, print};

/// One line of what a sweep did.
pub(super) fn of_sweep(stats: &CollectStats) -> String {
    let unasked = match stats.devices_unasked {
        _ if stats.list_cut => " (the rest of the list is left to the next sweep)".to_owned(),
        0 => String::new(),
        devices => format!(" ({devices} left to the next sweep)"),
    };
    let drift = match stats.values_unmapped {
        0 => String::new(),
        values => format!("; {values} values in no column (`schema drift` says which)"),
    };
    let waiting = match &stats.waiting_since {
        None => String::new(),
        Some(since) => {
            let since = clock::format_timestamp(since.0);
            format!("; {} wait in the journal since {since}", bytes(stats.waiting_bytes))
        }
    };
    format!(
        "{} devices{unasked}: {} new states, {} unchanged, {} absent, {} failed; {} requests in {:.1} s ({:.0} s throttled); {} rows, {} published{waiting}{drift}",
        stats.devices,
        stats.states_new,
        stats.states_unchanged,
        stats.devices_absent,
        stats.requests_failed,
        stats.requests_sent,
        stats.elapsed_s,
        stats.throttled_s,
        stats.rows_published,
        bytes(stats.bytes_published),
    )
}

/// One line of what was asked of an account.
pub(super) fn of_account(stats: &CollectStats) -> String {
    format!(
        "{} devices, {} absent, {} failed; {} requests in {:.1} s ({:.0} s throttled)",
        stats.devices,
        stats.devices_absent,
        stats.requests_failed,
        stats.requests_sent,
        stats.elapsed_s,
        stats.throttled_s
    )
}

/// What was asked of one of several accounts. What was published is theirs together.
pub(super) fn of_account_json(stats: &CollectStats) -> serde_json::Value {
    serde_json::json!({
        "sweep_id": stats.sweep_id,
        "devices": stats.devices,
        "devices_absent": stats.devices_absent,
        "devices_unasked": stats.devices_unasked,
        "list_cut": stats.list_cut,
        "requests_sent": stats.requests_sent,
        "requests_failed": stats.requests_failed,
        "throttled_s": stats.throttled_s,
        "elapsed_s": stats.elapsed_s,
        "stopped": stats.stopped,
        "failures": stats.failures,
    })
}

/// Tells what a sweep did. What did not go well is told to those too who want to hear little.
pub(super) fn tell_sweep(stats: &CollectStats, failed: bool, quiet: bool) -> Exit {
    let exit = Exit::of_work(failed || !stats.held.is_empty(), stats.has_failures());
    if !quiet || exit != Exit::Done {
        print::note(&of_sweep(stats));
        stats.failures.iter().for_each(|failure| print::note(&format!("  failed: {failure}")));
    }
    tell_found(stats);
    tell_publish(&stats.damaged, &stats.held);
    exit
}

/// Says what was found damaged, and what is still in the journal.
pub(super) fn tell_publish(damaged: &[String], held: &[Held]) {
    damaged.iter().for_each(|sentence| print::warning(sentence));
    held.iter().for_each(|sentence| print::error(sentence));
}

/// What came up on the way: bodies that are no device state, a clock that is wrong.
pub(super) fn tell_found(stats: &CollectStats) {
    if stats.bodies_quarantined > 0 || stats.journal_gaps > 0 {
        print::note(&format!(
            "  {} bodies were no device state, {} stretches of the journal could not be read: see _archive/quarantine",
            stats.bodies_quarantined, stats.journal_gaps
        ));
    }
    if let Some(ahead) = stats.clock_ahead_s.filter(|_| stats.has_wrong_clock()) {
        let side = if ahead > 0.0 { "ahead of" } else { "behind" };
        print::warning(&format_args!(
            "this machine's clock is {:.0} s {side} the API's, and a sweep asks for the time that it shows: set it by NTP",
            ahead.abs()
        ));
    }
}
