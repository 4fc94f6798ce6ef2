//! What the one that runs us is told, if it is systemd: that we are ready, still alive, and about to end.

use sd_notify::NotifyState;

/// Says that the loop runs.
pub(super) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// Says that the loop is about to end.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Says what was done last, for `systemctl status`.
pub(super) fn status(line: &str) {
    tell(&[NotifyState::Status(line)]);
}

/// Says again and again that we are alive, where somebody watches; never ends. It runs beside the work on the one
/// thread: where that is stuck, nothing is said.
pub(super) async fn alive() {
    let Some(longest) = sd_notify::watchdog_enabled() else { return std::future::pending().await };
    let mut ticks = tokio::time::interval((longest / 3).max(std::time::Duration::from_millis(1)));
    loop {
        ticks.tick().await;
        tell(&[NotifyState::Watchdog]);
    }
}

/// Where nobody listens, nothing is lost.
fn tell(state: &[NotifyState]) {
    let _ = sd_notify::notify(state);
}
