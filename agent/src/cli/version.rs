//! `holdfast version`: which build this is.

use super::output::{print, print_json};
use super::{Common, Exit};

pub(super) fn run(common: &Common) -> anyhow::Result<Exit> {
    let version = env!("CARGO_PKG_VERSION");
    let target = format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS);
    let static_libc = cfg!(target_env = "musl");
    let features = features();
    if common.json {
        print_json(&serde_json::json!({
            "version": version, "target": target, "static": static_libc, "features": features
        }))?;
    } else {
        let linked = if static_libc { "static" } else { "dynamic" };
        print(&format!("holdfast {version} ({target}, {linked}; built with {})", features.join(", ")));
    }
    Ok(Exit::Done)
}

fn features() -> Vec<&'static str> {
    let known = [
        ("wasm", cfg!(feature = "wasm")),
        ("podman", cfg!(feature = "podman")),
        ("kubernetes", cfg!(feature = "kubernetes")),
        ("demo", cfg!(feature = "demo")),
        ("faults", cfg!(feature = "faults")),
    ];
    known.into_iter().filter_map(|(name, built_in)| built_in.then_some(name)).collect()
}
