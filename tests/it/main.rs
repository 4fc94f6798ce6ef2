//! Integration tests: one binary, since each links the whole program again.

mod authority;
mod backfill;
mod care;
mod cli;
mod collect;
mod crash;
mod damage;
mod flatten;
mod hostile;
mod identity;
mod import;
mod kill;
mod layers;
mod operate;
mod privacy;
mod program;
mod refuse;
mod schema;
mod upgrade;
mod walker;
