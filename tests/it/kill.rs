//! The real program under load, killed at random moments, again and again.

use std::collections::BTreeSet;
use std::time::Duration;

use dex_archive::sim::ServerOptions;

use crate::collect::{archived, delivered, keys_of};
use crate::program::{Api, figure, place, run};

/// An answer that was sent whole so long before the kill has to be there afterwards.
const BEFORE: Duration = Duration::from_millis(500);

const KILLS: u64 = 104;

#[test]
fn killed_two_hundred_times_nothing_that_was_received_is_lost() {
    let threads = [1, 2].map(|seed| std::thread::spawn(move || kill_again_and_again(seed)));
    let kept: usize = threads.into_iter().map(|thread| thread.join().expect("nothing is lost")).sum();
    figure("kill", &format!("{} times SIGKILL under load, {kept} states received, none lost, none doubled", 2 * KILLS));
}

#[expect(clippy::disallowed_methods, reason = "the moments of the kills are what is tested")]
fn kill_again_and_again(seed: u64) -> usize {
    let (_dir, archive) = place();
    let api = Api::start(60, Duration::from_secs(1), |options| ServerOptions {
        latency: Duration::from_millis(5),
        ..options
    });
    let mut owed = BTreeSet::new();
    for kill in 0..KILLS {
        // Answers that were on their way to the one that was killed are sent to nobody.
        std::thread::sleep(Duration::from_millis(30));
        let (start, before) = (api.handle.requests(), api.handle.served().len());
        let mut collect = api.collect(&archive);
        let mut collector = collect
            .args(["--every", "250ms", "--deadline", "5m", "--source", "live", "-q"])
            .spawn()
            .expect("the program starts");
        // The hard moments are spread over start, recovery, asking and publishing.
        while api.handle.requests() == start {
            std::thread::yield_now();
        }
        std::thread::sleep(Duration::from_millis((kill * 7_919 + seed * 104_729) % 400));
        let served = api.handle.served();
        std::thread::sleep(BEFORE);
        collector.kill().expect("a process");
        collector.wait().expect("a process");
        owed.extend(keys_of(&served[before..]));
    }
    let (code, said) = run(&mut api.collect(&archive));
    assert_eq!(code, Some(0), "{said}");
    let (archived, delivered) = (archived(&archive), delivered(&api));
    assert!(archived.values().all(|rows| rows.len() == 1), "no state is there twice");
    assert!(archived.keys().all(|key| delivered.contains_key(key)), "no state that was not delivered");
    let lost: Vec<_> = owed.iter().filter(|key| !archived.contains_key(*key)).collect();
    assert!(lost.is_empty(), "{} of {} are lost: {:?}", lost.len(), owed.len(), lost.first());
    owed.len()
}
