//! `init`: an archive of several shards, before anybody collects.

use anyhow::bail;

use crate::archive::Archive;
use crate::clock::Clock;
use crate::disk::Disk;

use super::args::{Args, InitArgs};
use super::{Exit, print};

/// Makes an archive.
pub(super) fn run(args: &Args, command: &InitArgs) -> anyhow::Result<Exit> {
    let (place, file) = args.config()?;
    let root = place.root().display();
    if Archive::find(&place)?.is_some() {
        bail!("{root} is an archive already: `reshard` gives it another number of shards");
    }
    let disk = Disk::new(file.archive.readable_by);
    let archive = Archive::open_or_create(&place, command.shards, Clock::system().now(), disk)?;
    if archive.shards() != command.shards {
        bail!("somebody else has just made {root}, with {} shards", archive.shards());
    }
    if !args.quiet {
        print::note(&format!("{root} is an archive of {} shards", archive.shards()));
    }
    Ok(Exit::Done)
}
