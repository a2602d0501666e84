//! A look at an app: what its runtime says, then each check of its health policy.

use std::time::Duration;

use holdfast_core::health::{Health, Sight};
use holdfast_core::http_check::HttpCheck;
use holdfast_core::metrics::text::PAGE_LIMIT;
use holdfast_core::metrics::{Finding, History, MetricsCheck};
use holdfast_core::release::{Check, ExecCheck};
use holdfast_drivers::{EXEC_PATIENCE, ExecError, request};
use tokio::time::timeout;

use super::metrics_history::Histories;
use super::probe_components;
use crate::keeper::Look;

/// How long one check may take.
pub(super) const CHECK_LIMIT: Duration = Duration::from_secs(5);

/// Looks at an app. Ends within its limits, whatever the app does.
pub(super) async fn look(look: &Look, histories: &Histories) -> Sight {
    let seen = match timeout(CHECK_LIMIT, look.driver.health(&look.release)).await {
        Ok(seen) => seen,
        // That is no verdict about the app: it may be as well as it was.
        Err(_) => {
            tracing::debug!(app = %look.app, "the runtime did not answer within {CHECK_LIMIT:?}");
            Health::Unknown
        }
    };
    let restarts = timeout(CHECK_LIMIT, look.driver.restarts(&look.release)).await.ok().flatten();
    let checks = &look.policy.health.checks;
    let blind = seen == Health::Unknown;
    match seen {
        Health::Healthy => {}
        // The checks can tell what the runtime can't.
        Health::Unknown if !checks.is_empty() => {}
        health => return Sight { health, restarts, remark: None },
    }
    let (mut remarks, mut unsure) = (Vec::new(), None);
    for check in checks {
        match run(look, check, histories).await {
            Ok(remark) => remarks.extend(remark),
            // The runtime is away, and the app may be as well as it was.
            Err(NotWell::Is(Health::Unhealthy { reason })) if blind && asks_the_runtime(check) => {
                unsure.get_or_insert(format!("not checked while its runtime can't be reached: {reason}"));
            }
            Err(NotWell::NoAnswer(why)) => {
                unsure.get_or_insert(format!("not checked: {why}"));
            }
            Err(NotWell::Is(health)) => return Sight { health, restarts, remark: None },
        }
    }
    if unsure.is_some() {
        return Sight { health: Health::Unknown, restarts, remark: unsure };
    }
    let remark = (!remarks.is_empty()).then(|| remarks.join("; "));
    Sight { health: Health::Healthy, restarts, remark }
}

/// Whether a check can't be done without the runtime: to run a program, or to find out where the app is reached.
fn asks_the_runtime(check: &Check) -> bool {
    check.target().is_some()
}

/// What a check found that isn't well.
enum NotWell {
    /// How the app is.
    Is(Health),
    /// The check could not be made, for this reason: that says nothing of the app.
    NoAnswer(String),
}

/// One check: what it could not tell, or what it found.
async fn run(look: &Look, check: &Check, histories: &Histories) -> Result<Option<String>, NotWell> {
    let done = match check {
        Check::Tcp { address } => request::tcp(address, CHECK_LIMIT).await,
        Check::Http(check) => http(look, check).await,
        Check::Exec(check) => return exec(look, check).await.map(|()| None),
        Check::Wasm(check) => probe_components::run(look, check).await,
        Check::Metrics(check) => return metrics(look, check, histories).await.map_err(NotWell::Is),
    };
    done.map(|()| None).map_err(|why| NotWell::Is(unhealthy(why)))
}

fn unhealthy(reason: String) -> Health {
    Health::Unhealthy { reason }
}

async fn http(look: &Look, check: &HttpCheck) -> Result<(), String> {
    request::http(&url_of(look, check).await?, CHECK_LIMIT).await
}

async fn url_of(look: &Look, check: &HttpCheck) -> Result<String, String> {
    match check {
        HttpCheck::Url { url } => Ok(url.clone()),
        HttpCheck::Target { target, port, path } => {
            let address = look.driver.address_of(&look.release, target, *port).await;
            let address =
                address.ok_or_else(|| format!("{target} has no address that the agent can reach"))?;
            Ok(format!("http://{address}{path}"))
        }
    }
}

async fn exec(look: &Look, check: &ExecCheck) -> Result<(), NotWell> {
    // The runtime ends the program; this is for one that doesn't answer.
    let limit = check.timeout + EXEC_PATIENCE + CHECK_LIMIT;
    let ended = timeout(limit, look.driver.exec(&look.release, check)).await;
    let silent = || ExecError::NotRun(format!("the runtime did not answer within {limit:?}"));
    ended.unwrap_or_else(|_| Err(silent())).map_err(|why| match why {
        ExecError::Failed(why) => NotWell::Is(unhealthy(format!("exec in {}: {why}", check.target))),
        ExecError::NotRun(why) => NotWell::NoAnswer(format!("exec in {}: {why}", check.target)),
    })
}

/// Scrapes the page if it is time for that, and judges by its history. What is bad while the app starts is forgiven,
/// and the history begins anew: first requests are slow.
async fn metrics(look: &Look, check: &MetricsCheck, histories: &Histories) -> Result<Option<String>, Health> {
    let mut history = histories.take(&look.app, look.id, check);
    let scraped = match history.is_due(histories.now()) {
        true => scrape(look, &mut history, histories).await,
        false => Ok(()),
    };
    let finding = history.judge();
    if look.is_starting && matches!(finding, Finding::Bad(_)) {
        history.begin_anew();
    }
    histories.put(&look.app, look.id, history);
    scraped.map_err(unhealthy)?;
    match finding {
        Finding::Well => Ok(None),
        Finding::Unclear(why) => Ok(Some(format!("no verdict from metrics: {why}"))),
        Finding::Bad(why) if look.is_starting => Err(Health::Starting { reason: format!("metrics: {why}") }),
        Finding::Bad(why) => Err(unhealthy(format!("metrics: {why}"))),
    }
}

async fn scrape(look: &Look, history: &mut History, histories: &Histories) -> Result<(), String> {
    let url = url_of(look, &history.check().page).await?;
    let page = request::page(&url, PAGE_LIMIT, CHECK_LIMIT).await.map_err(|why| format!("metrics: {why}"))?;
    history.take(&page, histories.now()).map_err(|why| format!("metrics: GET {url}: {why}"))
}
