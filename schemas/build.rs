//! Makes JSON of the tables of columns when the program is built: each start reads them, and reads JSON ten times as fast.
//! What they mean is not known here.

#![expect(clippy::disallowed_methods, reason = "no file of an archive")]

use std::error::Error;
use std::path::Path;
use std::{env, fs};

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
    Ok(())
}
