//! Probes of containers, asked by the agent and not by podman, so that they are alike on every podman. One task for
//! each probe; what it finds changes the app's health and, for liveness, starts the container again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use holdfast_core::name::AppName;
use holdfast_core::pod::{Ask, Container, Hook, HttpGet, Network, PinnedImage, Pod, Probe};
use tokio::task::AbortHandle;
use tokio::time::sleep;

use super::api::{Api, Inspected};
use super::exec;
use super::hooks;
use super::process::{self, Listener, Listening};
use super::sockets;
use super::strays::Strays;
use super::watch::Notifications;
use crate::{ExecError, request};

/// What the probes of one container found so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ProbeState {
    /// The postStart hook succeeded.
    post_started: bool,
    /// The startup probe succeeded.
    started: bool,
    /// The readiness probe's last word, or none yet.
    ready: Option<Result<(), String>>,
    /// Why it must be started again: its hook, or its probes.
    dead: Option<String>,
    /// The last failure of any of them, for people.
    last: Option<String>,
}

/// How a container is, as its probes tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It is well, or nobody asks.
    Well,
    /// It comes up.
    Starting(String),
    /// It isn't ready.
    Unready(String),
    /// It must be started again.
    Dead(String),
}

type Shared = Arc<Mutex<ProbeState>>;

struct Probed {
    app: AppName,
    found: Shared,
    task: AbortHandle,
}

/// The probes of all containers, by the container's id and start.
pub(super) struct Prober {
    /// Knows whose hook has succeeded already.
    strays: Strays,
    probed: Mutex<BTreeMap<(String, i32), Probed>>,
}

impl Prober {
    pub(super) fn new(strays: Strays) -> Self {
        Prober { strays, probed: Mutex::default() }
    }

    /// Asks the containers of these, and no others of the app.
    pub(super) fn keep(
        &self,
        app: &AppName,
        running: &[(&Pod<PinnedImage>, &Container<PinnedImage>, &Inspected)],
        api: &Api,
        notifications: &Notifications,
    ) {
        self.probed.lock().unwrap_or_else(PoisonError::into_inner).retain(|id, probes| {
            // A hook that runs is not broken off, and one that failed not forgotten, because another version of the pod is
            // looked at meanwhile: it would be run a second time.
            let wanted = match probes.owes_hook() {
                true => process::is_alive(id.1),
                false => probes.app != *app || running.iter().any(|(.., container)| key(container) == *id),
            };
            if !wanted {
                probes.task.abort();
            }
            wanted
        });
        self.ask(app, running, api, notifications);
    }

    /// Asks these as well, beside what of the app is asked already.
    pub(super) fn ask(
        &self,
        app: &AppName,
        running: &[(&Pod<PinnedImage>, &Container<PinnedImage>, &Inspected)],
        api: &Api,
        notifications: &Notifications,
    ) {
        let mut probed = self.probed.lock().unwrap_or_else(PoisonError::into_inner);
        for (pod, spec, container) in running {
            let hook = &spec.lifecycle.post_start;
            if hook.is_none() && spec.startup.is_none() && spec.readiness.is_none() && spec.liveness.is_none()
            {
                continue;
            }
            probed.entry(key(container)).or_insert_with(|| {
                let post_started = hook.is_none()
                    || self.strays.made(&container.id).post_started == Some(container.state.pid);
                let found: Shared =
                    Arc::new(Mutex::new(ProbeState { post_started, ..ProbeState::default() }));
                let asker = Asker {
                    api: api.clone(),
                    app: app.clone(),
                    notifications: notifications.clone(),
                    strays: self.strays.clone(),
                    container: container.id.clone(),
                    pid: container.state.pid,
                    address: address(pod, container),
                    listeners: Mutex::default(),
                    found: Arc::clone(&found),
                };
                let task = tokio::spawn(asker.run((*spec).clone())).abort_handle();
                Probed { app: app.clone(), found, task }
            });
        }
    }

