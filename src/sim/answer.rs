//! Answers before they become HTTP: status, body, and what of it a reader may count on.
//!
//! The texts and codes are those that Cloudflare's API has been seen to send.

use super::body::quoted;
use crate::clock::Timestamp;

/// How the answer goes over the wire.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Ending {
    Whole,
    /// Cut short at a fraction of the body, politely or with a reset of the connection.
    Cut {
        chunked: bool,
        at: f64,
        torn: bool,
    },
    /// Nothing is sent at all.
    Reset,
    /// A few bytes at a time, but all of them in the end.
    Dribble {
        chunked: bool,
        pause_ms: u64,
    },
    /// Nothing after a fraction of the body, and no end either.
    Stalled {
        chunked: bool,
        at: f64,
    },
    /// A beginning, and then the same text for ever.
    Endless(&'static (&'static str, &'static str)),
    /// Little gzip that holds much of one byte.
    Bomb {
        fill: u8,
    },
}

/// One answer.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) html: bool,
    pub(super) body: String,
    /// The device states in the body.
    pub(super) states: Vec<String>,
    pub(super) outcome: &'static str,
    /// Headers that others do not have, or that take the place of those they have.
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) delay_ms: u64,
    pub(super) ending: Ending,
}

impl Answer {
    pub(super) fn json(status: u16, body: String, outcome: &'static str) -> Self {
        Self {
            status,
            html: false,
            body,
            states: Vec::new(),
            outcome,
            headers: Vec::new(),
            delay_ms: 0,
            ending: Ending::Whole,
        }
    }

    pub(super) fn failure(status: u16, code: u32, message: &str) -> Self {
        Self::json(status, failure_body(code, message, ""), "failed")
    }

    /// A failure whose cause has a code of its own.
    pub(super) fn failure_because(status: u16, (code, message): (u32, &str), (cause, text): (u32, &str)) -> Self {
        let chain = format!(",\"error_chain\":[{{\"code\":{cause},\"message\":{}}}]", quoted(text));
        Self::json(status, failure_body(code, message, &chain), "failed")
    }

    /// A query that the API refuses.
    pub(super) fn bad_request(message: &str) -> Self {
        Self::failure(400, 10_001, message)
    }

    /// Too many requests, with whole seconds to wait.
    pub(super) fn too_many(retry_after: u64) -> Self {
        Self::throttled().header("retry-after", retry_after.to_string())
    }

    /// Too many requests, without a word on when to come back.
    pub(super) fn throttled() -> Self {
        Self::failure(429, 971, "Please wait and consider throttling your request speed")
    }

    /// What the edge, rather than the API, answers.
    pub(super) fn page_of_html(status: u16) -> Self {
        let title = if status == 200 { "Just a moment...".to_owned() } else { format!("{status}: Error") };
        let body = format!(
            "<!DOCTYPE html>\n<html><head><title>api.cloudflare.com | {title}</title></head>\n\
             <body><h1>{title}</h1><p>Cloudflare Ray ID in the headers.</p></body></html>\n"
        );
        Self { html: true, ..Self::json(status, body, "failed") }
    }

    /// A device state, with or without its envelope.
    pub(super) fn state(text: String, bare: bool) -> Self {
        let body = if bare { text.clone() } else { envelope(&text) };
        Self { states: vec![text], ..Self::json(200, body, "state") }
    }

    /// No state: one of the three ways in which that may be said.
    pub(super) fn absent(way: u64) -> Self {
        match way {
            0 => {
                let message = "no device state found in the requested time range";
                Self { outcome: "absent", ..Self::failure(404, 10_404, message) }
            }
            1 => Self::json(200, envelope("null"), "absent"),
            _ => Self::json(200, "{}".to_owned(), "absent"),
        }
    }

    /// A page of device states.
    pub(super) fn page(states: Vec<String>, page: u32, per_page: u32, total: usize) -> Self {
        let pages = total.div_ceil(per_page as usize);
        let (count, rows) = (states.len(), states.join(","));
        let body = format!(
            "{{\"success\":true,\"errors\":[],\"messages\":[],\"result\":[{rows}],\"result_info\":{{\"count\":{count},\
             \"page\":{page},\"per_page\":{per_page},\"total_count\":{total},\"total_pages\":{pages}}}}}"
        );
        let outcome = if states.is_empty() { "absent" } else { "state" };
        Self { states, ..Self::json(200, body, outcome) }
    }

    /// This answer, with one header more.
    pub(super) fn header(mut self, name: &'static str, value: String) -> Self {
        self.headers.push((name, value));
        self
    }

    /// This answer, but not sent whole.
    pub(super) fn ending(self, ending: Ending) -> Self {
        let status = if ending == Ending::Reset { 0 } else { self.status };
        Self { ending, status, states: Vec::new(), outcome: "failed", ..self }
    }
}

/// A time as HTTP headers have it, cut to the second.
pub(super) fn http_date(at: Timestamp) -> String {
    at.format("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

/// A result in the envelope of the API.
pub(super) fn envelope(result: &str) -> String {
    format!("{{\"success\":true,\"errors\":[],\"messages\":[],\"result\":{result}}}")
}

fn failure_body(code: u32, message: &str, chain: &str) -> String {
    format!(
        "{{\"success\":false,\"errors\":[{{\"code\":{code},\"message\":{}{chain}}}],\"messages\":[],\"result\":null}}",
        quoted(message)
    )
}
