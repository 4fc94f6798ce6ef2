//! Keeps the history of a Cloudflare WARP fleet that Cloudflare itself forgets after 7 days.

pub mod clock;
pub mod envelope;
pub mod flatten;
pub mod json;
pub mod schema;
pub mod snapshot;
