//! Turns an answer into HTTP: headers, compression, and bodies that end too early.

use std::io::{self, Write};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::response::Response;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::stream;

use super::answer::{Answer, Ending};
use super::dice::{real, whole};
use super::limit::Verdict;

/// Bodies up to this length are not worth compressing.
const PLAIN_MAX: usize = 1_000;

pub(super) fn respond(answer: Answer, verdict: &Verdict, ray: u64, gzip: bool) -> Response {
    let limit = verdict.limit;
    let mut response = Response::builder()
        // A reset has no status, and nobody will see this one.
        .status(answer.status.max(200))
        .header("content-type", if answer.html { "text/html; charset=UTF-8" } else { "application/json" })
        .header("ratelimit", format!("\"default\";r={};t={}", verdict.left, verdict.reset))
        .header("ratelimit-policy", format!("\"default\";q={};w={}", limit.requests, limit.window.as_secs()))
        .header("cf-ray", format!("{ray:016x}-SIM"));
    if let Some(seconds) = answer.retry_after {
        response = response.header("retry-after", seconds);
    }
    let zipped = if gzip && answer.body.len() > PLAIN_MAX { zip(&answer.body).ok() } else { None };
    if zipped.is_some() {
        response = response.header("content-encoding", "gzip");
    }
    let bytes = zipped.unwrap_or_else(|| answer.body.into_bytes());
    if let Ending::Cut { chunked: false, .. } = answer.ending {
        response = response.header("content-length", bytes.len());
    }
    let body = match answer.ending {
        Ending::Whole | Ending::Reset => Body::from(bytes),
        Ending::Cut { at, .. } => cut(bytes, at),
    };
    response.body(body).expect("an answer is made of valid headers")
}

fn zip(body: &str) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(body.as_bytes())?;
    encoder.finish()
}

/// The first part of a body, and then an end of the connection.
fn cut(mut bytes: Vec<u8>, at: f64) -> Body {
    let length = i64::try_from(bytes.len()).unwrap_or(i64::MAX);
    bytes.truncate(usize::try_from(whole(real(length) * at)).unwrap_or(0).min(bytes.len().saturating_sub(1)));
    let parts = stream::unfold(Some(bytes), async |part: Option<Vec<u8>>| {
        if let Some(bytes) = part {
            return Some((Ok(Bytes::from(bytes)), None));
        }
        // What was sent so far must be on its way before the connection is dropped.
        pause().await;
        Some((Err(io::Error::from(io::ErrorKind::ConnectionAborted)), None))
    });
    Body::from_stream(parts)
}

#[expect(clippy::disallowed_methods, reason = "lets the first part of a body out before the connection ends")]
async fn pause() {
    tokio::time::sleep(Duration::from_millis(5)).await;
}
