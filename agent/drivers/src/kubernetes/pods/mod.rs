//! Reading the pods of a workload: what is wrong with them, how often they were restarted, and which of them to ask.
//! Functions of what the server sent, without a request; of what is wrong with each container, the kubelet's own words
//! (k8s.io/kubernetes, pkg/kubelet/images/types.go and pkg/kubelet/container/sync_result.go).

#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::net::{IpAddr, SocketAddr};

use serde_json::Value;

use super::status::fields::{Condition, annotation, list, number, text, words};

/// What kubectl runs programs in and shows logs of where a pod has several containers.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";
/// What a container that comes up waits for.
const ON_ITS_WAY: [&str; 2] = ["ContainerCreating", "PodInitializing"];

/// What keeps pods from being well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    /// Which pod and container, and what the runtime says of it, for people.
    pub(super) reason: String,
    /// A container ends again and again, and its next start is put off (`CrashLoopBackOff`).
    pub(super) crashes: bool,
}

/// Where lines of a log come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LogSource<'a> {
    /// The pod's namespace.
    pub(super) namespace: &'a str,
    /// The pod's name.
    pub(super) pod: &'a str,
    /// The container's name.
    pub(super) container: &'a str,
    /// It runs, or has ended for good.
    is_there: bool,
    /// It has ended before, and was or will be started again.
    was_there: bool,
}

impl LogSource<'_> {
    /// Which of its runs have a log, the newest first: whether it is the previous one. Of a container that waits for its
    /// next start the kubelet takes both questions for the same.
    pub(super) fn runs(self) -> impl Iterator<Item = bool> {
        [(self.is_there, false), (self.was_there, true)]
            .into_iter()
            .filter(|(has, _)| *has)
            .map(|(_, run)| run)
    }
}

/// What is wrong with the pods of one workload: the newest pod's trouble, as those of versions before are on their
/// way out. `None` if nothing is, or nothing is known yet.
pub(super) fn trouble(pods: &[Value]) -> Option<Trouble> {
    staying(pods)
        .into_iter()
        .filter(|pod| text(pod, "/status/phase") != Some("Succeeded"))
        .find_map(trouble_of)
}

/// How often containers of these pods were started again, those of pods on their way out left aside.
pub(super) fn restarts(pods: &[Value]) -> u64 {
    let containers = staying(pods).into_iter().flat_map(container_statuses);
    let counts =
        containers.filter_map(|one| number(one, "/restartCount")).map(|count| count.max(0).unsigned_abs());
    counts.fold(0, u64::saturating_add)
}

/// Where a ready pod is reached: the newest one that stays.
pub(super) fn ready_address(pods: &[Value], port: u16) -> Option<SocketAddr> {
    let mut addresses = staying(pods).into_iter().filter(|pod| is_ready(pod)).filter_map(address);
    addresses.next().map(|address| SocketAddr::new(address, port))
}

/// The pod to run a program in, in a container of this name if one is given: a ready one before others, then the
/// newest. One whose container doesn't run can't be asked.
pub(super) fn pod_for_exec<'a>(pods: &'a [Value], container: Option<&str>) -> Option<&'a Value> {
    let runs = |pod: &&Value| match container.or_else(|| container_names(pod).first().copied()) {
        Some(name) => container_statuses(pod)
            .any(|one| text(one, "/name") == Some(name) && one.pointer("/state/running").is_some()),
        None => false,
    };
    // The sort is stable: among equals the newest stays first.
    let mut able: Vec<&Value> = staying(pods).into_iter().filter(runs).collect();
    able.sort_by_key(|pod| !is_ready(pod));
    able.first().copied()
}

