//! The `dex-archive` program: outcomes to exit codes, and nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(dex_archive::cli::run().code())
}
