//! Answers before they become HTTP: status, body, and what of it a reader may count on.
//!
//! The texts and codes are those that Cloudflare's API has been seen to send.

use std::time::Duration;

use super::body::quoted;

/// How the answer goes over the wire.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Ending {
    Whole,
    /// Cut short at a fraction of the body.
    Cut {
        chunked: bool,
        at: f64,
    },
    /// Nothing is sent at all.
    Reset,
}

/// One answer.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) html: bool,
    pub(super) body: String,
    /// The device states in the body.
    pub(super) states: Vec<String>,
    pub(super) outcome: &'static str,
    pub(super) retry_after: Option<u64>,
    pub(super) delay: Duration,
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
            retry_after: None,
            delay: Duration::ZERO,
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

    pub(super) fn too_many(retry_after: u64) -> Self {
        let message = "Please wait and consider throttling your request speed";
        Self { retry_after: Some(retry_after), ..Self::failure(429, 971, message) }
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

    /// The same answer, but for how it is sent.
    pub(super) fn ending(self, ending: Ending) -> Self {
        let status = if ending == Ending::Reset { 0 } else { self.status };
        Self { ending, status, states: Vec::new(), outcome: "failed", ..self }
    }
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