/// The containers that a log can be had of, the newest pod's first, and of a pod those first that something is wrong
/// with; those that never started have none. Pods on their way out count: they may be the only ones with something to
/// say.
pub(super) fn log_sources(pods: &[Value]) -> Vec<LogSource<'_>> {
    let mut sources = Vec::new();
    for pod in newest_first(pods.iter().collect()) {
        let (Some(namespace), Some(name)) = (text(pod, "/metadata/namespace"), text(pod, "/metadata/name"))
        else {
            continue;
        };
        let status_of = |container: &'_ str| container_statuses(pod).find(|one| is_of(one, container));
        let names = container_names(pod).into_iter().chain(setup_names(pod));
        let mut containers: Vec<_> =
            names.filter_map(|container| Some((container, status_of(container)?))).collect();
        containers.sort_by_key(|(_, status)| trouble_in(pod, status, runs_on(pod, status)).is_none());
        let source = |(container, status): (_, &Value)| LogSource {
            namespace,
            pod: name,
            container,
            is_there: ["/state/running", "/state/terminated"].iter().any(|at| status.pointer(at).is_some()),
            was_there: status.pointer("/lastState/terminated").is_some(),
        };
        sources.extend(containers.into_iter().map(source).filter(|one| one.is_there || one.was_there));
    }
    sources
}

/// The names of a pod's containers, the one first that kubectl would take; those that run to their end before the
/// others start are not among them.
pub(super) fn container_names(pod: &Value) -> Vec<&str> {
    let is_sidecar = |one: &&Value| text(one, "/restartPolicy") == Some("Always");
    let sidecars = list(pod, "/spec/initContainers").iter().filter(is_sidecar);
    let all = list(pod, "/spec/containers").iter().chain(sidecars);
    let mut names: Vec<&str> = all.filter_map(|one| text(one, "/name")).collect();
    let first = annotation(pod, DEFAULT_CONTAINER);
    names.sort_by_key(|name| Some(*name) != first);
    names
}

/// The label selector of a workload's pods, or of a Service's, as the API's query wants it.
///
/// `None` where there is none (a Pod, a CronJob), where it selects everything, and where it can't be written down:
/// never a selector that finds more than it should.
pub(super) fn selector_of(workload: &Value) -> Option<String> {
    let selector = workload.pointer("/spec/selector");
    if text(workload, "/kind") == Some("Service") && text(workload, "/apiVersion") == Some("v1") {
        return joined(equalities(selector?)?);
    }
    let Some(selector) = selector.filter(|selector| selector.is_object()) else {
        // Every Job has a selector once the server has taken it; the label is what it would select by.
        let is_job = text(workload, "/kind") == Some("Job");
        let name = text(workload, "/metadata/name").filter(|name| is_job && is_plain(name))?;
        return Some(format!("batch.kubernetes.io/job-name={name}"));
    };
    let mut terms = match selector.get("matchLabels") {
        Some(labels) => equalities(labels)?,
        None => Vec::new(),
    };
    for expression in list(selector, "/matchExpressions") {
        terms.push(term(expression)?);
    }
    joined(terms)
}

fn joined(terms: Vec<String>) -> Option<String> {
    (!terms.is_empty()).then(|| terms.join(","))
}

fn equalities(labels: &Value) -> Option<Vec<String>> {
    let pairs = labels.as_object()?.iter();
    pairs.map(|(key, value)| Some(format!("{}={}", plain(key)?, plain_value(value)?))).collect()
}

fn term(expression: &Value) -> Option<String> {
    let key = plain(text(expression, "/key")?)?;
    let values = || -> Option<String> {
        let values: Option<Vec<&str>> = list(expression, "/values").iter().map(plain_value).collect();
        values.filter(|values| !values.is_empty()).map(|values| values.join(","))
    };
    match text(expression, "/operator")? {
        "In" => Some(format!("{key} in ({})", values()?)),
        "NotIn" => Some(format!("{key} notin ({})", values()?)),
        "Exists" => Some(key.to_owned()),
        "DoesNotExist" => Some(format!("!{key}")),
        _ => None,
    }
}

/// A label's key, if it is one: with a comma in it, it would be two.
fn plain(key: &str) -> Option<&str> {
    (!key.is_empty() && is_plain(key)).then_some(key)
}

/// A label's value, which may be empty.
fn plain_value(value: &Value) -> Option<&str> {
    value.as_str().filter(|value| is_plain(value))
}

fn is_plain(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte))
}

/// The pods that aren't on their way out, the newest first.
fn staying(pods: &[Value]) -> Vec<&Value> {
    newest_first(pods.iter().filter(|pod| text(pod, "/metadata/deletionTimestamp").is_none()).collect())
}

