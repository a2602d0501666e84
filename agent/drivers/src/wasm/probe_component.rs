//! Probe components: programs of an app that say whether it is healthy. Each run is a process of its own, as a
//! workload's is, which ends with its verdict and leaves nothing behind.

use std::net::SocketAddr;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use holdfast_core::digest::Digest;
use holdfast_core::name::AppName;
use holdfast_core::probe_component::{APP_VARIABLE, TARGET_VARIABLE, WasmCheck};
use holdfast_core::release::{EnvValue, Restart, WasmLimits, WasmWorkload};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::WasmDriver;
use super::protocol::{Because, LONGEST_LINE, ProbeOrder, ProbeReport, line};
use crate::DriverError;

/// What a process gets beyond the probe's own time to start, load the code, and report.
const START_LIMIT: Duration = Duration::from_secs(10);
/// A report is short.
const LONGEST_REPORT: u64 = 64 << 10;
/// What is kept of what the process itself says before it dies, in bytes.
const LAST_WORDS: u64 = 500;

/// Why there is no verdict.
enum NoVerdict {
    /// The engine doesn't take the compiled code: compile it again.
    Stale(String),
    /// The probe isn't well, or couldn't be asked.
    Bad(String),
}

impl WasmDriver {
    pub(super) async fn compile_probe(&self, check: &WasmCheck<Digest>) -> Result<(), DriverError> {
        self.cache.ensure(&as_workload(check)).await.map(|_| ())
    }

    /// Runs a probe to its end.
    pub(super) async fn ask_probe(
        &self,
        app: &AppName,
        check: &WasmCheck<Digest>,
        target: Option<SocketAddr>,
    ) -> Result<(), String> {
        // Its time counts from here: others don't use it up.
        let Ok(_turn) = self.probes.acquire().await else {
            return Err("the agent stops".to_owned());
        };
        let mut workload = as_workload(check);
        let told =
            [(APP_VARIABLE, Some(app.to_string())), (TARGET_VARIABLE, target.map(|at| at.to_string()))];
        for (name, value) in told {
            workload.env.extend(value.map(|value| (name.to_owned(), EnvValue::Plain(value))));
        }
        let again = match self.ask_once(app, &workload, check.timeout, target).await {
            Err(NoVerdict::Stale(why)) => {
                tracing::info!(%app, "compiling again, because the engine doesn't accept the compiled code: {why}");
                self.cache.forget(&workload);
                self.ask_once(app, &workload, check.timeout, target).await
            }
            other => other,
        };
        again.map_err(|why| match why {
            NoVerdict::Bad(why) => why,
            NoVerdict::Stale(why) => format!("cannot load what was just compiled: {why}"),
        })
    }

    async fn ask_once(
        &self,
        app: &AppName,
        workload: &WasmWorkload<Digest>,
        limit: Duration,
        target: Option<SocketAddr>,
    ) -> Result<(), NoVerdict> {
        let code = self.cache.ensure(workload).await.map_err(|why| NoVerdict::Bad(why.to_string()))?;
        let user = self.config.user.user().map_err(NoVerdict::Bad)?;
        let order = line(&ProbeOrder { code, workload: workload.clone(), limit, target, user });
        if order.len() > LONGEST_LINE {
            let what = format!("its arguments and environment are longer than {LONGEST_LINE} bytes");
            return Err(NoVerdict::Bad(what));
        }
        let program = &self.config.program;
        let mut child = Command::new(program)
            .arg(super::PROBE_COMMAND)
            .arg(app.as_str())
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| NoVerdict::Bad(format!("cannot start {}: {e}", program.display())))?;
        match timeout(limit + START_LIMIT, talk(&mut child, &order)).await {
            Ok(Ok((report, status, words))) => judge(&report, status, &words),
            Ok(Err(e)) => Err(NoVerdict::Bad(format!("cannot talk to its process: {e}"))),
            Err(_) => {
                // It is killed, and collected. One that waits for a broken disk ends when it can.
                let _ = timeout(START_LIMIT, child.kill()).await;
                Err(NoVerdict::Bad(format!("did not end within {limit:?}, and was killed")))
            }
        }
    }
}

/// Gives the order, and takes in all that the process says until its end.
async fn talk(child: &mut Child, order: &str) -> std::io::Result<(Vec<u8>, ExitStatus, Vec<u8>)> {
    let (mut report, mut words) = (Vec::new(), Vec::new());
    if let Some(mut input) = child.stdin.take() {
        // A process that has ended is seen by its silence.
        let _ = input.write_all(order.as_bytes()).await;
    }
    if let (Some(output), Some(error)) = (child.stdout.take(), child.stderr.take()) {
        let (mut output, mut error) = (output.take(LONGEST_REPORT), error.take(LAST_WORDS));
        tokio::try_join!(output.read_to_end(&mut report), error.read_to_end(&mut words))?;
    }
    Ok((report, child.wait().await?, words))
}

fn judge(report: &[u8], status: ExitStatus, words: &[u8]) -> Result<(), NoVerdict> {
    match serde_json::from_slice(report) {
        Ok(ProbeReport::Well) => Ok(()),
        Ok(ProbeReport::Ill { what }) => Err(NoVerdict::Bad(what)),
        Ok(ProbeReport::NotRun { because: Because::Code, what }) => Err(NoVerdict::Stale(what)),
        Ok(ProbeReport::NotRun { what, .. }) => Err(NoVerdict::Bad(format!("cannot run: {what}"))),
        Err(_) => {
            let words = String::from_utf8_lossy(words).trim().replace(char::is_control, " ");
            Err(NoVerdict::Bad(format!("its process ended without a result ({status}) {words}")))
        }
    }
}

/// The probe as a command that runs once.
fn as_workload(check: &WasmCheck<Digest>) -> WasmWorkload<Digest> {
    let plain = |(name, value): (&String, &String)| (name.clone(), EnvValue::Plain(value.clone()));
    WasmWorkload {
        component: check.component,
        args: check.args.clone(),
        env: check.env.iter().map(plain).collect(),
        http: None,
        dirs: Vec::new(),
        limits: WasmLimits { memory: check.memory, cpu_millis: None },
        restart: Restart::Never,
    }
}
