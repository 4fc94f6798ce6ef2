//! Integration tests: one binary, since each links the whole program again.

mod cli;
mod collect;
mod crash;
mod flatten;
mod hostile;
mod layers;
mod privacy;
mod program;
mod schema;
mod walker;
