//! How the engine is set up: the same for the process that compiles and for the one that runs, since code
//! compiled under other settings is refused. Never called in the agent's own process.

use wasmtime::{Config, Engine};

/// Room for the guest's own stack. Each request has one.
const GUEST_STACK: usize = 512 << 10;
/// The guest's stack with the host's functions on top of it.
const WHOLE_STACK: usize = 1 << 20;

/// The engine's settings.
///
/// Memory is taken as it is needed, in small reservations: the default (4 GiB of address space for each
/// memory) fails under `ulimit -v`, on boxes with `vm.overcommit_memory = 2`, and on ARM kernels with 39 bits
/// of address space after a hundred requests at once. The price is a bounds check at each access.
pub(super) fn config() -> Config {
    let mut config = Config::new();
    config.epoch_interruption(true);
    config.memory_reservation(16 << 20);
    config.memory_reservation_for_growth(16 << 20);
    config.memory_guard_size(64 << 10);
    config.guard_before_linear_memory(false);
    config.max_wasm_stack(GUEST_STACK);
    config.async_stack_size(WHOLE_STACK);
    config.wasm_component_model(true);
    config.concurrency_support(false);
    config.generate_address_map(false);
    config
}

/// An engine with these settings.
pub(super) fn engine() -> wasmtime::Result<Engine> {
    Engine::new(&config())
}
