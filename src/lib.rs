//! Keeps the history of a Cloudflare WARP fleet that Cloudflare itself forgets after 7 days.

pub mod api;
pub mod archive;
pub mod bucket;
pub mod cli;
pub mod clock;
pub mod collect;
pub mod config;
pub mod disk;
pub mod envelope;
pub mod erase;
pub mod flatten;
pub mod health;
pub mod import;
pub mod ingest;
pub mod journal;
pub mod json;
pub mod privacy;
pub mod query;
pub mod report;
pub mod reshard;
pub mod schema;
pub mod shown;
pub mod sim;
pub mod snapshot;
pub mod upgrade;
pub mod verify;
