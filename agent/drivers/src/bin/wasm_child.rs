//! What tests start instead of `holdfast`: the hidden subcommands of the WebAssembly driver.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    match args.next().as_deref().and_then(|name| name.to_str()) {
        Some(holdfast_drivers::wasm::COMPILE_COMMAND) => holdfast_drivers::wasm::compile_main(args),
        Some(holdfast_drivers::wasm::RUN_COMMAND) => holdfast_drivers::wasm::run_main(args),
        Some(holdfast_drivers::wasm::PROBE_COMMAND) => holdfast_drivers::wasm::probe_main(args),
        _ => ExitCode::from(64),
    }
}
