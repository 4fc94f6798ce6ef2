//! The command line: arguments in, words and exit codes out.
//!
//! Data goes to stdout, everything else to stderr. Only `print` writes to either, so that foreign text
//! is escaped in one place.

mod args;
mod backfill;
mod collect;
mod connect;
mod demo;
mod erase;
mod exit;
mod heal;
mod health;
mod import;
mod init;
mod metrics;
mod print;
mod progress;
mod query;
mod report;
mod rewrite;
mod schema;
mod service;
mod signals;
mod simulate;
mod summary;
mod supervise;
mod take;
mod verify;

use anyhow::Context;
use args::{Args, Command};

pub use exit::Exit;

/// Runs the program with the process's arguments.
#[must_use]
pub fn run() -> Exit {
    keep_freed_memory();
    let args = match Args::read() {
        Ok(args) => args,
        Err(error) => {
            // Where even that cannot be printed, the exit code says enough.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Done };
        }
    };
    args.start_log();
    let ended = match args.command {
        Command::Init(ref command) => init::run(&args, command),
        Command::Collect(ref command) => collect::run(&args, command),
        Command::Backfill(ref command) => backfill::run(&args, command),
        Command::Import(ref command) => import::run(&args, command),
        Command::Query(ref command) => query::run(&args, command),
        Command::Report(ref command) => report::run(&args, command),
        Command::Status(ref command) => health::status(&args, command),
        Command::Doctor(ref command) => health::doctor(&args, command),
        Command::Schema(ref command) => schema::run(&args, command),
        Command::Verify(ref command) => verify::run(&args, command),
        Command::Prune(ref command) => erase::prune(&args, command),
        Command::Forget(ref command) => erase::forget(&args, command),
        Command::Reshard(ref command) => rewrite::reshard(&args, command),
        Command::Upgrade(ref command) => rewrite::upgrade(&args, command),
        Command::Simulate(ref command) => simulate::run(command),
        Command::Demo(ref command) => demo::run(&args, command),
        Command::Service(ref command) => service::run(&args, command),
        Command::Completions(ref command) => service::completions(command),
        Command::Man => service::man(),
    };
    ended.unwrap_or_else(|error| {
        if print::is_closed_pipe(&error) {
            return Exit::Done;
        }
        print::error(&format_args!("{error:#}"));
        Exit::of_error(&error)
    })
}

/// Has the C library of most Linux systems keep memory that is freed, and not give it back at once: a merge frees and
/// takes a few megabytes over and over, a query some hundred kilobytes for each day. It raises its limits to the
/// largest block that it saw freed.
fn keep_freed_memory() {
    drop(std::hint::black_box(Vec::<u8>::with_capacity(31 << 20)));
}

/// Where async work runs.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")
}

/// A number for the name of a sweep: sweeps of one second have other numbers, collectors of one second
/// other processes.
fn sweep_number(number: u64) -> u16 {
    u16::try_from((number ^ u64::from(std::process::id())) & 0xffff).unwrap_or(0)
}
