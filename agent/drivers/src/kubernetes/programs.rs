//! Programs that checks run in containers: by a websocket to the API server, which passes it on to the kubelet.

use std::time::Duration;

use holdfast_core::release::{ExecCheck, Release};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::Api;
use kube::api::{AttachParams, AttachedProcess};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::KubernetesDriver;
use super::api::whole;
use super::pods;
use super::status::fields::clipped;
use crate::{EXEC_PATIENCE, ExecError};

/// How much of what a program says is kept of each stream, in bytes: its end.
const KEPT: usize = 4096;

impl KubernetesDriver {
    /// Runs a check's program in a container of the workload, as the app's account if it has one.
    pub(super) async fn run_in(&self, release: &Release, check: &ExecCheck) -> Result<(), ExecError> {
        let (_, all) = self.pods_at(release, &check.target).await.ok_or_else(|| {
            ExecError::NotRun(format!("{} does not exist, or its pods can't be listed", check.target))
        })?;
        let pod = pods::pod_for_exec(&all, check.container.as_deref())
            .ok_or_else(|| ExecError::Failed(no_pod(check)))?;
        let text = |path: &str| pod.pointer(path).and_then(Value::as_str).unwrap_or_default();
        let (namespace, name) = (text("/metadata/namespace"), text("/metadata/name"));
        let first = || pods::container_names(pod).first().map(|name| (*name).to_owned());
        let params = AttachParams {
            container: check.container.clone().or_else(first),
            stdin: false,
            stdout: true,
            stderr: true,
            tty: false,
            ..AttachParams::default()
        };
        let connection = &self.api.connection;
        let client = match &release.account {
            Some(account) => connection.client_as(account).await,
            None => connection.client().await,
        };
        let not_run =
            |why: String| ExecError::NotRun(format!("{}: {why}", clipped(&check.command.join(" "))));
        let pods = Api::<Pod>::namespaced(client.map_err(|error| not_run(error.to_string()))?, namespace);
        // The API server and the kubelet take their own time until the program is started.
        let started = tokio::time::timeout(EXEC_PATIENCE, pods.exec(name, &check.command, &params)).await;
        let process = match started {
            Ok(Ok(process)) => process,
            Ok(Err(error)) => return Err(not_run(refused(&error))),
            Err(_) => {
                return Err(not_run(format!("the API server did not start it within {EXEC_PATIENCE:?}")));
            }
        };
        let words = clipped(&check.command.join(" "));
        match tokio::time::timeout(check.timeout, end(process)).await {
            Ok(Ok(ended)) => ended.judged(&words),
            Ok(Err(why)) => Err(not_run(why)),
            Err(_) => Err(ExecError::Failed(not_ended(&words, check.timeout))),
        }
    }
}

fn no_pod(check: &ExecCheck) -> String {
    match &check.container {
        Some(container) => format!("{} has no pod with a running container {container}", check.target),
        None => format!("{} has no running pod", check.target),
    }
}

/// Kubernetes has no call that ends a program.
fn not_ended(words: &str, limit: Duration) -> String {
    format!("{words} did not end within {limit:?}")
}

/// How a program ended.
struct Ended {
    status: Status,
    /// The last of what it wrote, errors before all else.
    last_word: Option<String>,
}

impl Ended {
    fn judged(&self, words: &str) -> Result<(), ExecError> {
        if self.status.status.as_deref() == Some("Success") {
            return Ok(());
        }
        let causes = self.status.details.iter().flat_map(|details| details.causes.iter().flatten());
        let mut codes = causes.filter(|cause| cause.reason.as_deref() == Some("ExitCode"));
        // Without a code it never ran.
        let Some(code) = codes.find_map(|cause| cause.message.as_deref()) else {
            let why = clipped(self.status.message.as_deref().unwrap_or("failed"));
            return Err(ExecError::NotRun(format!("{words}: {why}")));
        };
        let ending = format!("{words} exited with code {}", clipped(code));
        Err(ExecError::Failed(match &self.last_word {
            Some(word) => format!("{ending}: {word}"),
            None => ending,
        }))
    }
}

/// Waits for the end of a program. All that it writes is read, as it waits for that.
async fn end(mut process: AttachedProcess) -> Result<Ended, String> {
    let (out, err) = (process.stdout(), process.stderr());
    let status = process.take_status();
    let status = async {
        match status {
            Some(status) => status.await.ok_or(()),
            None => Err(()),
        }
    };
    // With a status both streams end; a connection that breaks off leaves them open.
    let read = async { Ok(tokio::join!(end_of(out), end_of(err))) };
    match tokio::try_join!(status, read) {
        Ok((status, (out, err))) => {
            Ok(Ended { status, last_word: last_line(&err).or_else(|| last_line(&out)) })
        }
        Err(()) => Err(broken_off(process).await),
    }
}

async fn broken_off(process: AttachedProcess) -> String {
    match process.join().await {
        Ok(()) => "the connection was lost before the program ended".to_owned(),
        Err(error) => format!("the connection was lost before the program ended: {}", whole(&error)),
    }
}

/// Why it isn't run, in the server's words if it has some.
fn refused(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => clipped(&status.message),
        other => clipped(&whole(other)),
    }
}

/// The end of what comes, read until nothing more does.
async fn end_of(stream: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let Some(mut stream) = stream else { return Vec::new() };
    let (mut end, mut part) = (Vec::new(), [0; KEPT]);
    while let Ok(count @ 1..) = stream.read(&mut part).await {
        end.extend_from_slice(&part[..count]);
        end.drain(..end.len().saturating_sub(KEPT));
    }
    end
}

/// The last line that says something.
fn last_line(text: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(text);
    text.lines().rev().map(clipped).find(|line| !line.is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn judged(status: Value, last_word: Option<&str>) -> Result<(), ExecError> {
        let status = serde_json::from_value(status).unwrap();
        Ended { status, last_word: last_word.map(str::to_owned) }.judged("/bin/ask")
    }

    #[test]
    fn a_program_is_judged_by_its_code_and_its_last_word_tells_why() {
        assert_eq!(judged(json!({ "status": "Success" }), Some("a warning")), Ok(()));
        let code = json!({ "status": "Failure", "reason": "NonZeroExitCode", "message": "long words",
            "details": { "causes": [{ "reason": "ExitCode", "message": "7" }] } });
        let failed = |why: &str| Err(ExecError::Failed(why.to_owned()));
        assert_eq!(judged(code.clone(), None), failed("/bin/ask exited with code 7"));
        assert_eq!(judged(code, Some("no paper")), failed("/bin/ask exited with code 7: no paper"));
        let absent = json!({ "status": "Failure", "message": "no such\nfile" });
        let not_run = |why: &str| Err(ExecError::NotRun(why.to_owned()));
        assert_eq!(judged(absent, None), not_run("/bin/ask: no such file"));
        assert_eq!(judged(json!({}), None), not_run("/bin/ask: failed"));
    }

    #[test]
    fn the_last_line_is_the_last_that_says_something() {
        assert_eq!(last_line(b"one\ntwo\r\n\n \n").as_deref(), Some("two"));
        assert_eq!(last_line(b"\xff\x1b[1mtwo").as_deref(), Some("\u{fffd} [1mtwo"));
        assert_eq!(last_line(b" \n"), None);
    }

    #[tokio::test]
    async fn of_what_is_said_the_end_is_kept() {
        let said = [vec![b'x'; 3 * KEPT], b"\nend".to_vec()].concat();
        let end = end_of(Some(&said[..])).await;
        assert_eq!((end.len(), last_line(&end).as_deref()), (KEPT, Some("end")));
    }
}
