//! Reads a request: what it asks for, and on whose behalf.
//!
//! It knows no device; whether an account or a device exists is for others to say.

use axum::extract::Query;
use axum::http::{HeaderMap, Method, Uri};

use super::answer::Answer;
use super::server::ServerOptions;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    Live { device: String },
    List,
    Other,
}

/// A request, read.
pub(super) struct Ask {
    pub(super) endpoint: Endpoint,
    pub(super) path: String,
    /// The path and the query, as they came.
    pub(super) target: String,
    pub(super) account: String,
    query: Vec<(String, String)>,
}

impl Ask {
    pub(super) fn read(method: &Method, uri: &Uri) -> Self {
        let path = uri.path();
        let parts: Vec<&str> = path.strip_prefix("/client/v4").unwrap_or(path).split('/').skip(1).collect();
        let (account, endpoint) = match *parts {
            ["accounts", account, "dex", "devices", id, "fleet-status", "live"] => {
                (account, Endpoint::Live { device: id.to_owned() })
            }
            ["accounts", account, "dex", "fleet-status", "devices"] => (account, Endpoint::List),
            _ => ("", Endpoint::Other),
        };
        let endpoint = if method == Method::GET { endpoint } else { Endpoint::Other };
        let query = Query::try_from_uri(uri).map(|Query(pairs)| pairs).unwrap_or_default();
        let target = uri.path_and_query().map_or(path, |target| target.as_str()).to_owned();
        Self { endpoint, path: path.to_owned(), target, account: account.to_owned(), query }
    }

    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// A parameter that is a number within bounds, if it is there.
    pub(super) fn number(&self, name: &str, low: u32, high: u32) -> Result<Option<u32>, Answer> {
        let Some(text) = self.parameter(name) else { return Ok(None) };
        match text.parse() {
            Ok(number) if (low..=high).contains(&number) => Ok(Some(number)),
            _ => Err(Answer::bad_request(&format!("{name} must be a number from {low} to {high}"))),
        }
    }

    /// The page asked for, for the record.
    pub(super) fn page(&self) -> Option<u32> {
        (self.endpoint == Endpoint::List).then(|| self.parameter("page").map_or(Some(1), |p| p.parse().ok())).flatten()
    }
}

/// Whether somebody may ask at all.
pub(super) fn authenticate(headers: &HeaderMap, options: &ServerOptions) -> Result<(), Answer> {
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok()).filter(|value| !value.is_empty());
    let anybody = options.token.is_none() && options.email_key.is_none();
    let known = if let Some(authorization) = header("authorization") {
        let token = authorization.strip_prefix("Bearer ").filter(|t| !t.is_empty() && !t.contains(' '));
        let token = token.ok_or_else(|| malformed(6111, "Invalid format for Authorization header"))?;
        options.token.as_deref() == Some(token)
    } else {
        let pair = header("x-auth-email").zip(header("x-auth-key"));
        let (email, key) = pair.ok_or_else(|| malformed(6103, "Invalid format for X-Auth-Key header"))?;
        options.email_key.as_ref().is_some_and(|(e, k)| e == email && k == key)
    };
    if known || anybody { Ok(()) } else { Err(denied()) }
}

/// A token that is wrong, or that lacks a permission: the API says the same of both.
pub(super) fn denied() -> Answer {
    Answer::failure(403, 10_000, "Authentication error")
}

fn malformed(code: u32, text: &str) -> Answer {
    Answer::failure_because(400, (6003, "Invalid request headers"), (code, text))
}
