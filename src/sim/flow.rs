//! How bodies flow: whole, cut short, slowly, or without an end.
//!
//! It does not care what is in them.

use std::io;
use std::time::Duration;

use axum::body::{Body, Bytes};
use futures_util::stream::{self, StreamExt};
use tokio::sync::watch;

use super::answer::Ending;
use super::bomb::bomb;
use super::dice::{real, whole};
use super::record::Entry;
use super::wire::Scissors;

/// How many bytes of a slow body come at a time, and how often, at its start and at its end.
const DROP: usize = 5;
const DROPS: usize = 12;

/// How much of an endless body comes at a time.
const GULP: usize = 1 << 16;

/// What a body may need on its way.
pub(super) struct Road {
    pub(super) scissors: Scissors,
    /// Becomes true when the server shuts down, which endless bodies must not hold up.
    pub(super) closing: watch::Receiver<bool>,
    pub(super) entry: Entry,
}

/// What a body tells once all of it is sent.
pub(super) struct Told {
    pub(super) states: Vec<String>,
    pub(super) outcome: &'static str,
}

pub(super) fn body(bytes: Vec<u8>, ending: Ending, road: Road, told: Told) -> Body {
    match ending {
        Ending::Whole | Ending::Reset => Body::from(bytes),
        Ending::Cut { at, torn, .. } => cut(part(bytes, at), torn.then_some(road.scissors)),
        Ending::Dribble { pause_ms, .. } => dribble(bytes, Duration::from_millis(pause_ms), road.entry, told),
        Ending::Stalled { at, .. } => breaks_off(stream::iter([part(bytes, at)]), closed(road.closing)),
        Ending::Endless((begin, fill)) => endless(begin, fill, road.closing),
        Ending::Bomb { fill } => Body::from(bomb(fill)),
    }
}

/// The first part of a body: at least its last byte is missing.
fn part(mut bytes: Vec<u8>, at: f64) -> Bytes {
    let length = i64::try_from(bytes.len()).unwrap_or(i64::MAX);
    bytes.truncate(usize::try_from(whole(real(length) * at)).unwrap_or(0).min(bytes.len().saturating_sub(1)));
    bytes.into()
}

/// A part of a body, and then an end of the connection.
fn cut(part: Bytes, torn: Option<Scissors>) -> Body {
    let end = async move {
        // What was sent so far must be on its way before the connection is dropped.
        pause(Duration::from_millis(5)).await;
        if let Some(scissors) = torn {
            scissors.tear();
        }
    };
    breaks_off(stream::iter([part]), end)
}

/// All of a body, but most of the time a few bytes; it has told nothing to those who leave before the last.
fn dribble(bytes: Vec<u8>, pace: Duration, mut entry: Entry, told: Told) -> Body {
    let mut drops = drops(&bytes.into());
    let last = drops.pop().unwrap_or_default();
    let slow = stream::iter(drops).then(move |drop| async move {
        pause(pace).await;
        Ok::<_, io::Error>(drop)
    });
    let end = stream::once(async move {
        pause(pace).await;
        entry.note_end(true, told.states, told.outcome);
        Ok(last)
    });
    Body::from_stream(slow.chain(end))
}

/// A body in pieces: small ones at both ends, and the rest in between.
fn drops(bytes: &Bytes) -> Vec<Bytes> {
    let edge = (DROP * DROPS).min(bytes.len() / 2);
    let small = |from: usize, to: usize| {
        (from..to).step_by(DROP).map(move |at| bytes.slice(at..(at + DROP).min(to))).collect::<Vec<_>>()
    };
    let mut drops = small(0, edge);
    drops.push(bytes.slice(edge..bytes.len() - edge));
    drops.extend(small(bytes.len() - edge, bytes.len()));
    drops
}

/// A beginning, and then the same for as long as somebody reads it.
fn endless(begin: &'static str, fill: &'static str, closing: watch::Receiver<bool>) -> Body {
    let gulp = Bytes::from(fill.repeat(GULP / fill.len()));
    let gulps = stream::repeat(gulp).then(|gulp| async move {
        // At full speed it would be a test of the machine.
        pause(Duration::from_millis(1)).await;
        gulp
    });
    let begin = stream::iter([Bytes::from_static(begin.as_bytes())]);
    breaks_off(begin.chain(gulps).take_until(closed(closing)), std::future::ready(()))
}

/// Parts of a body, and then no proper end.
fn breaks_off(
    parts: impl stream::Stream<Item = Bytes> + Send + 'static,
    end: impl Future<Output = ()> + Send + 'static,
) -> Body {
    let end = stream::once(async move {
        end.await;
        Err(io::Error::from(io::ErrorKind::ConnectionAborted))
    });
    Body::from_stream(parts.map(Ok).chain(end))
}

/// Waits for the end of the server.
pub(super) async fn closed(mut closing: watch::Receiver<bool>) {
    // Without a sender there is no server either.
    let _ = closing.wait_for(|is_closing| *is_closing).await;
}

#[expect(clippy::disallowed_methods, reason = "a slow body is slow in tokio's time")]
async fn pause(duration: Duration) {
    tokio::time::sleep(duration).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_are_all_of_the_body() {
        for length in [0, 1, 4, 9, 10, 119, 120, 121, 3_000] {
            let bytes: Bytes = (0..=250).cycle().take(length).collect();
            assert_eq!(drops(&bytes).concat(), bytes, "{length}");
        }
        assert_eq!(drops(&vec![0; 3_000].into()).len(), 2 * DROPS + 1);
    }
}
