//! A simulated fleet and the API server in front of it: a witness that owes the program nothing.
//!
//! Tests, `simulate` and `demo` read it as they would read Cloudflare. It shares only the clock with
//! the program: no reading of bodies, no schema and no client of the program is used here, so that a
//! mistake made there cannot hide here. It keeps no state of the fleet (every body is computed from
//! seed, device and time), and it imitates only the two endpoints that show device states.

mod answer;
mod body;
mod bomb;
mod device;
mod dice;
mod dump;
mod facts;
mod fault;
mod fleet;
mod flow;
mod hostile;
mod json;
mod limit;
mod list;
mod record;
mod respond;
mod route;
mod schedule;
mod server;
mod shape;
#[cfg(test)]
mod tests;
mod weather;
mod wire;

use std::io;
use std::net::SocketAddr;

pub use dump::dump;
pub use fault::{FaultKind, Faults};
pub use fleet::{Fleet, FleetOptions};
pub use limit::RateLimit;
pub use record::Served;
pub use server::{Handle, Server, ServerOptions};
pub use shape::Shape;
pub use weather::{HostileOptions, Script, Weather};

/// What can go wrong in the simulator itself; what it does wrong on purpose is no error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SimError {
    /// The address is taken, or not ours.
    #[error("cannot listen on {addr}: {error}")]
    Bind {
        /// The address that was asked for.
        addr: SocketAddr,
        /// Why not.
        error: io::Error,
    },
    /// The listening socket broke.
    #[error("the simulated server stopped: {0}")]
    Serve(io::Error),
    /// A fault that is not written `KIND=PERCENT`, or is none of the kinds.
    #[error("`{text}` is no fault: {reason}")]
    Fault {
        /// What was written.
        text: String,
        /// What is wrong with it.
        reason: std::borrow::Cow<'static, str>,
    },
    /// A shape of bodies that is none of the three.
    #[error("`{0}` is no shape: say current, legacy or mixed")]
    Shape(String),
}