    /// What the probes of a container say.
    pub(super) fn answer(&self, spec: &Container<PinnedImage>, container: &Inspected) -> Answer {
        let probed = self.probed.lock().unwrap_or_else(PoisonError::into_inner);
        let found = probed
            .get(&key(container))
            .map(|probed| probed.found.lock().unwrap_or_else(PoisonError::into_inner).clone());
        found.map_or_else(|| not_asked(spec), |found| found.answer(spec))
    }
}

impl Probed {
    /// Whether its postStart hook has not succeeded.
    fn owes_hook(&self) -> bool {
        !self.found.lock().unwrap_or_else(PoisonError::into_inner).post_started
    }
}

/// A container, and its start.
fn key(container: &Inspected) -> (String, i32) {
    (container.id.clone(), container.state.pid)
}

/// Before the first look, a container with probes or a hook is coming up.
fn not_asked(spec: &Container<PinnedImage>) -> Answer {
    match spec.lifecycle.post_start.is_some() || spec.startup.is_some() || spec.readiness.is_some() {
        true => Answer::Starting(format!("{} has not been probed yet", spec.name)),
        false => Answer::Well,
    }
}

impl ProbeState {
    fn answer(&self, spec: &Container<PinnedImage>) -> Answer {
        let last = || self.last.clone().unwrap_or_else(|| "it has not been probed yet".to_owned());
        if let Some(why) = &self.dead {
            return Answer::Dead(why.clone());
        }
        if spec.lifecycle.post_start.is_some() && !self.post_started {
            let last = self.last.as_deref().unwrap_or("its postStart hook has not ended yet");
            return Answer::Starting(format!("{}: {last}", spec.name));
        }
        if spec.startup.is_some() && !self.started {
            return Answer::Starting(format!("{}: {}", spec.name, last()));
        }
        match (&spec.readiness, &self.ready) {
            (None, _) | (Some(_), Some(Ok(()))) => Answer::Well,
            (Some(_), Some(Err(why))) => Answer::Unready(format!("{}: {why}", spec.name)),
            (Some(_), None) => Answer::Starting(format!("{}: {}", spec.name, last())),
        }
    }
}

/// Where a container's ports are reached from the agent.
pub(super) fn address(pod: &Pod<PinnedImage>, container: &Inspected) -> Option<String> {
    match pod.network {
        Network::Host => Some("127.0.0.1".to_owned()),
        Network::Bridge { .. } => container.address().map(str::to_owned),
    }
}

/// Asks one container.
struct Asker {
    api: Api,
    app: AppName,
    notifications: Notifications,
    strays: Strays,
    container: String,
    pid: i32,
    address: Option<String>,
    /// By port, who was seen to listen; none where that can't be seen.
    listeners: Mutex<BTreeMap<u16, Option<Listener>>>,
    found: Shared,
}

