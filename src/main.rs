//! The `dex-archive` program.
fn main() {}
