//! Integration tests: one binary, since each links the whole program again.

mod cli;
mod collect;
mod layers;
mod program;
