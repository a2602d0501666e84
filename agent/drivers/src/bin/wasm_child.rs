//! What tests start in the place of `holdfast`: the hidden subcommands of the WebAssembly driver.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    match args.next().as_deref().and_then(|name| name.to_str()) {
        Some("wasm-compile") => holdfast_drivers::wasm::compile_main(args),
        Some("wasm-run") => holdfast_drivers::wasm::run_main(args),
        Some("wasm-probe") => holdfast_drivers::wasm::probe_main(args),
        _ => ExitCode::from(64),
    }
}
