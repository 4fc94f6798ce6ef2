//! `simulate`: the simulated API for others to ask, or its fleet's states in a file.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context;

use crate::api::Budget;
use crate::clock::{Clock, Zone};
use crate::config;
use crate::sim::{Faults, Fleet, FleetOptions, HostileOptions, RateLimit, Server, ServerOptions, Shape, dump};

use super::args::SimulateArgs;
use super::{Exit, print, runtime};

/// Time between two states of a device in a dump.
const STEP: Duration = Duration::from_mins(5);

/// Serves a simulated fleet, or writes its states.
pub(super) fn run(command: &SimulateArgs) -> anyhow::Result<Exit> {
    let shape: Shape = command.shape.parse()?;
    let options = FleetOptions { devices: command.devices, seed: command.seed, shape, ..FleetOptions::default() };
    let account = options.account_id.clone();
    let fleet = Fleet::new(options);
    if let (Some(path), Some(ticks)) = (&command.dump, command.ticks) {
        let start = config::parse_time(&command.start, Zone::UTC, Clock::system().now())?;
        let mut file = BufWriter::new(File::create(path).with_context(|| format!("cannot write {}", path.display()))?);
        let states = dump(&fleet, start, ticks, STEP, &mut file)?;
        file.flush()?;
        print::note(&format!("{states} states of {} devices in {}", command.devices, path.display()));
        return Ok(Exit::Done);
    }
    let faults = if command.fault.is_empty() { Faults::none() } else { command.fault.join(",").parse()? };
    let limit = match Budget::parse(&command.rate_limit, "100%")?.limit {
        Some((requests, window)) => RateLimit { requests, window, block: window },
        None => RateLimit::none(),
    };
    let hostile = command.hostile.map(|seed| HostileOptions { seed, ..HostileOptions::default() });
    let options = ServerOptions { limit, faults, hostile, keep_served: false, ..ServerOptions::new(fleet) };
    serve(options, command.port, &account)
}

fn serve(options: ServerOptions, port: u16, account: &str) -> anyhow::Result<Exit> {
    let runtime = runtime()?;
    runtime.block_on(async {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let server = Server::bind(options, Clock::system(), address).await?;
        print::data(format!("CLOUDFLARE_BASE_URL=http://{}\nCLOUDFLARE_ACCOUNT_ID={account}\n", server.local_addr()))?;
        print::note("any token will do; stop with Ctrl-C");
        server.run(async { drop(tokio::signal::ctrl_c().await) }).await?;
        Ok(Exit::Done)
    })
}