/// The server writes times in UTC and to the second, so that their texts are in their order. Of those of one second the
/// ones that aren't ready are taken for newer, as a release that fails at once is made in the second of the one before;
/// then names decide, for the same answer every time.
fn newest_first(mut pods: Vec<&Value>) -> Vec<&Value> {
    pods.sort_by_key(|pod| {
        let created = text(pod, "/metadata/creationTimestamp").unwrap_or_default();
        (Reverse(created), is_ready(pod), text(pod, "/metadata/name"))
    });
    pods
}

fn is_ready(pod: &Value) -> bool {
    Condition::that_is_true(pod, "Ready").is_some()
}

fn address(pod: &Value) -> Option<IpAddr> {
    text(pod, "/status/podIP")?.parse().ok()
}

/// Containers that run to their end before the others start.
fn setup_names(pod: &Value) -> impl Iterator<Item = &str> {
    let all = list(pod, "/spec/initContainers").iter();
    all.filter(|one| text(one, "/restartPolicy") != Some("Always")).filter_map(|one| text(one, "/name"))
}

fn container_statuses(pod: &Value) -> impl Iterator<Item = &Value> {
    list(pod, "/status/initContainerStatuses").iter().chain(list(pod, "/status/containerStatuses"))
}

fn is_of(status: &Value, container: &str) -> bool {
    text(status, "/name") == Some(container)
}

fn trouble_of(pod: &Value) -> Option<Trouble> {
    let name = text(pod, "/metadata/name").unwrap_or("without a name");
    let runs_on = |status: &Value| runs_on(pod, status);
    let mut troubles: Vec<_> =
        container_statuses(pod).filter_map(|status| trouble_in(pod, status, runs_on(status))).collect();
    // What crashes tells more than what waits for it.
    troubles.sort_by_key(|(_, crashes)| !crashes);
    let (reason, crashes) = troubles.into_iter().next().or_else(|| Some((trouble_around(pod)?, false)))?;
    Some(Trouble { reason: format!("pod {name}: {reason}"), crashes })
}

/// Whether a container is to be started again whatever it ends with: one that ends with 0 is as much in trouble then as
/// any other. Init containers end, but for those that are sidecars.
fn runs_on(pod: &Value, status: &Value) -> bool {
    let named = |at: &str| {
        let mut all = list(pod, at).iter();
        all.find(|one| text(one, "/name").is_some_and(|name| is_of(status, name)))
    };
    match (named("/spec/containers"), named("/spec/initContainers")) {
        (Some(container), _) => {
            let pods_own = text(pod, "/spec/restartPolicy").unwrap_or("Always");
            text(container, "/restartPolicy").unwrap_or(pods_own) == "Always"
        }
        (None, Some(container)) => text(container, "/restartPolicy") == Some("Always"),
        (None, None) => false,
    }
}

/// What is wrong with a pod apart from its containers.
fn trouble_around(pod: &Value) -> Option<String> {
    if text(pod, "/status/phase") == Some("Failed") {
        return Some(words(text(pod, "/status/reason"), text(pod, "/status/message")));
    }
    let scheduled = Condition::of(pod, "PodScheduled").filter(|scheduled| scheduled.is("False"))?;
    Some(format!("it can't be scheduled: {}", scheduled.says()))
}

