//! The program as a process, and a simulated API for it to ask.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use dex_archive::clock::Clock;
use dex_archive::collect::Progress;
use dex_archive::sim::{Fleet, FleetOptions, Handle, RateLimit, Server, ServerOptions};

pub(crate) const ACCOUNT: &str = "01a7362d577a6c3019a474fd6f485823";

/// A simulated API that answers for as long as it lives.
pub(crate) struct Api {
    pub(crate) url: String,
    pub(crate) handle: Handle,
    _runtime: tokio::runtime::Runtime,
}

impl Api {
    /// A fleet that reports every so often, behind a server without a limit, changed by `change`.
    pub(crate) fn start(
        devices: u32,
        report_every: Duration,
        change: impl FnOnce(ServerOptions) -> ServerOptions,
    ) -> Self {
        let fleet = Fleet::new(FleetOptions { devices, report_every, ..FleetOptions::default() });
        let options = ServerOptions { limit: RateLimit::none(), ..ServerOptions::new(fleet) };
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let server = runtime.block_on(Server::bind(change(options), Clock::system(), address)).expect("a free port");
        let (url, handle) = (format!("http://{}", server.local_addr()), server.handle());
        runtime.spawn(server.run(std::future::pending()));
        Self { url, handle, _runtime: runtime }
    }

    /// The program, told to ask this API for an archive as fast as it can.
    pub(crate) fn collect(&self, archive: &Path) -> Command {
        self.collect_at(archive, "none")
    }

    /// The same, told of a rate limit.
    pub(crate) fn collect_at(&self, archive: &Path, limit: &str) -> Command {
        let mut command = program();
        command.arg("--archive").arg(archive).args(["collect", "--account", ACCOUNT, "--api-url", &self.url]);
        command.args(["--rate-limit", limit, "--retry-delay", "10ms"]);
        command.env("CLOUDFLARE_API_TOKEN", "Sn3lZJTBX6kkg7OdcBUAxOO963GEIyGQqnFTOFYY");
        command
    }
}

/// The program, without the environment's say.
pub(crate) fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dex-archive"));
    for name in [
        "CLOUDFLARE_API_TOKEN",
        "CLOUDFLARE_EMAIL",
        "CLOUDFLARE_API_KEY",
        "CLOUDFLARE_ACCOUNT_ID",
        "CLOUDFLARE_BASE_URL",
        "DEX_ARCHIVE_DIR",
        "DEX_ARCHIVE_CONFIG",
        "DEX_ARCHIVE_PRIVACY_KEY",
    ] {
        command.env_remove(name);
    }
    command
}

/// Runs a command: its exit code, and what it said on stderr.
pub(crate) fn run(command: &mut Command) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = command.output().expect("the program starts");
    (status.code(), String::from_utf8_lossy(&stderr).into_owned())
}

/// A folder of a test's own, and an archive's place in it.
pub(crate) fn place() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a folder");
    let archive = dir.path().join("archive");
    (dir, archive)
}

/// A folder in memory where there is such a place: for tests that sync thousands of times and look at
/// what was synced themselves.
pub(crate) fn quick_dir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_none| tempfile::tempdir()).expect("a folder")
}

/// Keeps a figure for the end of `tests/run`, which shows it, and for the README.
#[expect(clippy::disallowed_methods, reason = "no file of an archive")]
pub(crate) fn figure(name: &str, figure: &str) {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("figures");
    std::fs::create_dir_all(&dir).expect("a folder");
    std::fs::write(dir.join(name), format!("{name}: {figure}\n")).expect("room on the disk");
}

/// Nobody is told how far a sweep is.
pub(crate) struct Silent;

impl Progress for Silent {
    fn plan(&self, _line: &str) {}
    fn start(&self, _what: &'static str, _requests: Option<u64>) {}
    fn advance(&self, _requests: u64) {}
    fn finish(&self) {}
}
