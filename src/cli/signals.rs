//! How work is ended from outside: by SIGTERM or SIGINT, once or twice.

use anyhow::Context;

use crate::collect::{Stop, StopSwitch, stop_pair};

use super::{Exit, print, supervise};

/// Does asynchronous work until it is done, or signals end it.
pub(super) fn until_stopped(work: impl AsyncFnOnce(Stop) -> anyhow::Result<Exit>) -> anyhow::Result<Exit> {
    // Requests wait far more than they work, and the files have a thread of their own: handing answers from one
    // thread to another costs more than a second one saves.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start the runtime")?;
    let ended = runtime.block_on(async {
        let (switch, stop) = stop_pair();
        tokio::select! {
            // Until it waits for something, a signal ends the process, which costs nothing.
            biased;
            ended = work(stop) => ended,
            // What is journalled is published by the next start.
            () = two_signals(&switch) => Ok(Exit::Failed),
            () = supervise::alive() => unreachable!("it never ends"),
        }
    });
    runtime.shutdown_background();
    ended
}

/// The first SIGTERM or SIGINT asks for the end; the second does not wait for it.
async fn two_signals(switch: &StopSwitch) {
    signal().await;
    print::note("stopping: what was received is published; a second signal stops at once");
    supervise::stopping();
    switch.stop();
    signal().await;
}

async fn signal() {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
        .expect("the handler of SIGTERM can be set");
    tokio::select! {
        _ = tokio::signal::ctrl_c() => (),
        _ = terminate.recv() => (),
    }
}
