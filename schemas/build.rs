//! Makes JSON of the tables of columns when the program is built: each start reads them, and reads JSON ten times as fast.
//! What they mean is not known here. And has the program linked so that it starts fast, where that can be had.

#![expect(clippy::disallowed_methods, reason = "no file of an archive")]

use std::error::Error;
use std::path::Path;
use std::process::Command;
use std::{env, fs};

/// Set where the program is to run with an older C library than this machine has.
const PORTABLE: &str = "DEX_ARCHIVE_PORTABLE";

fn main() -> Result<(), Box<dyn Error>> {
    let (root, out) = (env::var("CARGO_MANIFEST_DIR")?, env::var("OUT_DIR")?);
    for name in ["device_state", "poll"] {
        let table = Path::new(&root).join("schemas").join(name).with_extension("toml");
        println!("cargo::rerun-if-changed={}", table.display());
        let text = fs::read_to_string(&table).map_err(|error| format!("{}: {error}", table.display()))?;
        let table =
            toml::from_str::<serde_json::Value>(&text).map_err(|error| format!("{}: {error}", table.display()))?;
        fs::write(Path::new(&out).join(name).with_extension("json"), table.to_string())?;
    }
    println!("cargo::rerun-if-env-changed={PORTABLE}");
    let is_known = env::var("TARGET")? == "x86_64-unknown-linux-gnu" && env::var_os(PORTABLE).is_none();
    if is_known && reads_packed_relocations() {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
    Ok(())
}

/// Whether the C library of this machine, where the program is mostly run, can move a program to its place in memory by
/// a packed list: it takes half a millisecond less, a tenth of a question about one device. Elsewhere the program would
/// not start.
fn reads_packed_relocations() -> bool {
    let said = Command::new("getconf").arg("GNU_LIBC_VERSION").output();
    let said = said.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let version = said.trim().strip_prefix("glibc ").and_then(|version| version.split_once('.'));
    version.and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?))) >= Some((2_u32, 36_u32))
}