/// What is wrong with one container, which may have to run on and on, and whether it ends again and again.
fn trouble_in(pod: &Value, status: &Value, runs_on: bool) -> Option<(String, bool)> {
    let name = text(status, "/name").unwrap_or("without a name");
    let ending = |terminated| ending(terminated, says_its_log(pod, name));
    let count = number(status, "/restartCount").unwrap_or(0).max(0);
    let last = ending(status.pointer("/lastState/terminated"));
    if let Some(waiting) = status.pointer("/state/waiting") {
        let why = text(waiting, "/reason").filter(|why| !ON_ITS_WAY.contains(why))?;
        let said = words(Some(why), text(waiting, "/message"));
        if why != "CrashLoopBackOff" {
            return Some((format!("container {name}: {said}"), false));
        }
        let last = last.unwrap_or_else(|| "for an unknown reason".to_owned());
        return Some((
            format!("container {name} keeps exiting ({why}), the last time {last}; {count} restarts"),
            true,
        ));
    }
    let terminated = status.pointer("/state/terminated");
    if terminated.is_some() {
        let how = ending(terminated).unwrap_or_default();
        let failed = terminated.and_then(|one| number(one, "/exitCode")) != Some(0);
        // In most of the pause before its next start the kubelet says how it ended, and nothing of a back-off.
        return match (runs_on, failed) {
            (true, _) if count > 0 => {
                Some((format!("container {name} keeps exiting, the last time {how}; {count} restarts"), true))
            }
            (true, false) => Some((format!("container {name} exited {how}, but must keep running"), false)),
            (_, true) => Some((format!("container {name} exited {how}"), false)),
            (false, false) => None,
        };
    }
    // It runs again. What it ended with is of interest until it is ready.
    let is_ready = status.get("ready").and_then(Value::as_bool).unwrap_or(false);
    let last = last.filter(|_| !is_ready && count > 0)?;
    Some((format!("container {name} isn't ready; it last exited {last}; {count} restarts"), false))
}

/// The newest pod that is to stay and isn't ready: the one whose events tell what is missing.
pub(super) fn unready(pods: &[Value]) -> Option<&Value> {
    let mut all = staying(pods).into_iter();
    all.find(|pod| !is_ready(pod) && text(pod, "/status/phase") != Some("Succeeded"))
}

/// What a pod says of itself while it isn't ready: the containers that it waits for, or that its readiness gates do.
pub(super) fn own_word(pod: &Value) -> Option<String> {
    let says = |kind: &str| Condition::of(pod, kind).filter(|one| one.is("False")).map(|one| one.says());
    ["Initialized", "ContainersReady", "Ready"].into_iter().find_map(says)
}

/// What is wrong with the node that a pod is on: it isn't ready, so that nothing new is known of the pod.
pub(super) fn trouble_at_node(node: &Value) -> Option<String> {
    let name = text(node, "/metadata/name")?;
    match Condition::of(node, "Ready") {
        Some(ready) if ready.is("True") => None,
        Some(ready) => Some(format!("its node {name} is not ready: {}", ready.says())),
        None => Some(format!("its node {name} is not ready")),
    }
}

/// Whether the kubelet gives the last lines of the container's log as the message of its end. They are as secret as the
/// app is: they belong in its diagnosis, and not into status, events and the journal.
fn says_its_log(pod: &Value, container: &str) -> bool {
    let all = list(pod, "/spec/initContainers").iter().chain(list(pod, "/spec/containers"));
    let mut own = all.filter(|one| text(one, "/name") == Some(container));
    own.any(|one| text(one, "/terminationMessagePolicy") == Some("FallbackToLogsOnError"))
}

/// The reasons of an end that never was a start: the message is the runtime's.
const NEVER_STARTED: [&str; 2] = ["StartError", "ContainerCannotRun"];

/// How a container ended: `with code 137 (OOMKilled): …`.
fn ending(terminated: Option<&Value>, says_its_log: bool) -> Option<String> {
    let terminated = terminated?;
    let how = match (
        number(terminated, "/exitCode"),
        number(terminated, "/signal").filter(|signal| *signal != 0),
    ) {
        (_, Some(signal)) => format!("by signal {signal}"),
        (Some(code), None) => format!("with code {code}"),
        (None, None) => "in an unknown way".to_owned(),
    };
    let reason = match text(terminated, "/reason") {
        Some("OOMKilled") => " (OOMKilled: it exceeded its memory limit)".to_owned(),
        Some(reason) => format!(" ({})", words(Some(reason), None)),
        None => String::new(),
    };
    let is_the_runtimes = text(terminated, "/reason").is_some_and(|reason| NEVER_STARTED.contains(&reason));
    let message = text(terminated, "/message").filter(|_| is_the_runtimes || !says_its_log);
    let message = message.map(|message| format!(": {}", words(None, Some(message))));
    Some(format!("{how}{reason}{}", message.unwrap_or_default()))
}
