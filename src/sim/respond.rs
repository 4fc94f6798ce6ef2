//! Turns an answer into HTTP: headers and compression.
//!
//! How the body flows is `flow`'s business.

use std::io::{self, Write};

use axum::http::HeaderValue;
use axum::response::Response;
use flate2::Compression;
use flate2::write::GzEncoder;

use super::answer::{Answer, Ending, http_date};
use super::flow::{self, Road, Told};
use super::limit::Verdict;
use crate::clock::Timestamp;

/// Bodies up to this length are not worth compressing.
const PLAIN_MAX: usize = 1_000;

/// What an answer is sent with.
pub(super) struct Sending {
    pub(super) now: Timestamp,
    pub(super) ray: u64,
    pub(super) gzip: bool,
    pub(super) road: Road,
}

pub(super) fn respond(answer: Answer, verdict: &Verdict, sending: Sending) -> Response {
    let limit = verdict.limit;
    let mut response = Response::builder()
        // A reset has no status, and nobody will see this one.
        .status(answer.status.max(200))
        .header("content-type", if answer.html { "text/html; charset=UTF-8" } else { "application/json" })
        .header("date", http_date(sending.now))
        .header("ratelimit", format!("\"default\";r={};t={}", verdict.left, verdict.reset))
        .header("ratelimit-policy", format!("\"default\";q={};w={}", limit.requests, limit.window.as_secs()))
        .header("cf-ray", format!("{:016x}-SIM", sending.ray));
    let is_bomb = matches!(answer.ending, Ending::Bomb { .. });
    let zipped = if sending.gzip && !is_bomb && answer.body.len() > PLAIN_MAX { zip(&answer.body).ok() } else { None };
    // A bomb asks nobody what he accepts.
    if is_bomb || zipped.is_some() {
        response = response.header("content-encoding", "gzip");
    }
    let bytes = zipped.unwrap_or_else(|| answer.body.into_bytes());
    if let Ending::Cut { chunked: false, .. }
    | Ending::Dribble { chunked: false, .. }
    | Ending::Stalled { chunked: false, .. } = answer.ending
    {
        response = response.header("content-length", bytes.len());
    }
    let told = Told { states: answer.states, outcome: answer.outcome };
    let body = flow::body(bytes, answer.ending, sending.road, told);
    let mut response = response.body(body).expect("an answer is made of valid headers");
    for (name, value) in answer.headers {
        // The place a redirect leads to comes from outside; what is no header is not sent.
        if let Ok(value) = HeaderValue::try_from(value) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

fn zip(body: &str) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(body.as_bytes())?;
    encoder.finish()
}
