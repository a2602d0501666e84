//! Hooks: what is done after a container's start and before its stop, as the kubelet does it.

use std::time::Duration;

use holdfast_core::pod::{Container, Hook, HttpGet, Network, PinnedImage, Pod};
use tokio::time::{Instant, sleep, timeout_at};

use super::api::{Api, Inspected};
use super::strays::{Made, PreStop};
use super::{PodmanDriver, exec, process};
use crate::{ExecError, request};

/// How long a postStart hook may take: as long as an init container.
pub(super) const POST_START: Duration = Duration::from_secs(600);
/// What a container has at least between its preStop hook and its end (the kubelet's minimumGracePeriodInSeconds).
const LEAST: Duration = Duration::from_secs(2);
/// How long podman may take to tell about a hook whose time is over.
const TELLING: Duration = Duration::from_millis(500);

impl Made {
    /// What is to be known of a container that was made, until it goes.
    pub(super) fn of(pod: &Pod<PinnedImage>, container: &Container<PinnedImage>) -> Self {
        let hook = container.lifecycle.pre_stop.clone();
        let on_host = pod.network == Network::Host;
        Made { pre_stop: hook.map(|hook| PreStop { hook, on_host }), post_started: None }
    }
}

/// Does what a hook says, within `limit` and by `by`.
pub(super) async fn run(
    api: &Api,
    container: &str,
    address: Option<&str>,
    hook: &Hook,
    limit: Duration,
    by: Option<Instant>,
) -> Result<(), ExecError> {
    match hook {
        Hook::Exec(command) => exec::run_by(api, container, command, limit, by).await,
        // Nobody but the agent and the workload has a part in it: what doesn't answer is the workload.
        Hook::Http(get) => ask(get, address, limit).await.map_err(ExecError::Failed),
        Hook::Sleep(seconds) => {
            sleep(Duration::from_secs(u64::from(*seconds))).await;
            Ok(())
        }
    }
}

async fn ask(get: &HttpGet, address: Option<&str>, limit: Duration) -> Result<(), String> {
    let host = get.host.as_deref().or(address).ok_or("the pod has no address that the agent can reach")?;
    let (scheme, tls) = if get.tls { ("https", Some(request::unchecked_tls()?)) } else { ("http", None) };
    let url = format!("{scheme}://{host}:{}{}", get.port, get.path);
    request::answered_with(&url, &get.headers, tls, limit).await.map(drop)
}

impl PodmanDriver {
    /// Has a running container's preStop hook done, and gives what is left of its grace. Whatever becomes of the hook,
    /// the container is stopped then.
    pub(super) async fn before_stop(&self, container: &Inspected, grace: Duration) -> Duration {
        let Some(pre_stop) = self.strays.made(&container.id).pre_stop.filter(|_| !grace.is_zero()) else {
            return grace;
        };
        let (began, name) = (Instant::now(), &container.name);
        let by = began + grace;
        let address = if pre_stop.on_host { Some("127.0.0.1") } else { container.address() };
        let hook = run(&self.api, &container.id, address, &pre_stop.hook, grace, Some(by));
        let failed = tokio::select! {
            done = timeout_at(by + TELLING, hook) => match done {
                Ok(Ok(())) => None,
                Ok(Err(why)) => Some(why.to_string()),
                Err(_) => Some(format!("it did not end within {grace:?}")),
            },
            () = process::gone(container.state.pid) => Some("the container ended before it did".to_owned()),
        };
        if let Some(why) = failed {
            tracing::warn!(
                container = name,
                "the preStop hook failed; the container is stopped all the same: {why}"
            );
        }
        grace.saturating_sub(began.elapsed()).max(LEAST)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn asked(get: &HttpGet) -> Result<(), String> {
        ask(get, Some("127.0.0.1"), Duration::from_secs(20)).await
    }

    #[tokio::test]
    async fn any_answer_to_a_hook_will_do_and_none_is_a_failure() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let get =
            HttpGet { tls: false, host: None, port, path: "/drain?now".to_owned(), headers: Vec::new() };
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let read = stream.read(&mut request).await.unwrap();
            stream.write_all(b"HTTP/1.1 500 Ill\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            String::from_utf8(request[..read].to_vec()).unwrap()
        });
        assert_eq!(asked(&get).await, Ok(()));
        let request = server.await.unwrap();
        assert!(request.starts_with("GET /drain?now HTTP/1.1\r\n"), "{request}");
        assert!(asked(&get).await.unwrap_err().contains("nothing listens there"), "it is gone");
        let nowhere = ask(&get, None, Duration::from_secs(20)).await.unwrap_err();
        assert!(nowhere.contains("no address"), "{nowhere}");
    }
}
