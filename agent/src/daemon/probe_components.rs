//! Health checks by probe components: staged before anything is stopped, and run while an app is judged.

use std::net::SocketAddr;

use holdfast_core::digest::Digest;
use holdfast_core::probe_component::{TargetPort, WasmCheck};
use holdfast_core::release::Check;
use holdfast_drivers::{CALL_LIMIT, DriverError, NO_ENGINE};
use tokio::time::timeout;

use super::look::CHECK_LIMIT;
use crate::keeper::{Look, Preparation};

/// Stages the probes that a release will be judged by. One that can't be run is no fault of the release, which may
/// come again with a better one: it waits, and what ran before runs on.
pub(super) async fn prepare(todo: &Preparation) -> Result<(), DriverError> {
    for check in &todo.policy.health.checks {
        let Check::Wasm(check) = check else { continue };
        let staged = match &todo.prober {
            Some(prober) => prober.prepare_probe_component(check).await,
            None => Err(DriverError::Runtime(NO_ENGINE.to_owned())),
        };
        staged.map_err(|why| {
            let cause = format!("the probe {}: {why}", check.name);
            match why.trouble() {
                Some(trouble) => DriverError::Disk { cause, trouble },
                None => DriverError::Runtime(cause),
            }
        })?;
    }
    Ok(())
}

/// Runs a probe once. Ends within the check's limits, whatever the probe does.
pub(super) async fn run(look: &Look, check: &WasmCheck<Digest>) -> Result<(), String> {
    let done = async {
        let prober = look.prober.as_ref().ok_or(NO_ENGINE)?;
        let target = match &check.target {
            Some(target) => Some(address_of(look, target).await?),
            None => None,
        };
        // The runtime ends the probe; this is for one that doesn't answer.
        let limit = check.timeout + CALL_LIMIT;
        let ended = timeout(limit, prober.run_probe_component(&look.app, check, target)).await;
        ended.unwrap_or_else(|_| Err(format!("the runtime did not answer within {limit:?}")))
    };
    done.await.map_err(|why| format!("probe {}: {why}", check.name))
}

/// Where the target is reached, by the word of its runtime.
async fn address_of(look: &Look, target: &TargetPort) -> Result<SocketAddr, String> {
    let TargetPort { object, port } = target;
    let asked = timeout(CHECK_LIMIT, look.driver.address_of(&look.release, object, *port)).await;
    let address = asked.map_err(|_| format!("the runtime did not answer within {CHECK_LIMIT:?}"))?;
    address.ok_or_else(|| format!("port {port} of {object} has no address that the agent can reach"))
}
