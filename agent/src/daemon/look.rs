//! A look at an app: what its runtime says, then each check of its health policy.

use std::time::Duration;

use holdfast_core::health::Health;
use holdfast_core::release::{Check, HttpCheck};

use crate::keeper::Look;
use holdfast_drivers::probe;

/// How long one check may take.
const CHECK_LIMIT: Duration = Duration::from_secs(5);

/// Looks at an app. Ends within its limits, whatever the app does.
pub(super) async fn look(look: &Look) -> Health {
    let seen = match tokio::time::timeout(CHECK_LIMIT, look.driver.probe(&look.release)).await {
        Ok(seen) => seen,
        Err(_) => Health::Unhealthy { reason: format!("the runtime did not answer within {CHECK_LIMIT:?}") },
    };
    let checks = &look.policy.health.checks;
    match seen {
        Health::Healthy => {}
        // The checks can tell what the runtime can't.
        Health::Unknown if !checks.is_empty() => {}
        seen => return seen,
    }
    for check in checks {
        if let Err(reason) = run(look, check).await {
            return Health::Unhealthy { reason };
        }
    }
    Health::Healthy
}

async fn run(look: &Look, check: &Check) -> Result<(), String> {
    match check {
        Check::Tcp { address } => probe::tcp(address, CHECK_LIMIT).await,
        Check::Http(HttpCheck::Url { url }) => probe::http(url, CHECK_LIMIT).await,
        Check::Http(check @ HttpCheck::Target { target, .. }) => {
            let address = look.driver.address_of(&look.release, check).await;
            let url = address.ok_or_else(|| format!("{target} has no address that the agent can reach"))?;
            probe::http(&url, CHECK_LIMIT).await
        }
    }
}