impl Asker {
    async fn run(self, spec: Container<PinnedImage>) {
        if let Some(hook) = &spec.lifecycle.post_start {
            self.until_post_started(hook).await;
        }
        if let Some(startup) = &spec.startup {
            self.until_started(startup).await;
            self.note(|found| found.started = true).await;
        }
        let liveness = async {
            match &spec.liveness {
                Some(liveness) => self.until_dead(liveness).await,
                None => std::future::pending().await,
            }
        };
        let readiness = async {
            match &spec.readiness {
                Some(readiness) => self.follow_readiness(readiness).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = liveness => {}
            () = readiness => {}
        }
    }

    /// Changes what was found; the loop is told if the change is one for the app's health.
    async fn note(&self, change: impl FnOnce(&mut ProbeState)) {
        let changed = {
            let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
            let before = found.clone();
            change(&mut found);
            let words = |found: &ProbeState| {
                let ready = found.ready.as_ref().map(Result::is_ok);
                (found.post_started, found.started, ready, found.dead.is_some())
            };
            words(&before) != words(&found)
        };
        if changed {
            self.notifications.notify(Some(self.app.clone()), "a probe's answer changed").await;
        }
    }

    /// Runs the postStart hook, unless it has succeeded for this start of the container: again and again while podman
    /// doesn't get to run it, and never again when it has failed.
    async fn until_post_started(&self, hook: &Hook) {
        let mut pause = Duration::from_secs(1);
        loop {
            if self.found.lock().unwrap_or_else(PoisonError::into_inner).post_started {
                return;
            }
            let address = self.address.as_deref();
            match hooks::run(&self.api, &self.container, address, hook, hooks::POST_START, None).await {
                Ok(()) => {
                    self.strays.note_post_started(&self.container, self.pid);
                    return self.note(|found| (found.post_started, found.last) = (true, None)).await;
                }
                Err(ExecError::NotRun(why)) => {
                    self.note(|found| {
                        found.last = Some(format!("its postStart hook has not run yet: {why}"))
                    })
                    .await;
                }
                Err(ExecError::Failed(why)) => {
                    self.note(|found| found.dead = Some(format!("its postStart hook failed: {why}"))).await;
                    return std::future::pending().await;
                }
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(30));
        }
    }

    async fn until_started(&self, probe: &Probe) {
        sleep(probe.initial_delay).await;
        let mut failures = 0;
        loop {
            match self.ask(probe).await {
                Ok(()) => return,
                Err(ExecError::NotRun(why)) => self.note(|found| found.last = Some(why)).await,
                Err(ExecError::Failed(why)) => {
                    failures += 1;
                    let over = failures >= probe.failure_threshold;
                    self.note(|found| {
                        found.dead = over.then(|| format!("its startup probe failed too often: {why}"));
                        found.last = Some(why);
                    })
                    .await;
                    if over {
                        std::future::pending::<()>().await;
                    }
                }
            }
            sleep(probe.period).await;
        }
    }

    async fn until_dead(&self, probe: &Probe) {
        sleep(probe.initial_delay).await;
        let mut failures = 0;
        loop {
            match self.ask(probe).await {
                Ok(()) => failures = 0,
                Err(ExecError::NotRun(why)) => self.note(|found| found.last = Some(why)).await,
                Err(ExecError::Failed(why)) => {
                    failures += 1;
                    if failures >= probe.failure_threshold {
                        self.note(|found| {
                            found.dead = Some(format!("its liveness probe failed {failures} times: {why}"))
                        })
                        .await;
                        return std::future::pending().await;
                    }
                    self.note(|found| found.last = Some(why)).await;
                }
            }
            sleep(probe.period).await;
        }
    }

    async fn follow_readiness(&self, probe: &Probe) {
        sleep(probe.initial_delay).await;
        let (mut successes, mut failures) = (0, 0);
        let mut hurry = Duration::from_millis(50);
        loop {
            match self.ask(probe).await {
                Ok(()) => {
                    (successes, failures) = (successes + 1, 0);
                    if successes >= probe.success_threshold {
                        self.note(|found| found.ready = Some(Ok(()))).await;
                    }
                }
                Err(ExecError::NotRun(why)) => self.note(|found| found.last = Some(why)).await,
                Err(ExecError::Failed(why)) => {
                    (successes, failures) = (0, failures + 1);
                    let over = failures >= probe.failure_threshold;
                    self.note(|found| {
                        found.last = Some(why.clone());
                        // What never was ready is still coming up.
                        if over && found.ready.is_some() {
                            found.ready = Some(Err(why));
                        }
                    })
                    .await;
                }
            }
            // Until it is ready for the first time it is asked more often: an update waits for it.
            let first = self.found.lock().unwrap_or_else(PoisonError::into_inner).ready.is_none();
            sleep(if first { probe.period.min(hurry) } else { probe.period }).await;
            hurry = (hurry * 2).min(Duration::from_millis(500));
        }
    }

    async fn ask(&self, probe: &Probe) -> Result<(), ExecError> {
        if let Ask::Exec(command) = &probe.ask {
            return exec::run(&self.api, &self.container, command, probe.timeout).await;
        }
        // Nobody but the agent and the workload has a part in these: what doesn't answer is the workload.
        self.connect(probe).await.map_err(ExecError::Failed)
    }

    async fn connect(&self, probe: &Probe) -> Result<(), String> {
        match &probe.ask {
            Ask::Exec(_) => Ok(()),
            Ask::Http(HttpGet { tls, host, port, path, headers }) => {
                let host = self.host(host.as_deref(), *port)?;
                let (scheme, tls) =
                    if *tls { ("https", Some(request::unchecked_tls()?)) } else { ("http", None) };
                let url = format!("{scheme}://{host}:{port}{path}");
                request::http_with(&url, headers, tls, probe.timeout).await
            }
            Ask::Tcp { host, port } => {
                let host = self.host(host.as_deref(), *port)?;
                request::tcp(&format!("{host}:{port}"), probe.timeout).await
            }
            Ask::Grpc { port, service } => {
                let host = self.host(None, *port)?;
                request::grpc(&format!("{host}:{port}"), service, probe.timeout).await
            }
        }
    }

    /// Where a port is asked. On the box's own network another container may have the same port, as the old
    /// version has while the new one starts beside it: then only who really listens counts.
    fn host<'a>(&'a self, written: Option<&'a str>, port: u16) -> Result<&'a str, String> {
        if let Some(host) = written {
            return Ok(host);
        }
        let address = self.address.as_deref();
        let address = address.ok_or("the pod has no address that the agent can reach")?;
        if address == "127.0.0.1" && !self.may_listen(port) {
            return Err(format!("it does not listen on port {port} yet"));
        }
        Ok(address)
    }

    /// Whether the container listens, or that can't be seen.
    fn may_listen(&self, port: u16) -> bool {
        if let Some(listens) = sockets::listens(self.pid, port) {
            return listens;
        }
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        match listeners.get(&port) {
            Some(Some(listener)) if listener.is_held() => return true,
            Some(None) => return true,
            _ => {}
        }
        let found = match process::listener(self.pid, port) {
            Listening::Nobody => return false,
            Listening::By(listener) => Some(listener),
            Listening::Unseen => None,
        };
        listeners.insert(port, found);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hooked(probe: &str) -> Container<PinnedImage> {
        let digest = holdfast_core::digest::Digest::of(b"image");
        let mut container = serde_json::json!({
            "name": "web", "image": { "reference": "r.example/web:1", "digest": digest },
            "lifecycle": { "postStart": { "exec": ["/bin/warm"] } },
        });
        if !probe.is_empty() {
            container[probe] = serde_json::json!({
                "ask": { "tcp": { "port": 80 } }, "initialDelay": { "secs": 0, "nanos": 0 },
                "period": { "secs": 1, "nanos": 0 }, "timeout": { "secs": 1, "nanos": 0 },
                "successThreshold": 1, "failureThreshold": 1,
            });
        }
        serde_json::from_value(container).unwrap()
    }

    #[test]
    fn a_container_is_starting_until_its_hook_has_succeeded_whatever_its_probes_would_say() {
        let starts = |answer: Answer| matches!(answer, Answer::Starting(_));
        for probe in ["", "readiness", "startup"] {
            let spec = hooked(probe);
            assert!(starts(not_asked(&spec)), "{probe}");
            let ready = ProbeState { started: true, ready: Some(Ok(())), ..ProbeState::default() };
            assert!(starts(ready.answer(&spec)), "{probe}");
            let done = ProbeState { post_started: true, ..ready.clone() };
            assert_eq!(done.answer(&spec), Answer::Well, "{probe}");
            let failed = ProbeState { dead: Some("its postStart hook failed".to_owned()), ..ready };
            assert_eq!(failed.answer(&spec), Answer::Dead("its postStart hook failed".to_owned()));
        }
    }
}
