//! What podman has of a pod, and whether it is as it should be. podman's word is checked against the kernel's.

use std::collections::BTreeMap;
use std::time::Duration;

use holdfast_core::digest::ReleaseId;
use holdfast_core::name::{AppName, ObjectKey};
use holdfast_core::pod::{PinnedImage, Pod};
use holdfast_core::release::Restart;
use tokio::time::{Instant, sleep};

use super::api::{Api, Inspected};
use super::client::ApiError;
use super::marks::{self, Part, PodId};
use super::process;
use super::strays::Strays;
use crate::Owner;

/// How long conmon may take to write down how a process ended.
const SETTLING: Duration = Duration::from_secs(2);
/// How often it is looked whether it has.
const LOOK: Duration = Duration::from_millis(20);

/// The containers of one pod that are there.
#[derive(Clone, Debug)]
pub(super) struct Instance {
    pub(super) id: PodId,
    pub(super) release: Option<ReleaseId>,
    /// By their names in the pod.
    pub(super) containers: BTreeMap<String, Inspected>,
}

/// How a container is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It runs, and conmon watches over it.
    Running,
    /// It was made and not started.
    Staged,
    /// It ended.
    Ended {
        /// Its exit code.
        code: i32,
        /// Whether it took more memory than it may.
        out_of_memory: bool,
    },
    /// Somebody paused it.
    Paused,
    /// It must be made anew, for this reason.
    Broken(String),
}

/// What is to be done about a pod that isn't as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing.
    Well,
    /// It ran to its end, as it should.
    Done,
    /// A container failed, and nothing starts it again.
    Failed(String),
    /// A container ended and is to be started again: its name in the pod, and why.
    Restart(String, String),
    /// It must be put right.
    Wrong(String),
    /// It ended with the box, which was started since: that is nobody's failure.
    Rebooted(String),
}

/// Everything that podman has of an app, by object.
pub(super) async fn of_app(
    api: &Api,
    owner: &Owner,
    app: &AppName,
    strays: &Strays,
) -> Result<BTreeMap<ObjectKey, Vec<Instance>>, ApiError> {
    let device = owner.device.to_string();
    let labels = [(marks::DEVICE, device.as_str()), (marks::APP, app.as_str())];
    let mut objects: BTreeMap<ObjectKey, BTreeMap<PodId, Instance>> = BTreeMap::new();
    for listed in api.containers(&labels).await? {
        // It may have gone since.
        let container = match api.container(&listed.id).await {
            Ok(Some(container)) => container,
            Ok(None) => continue,
            Err(ApiError::Refused { message, .. }) => Inspected::unreadable(listed, &message),
            Err(error) => return Err(error),
        };
        let Some(Part { key, pod: id, container: name, .. }) =
            marks::part(owner, &container.config.labels, &container.name)
        else {
            continue;
        };
        let Some(mut container) = settled(api, container).await? else { continue };
        container.before_boot = !strays.knows(&container.id);
        let release =
            container.config.labels.get(marks::RELEASE).and_then(|id| id.parse().ok()).map(ReleaseId);
        let instances = objects.entry(key).or_default();
        let instance = instances.entry(id.clone()).or_insert_with(|| Instance {
            id,
            release,
            containers: BTreeMap::new(),
        });
        instance.containers.insert(name, container);
    }
    Ok(objects.into_iter().map(|(key, instances)| (key, instances.into_values().collect())).collect())
}

/// A container whose process has just ended: the kernel tells before conmon has written down how, and without that
/// it would look as if podman had lost sight of it.
async fn settled(api: &Api, container: Inspected) -> Result<Option<Inspected>, ApiError> {
    let ends = |it: &Inspected| it.state.status == "running" && !process::is_alive(it.state.pid);
    let since = Instant::now();
    let mut container = container;
    while ends(&container) {
        let is_watched = process::watches(container.state.conmon_pid, &container.id);
        sleep(LOOK).await;
        match api.container(&container.id).await? {
            Some(again) => container = again,
            None => return Ok(None),
        }
        if !is_watched || since.elapsed() >= SETTLING {
            break;
        }
    }
    Ok(Some(container))
}

/// How a container is.
pub(super) fn standing(container: &Inspected) -> Standing {
    let state = &container.state;
    match state.status.as_str() {
        "running" if !process::is_alive(state.pid) => {
            Standing::Broken(format!("podman reports it as running, but its process {} is gone", state.pid))
        }
        "running" if !process::watches(state.conmon_pid, &container.id) => {
            Standing::Broken("its monitor process (conmon) is gone".to_owned())
        }
        "running" => Standing::Running,
        "created" | "configured" | "initialized" => Standing::Staged,
        "exited" | "stopped" => Standing::Ended { code: state.exit_code, out_of_memory: state.oom_killed },
        "paused" => Standing::Paused,
        other => Standing::Broken(format!("it is stuck: podman reports its state as {other}")),
    }
}

impl Instance {
    /// Whether it is the pod that it should be.
    pub(super) fn verdict(&self, pod: &Pod<PinnedImage>) -> Verdict {
        let mut done = 0;
        let mut restart = None;
        for wanted in &pod.containers {
            let Some(container) = self.containers.get(&wanted.name) else {
                return Verdict::Wrong(format!("the container {} is gone", wanted.name));
            };
            if ended_with_the_box(container, pod.restart) {
                return Verdict::Rebooted(format!(
                    "the box was rebooted, which ended the container {}",
                    wanted.name
                ));
            }
            match standing(container) {
                Standing::Running => {}
                Standing::Staged => {
                    return Verdict::Wrong(format!(
                        "the container {} was created but not started",
                        wanted.name
                    ));
                }
                Standing::Paused => {
                    return Verdict::Wrong(format!("the container {} is paused", wanted.name));
                }
                Standing::Broken(why) => {
                    return Verdict::Wrong(format!("the container {}: {why}", wanted.name));
                }
                Standing::Ended { code, out_of_memory } => match (pod.restart, code) {
                    (Restart::Never | Restart::OnFailure, 0) => done += 1,
                    (Restart::Never, _) => return Verdict::Failed(ended(&wanted.name, code, out_of_memory)),
                    _ => restart = Some((wanted.name.clone(), ended(&wanted.name, code, out_of_memory))),
                },
            }
        }
        match restart {
            Some((name, why)) => Verdict::Restart(name, why),
            None if done == pod.containers.len() => Verdict::Done,
            None => Verdict::Well,
        }
    }
}

/// Whether a container ended with the box and is to be made again, as that is no end of its own. What had come to its end
/// before stays so, as far as that can be told: of what is not started again only a kill (137, or 143 for SIGTERM) is
/// taken for the box's.
pub(super) fn ended_with_the_box(container: &Inspected, restart: Restart) -> bool {
    container.before_boot
        && match standing(container) {
            // podman 4.3 says so of everything after a boot.
            Standing::Staged => true,
            Standing::Ended { code, .. } => match restart {
                Restart::Always => true,
                Restart::OnFailure => code != 0,
                Restart::Never => [137, 143].contains(&code),
            },
            Standing::Running | Standing::Paused | Standing::Broken(_) => false,
        }
}

/// How a container ended, for people.
pub(super) fn ended(name: &str, code: i32, out_of_memory: bool) -> String {
    match code {
        _ if out_of_memory => format!("{name} exceeded its memory limit and was killed"),
        // podman doesn't always know that it was for its memory.
        137 => format!(
            "{name} was killed (exit code 137): from outside, or because it exceeded its memory limit"
        ),
        code => format!("{name} exited with code {code}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// As podman 5.4 tells of a container that was killed when the box went down.
    fn inspected(status: &str, exit_code: i32, before_boot: bool) -> Inspected {
        let answer = json!({
            "Id": "c0ffee", "Name": "shop-web-01234567",
            "State": { "Status": status, "Pid": 0, "ConmonPid": 0, "ExitCode": exit_code, "OOMKilled": false },
            "Config": { "Labels": null, "StopSignal": "SIGTERM", "StopTimeout": 240 },
        });
        let mut inspected: Inspected = serde_json::from_value(answer).unwrap();
        inspected.before_boot = before_boot;
        inspected
    }

    #[test]
    fn what_ended_with_the_box_is_told_from_what_ended_by_itself() {
        let rebooted = |status, code, restart| ended_with_the_box(&inspected(status, code, true), restart);
        assert!(rebooted("exited", 137, Restart::Always));
        assert!(rebooted("exited", 0, Restart::Always), "it heeded SIGTERM");
        assert!(rebooted("created", 0, Restart::Always));
        assert!(rebooted("exited", 137, Restart::Never), "a job that the box took with it is not failed");
        assert!(!rebooted("exited", 0, Restart::Never), "it was done");
        assert!(!rebooted("exited", 1, Restart::Never), "it had failed");
        assert!(!rebooted("exited", 0, Restart::OnFailure));
        for status in ["exited", "created"] {
            assert!(!ended_with_the_box(&inspected(status, 137, false), Restart::Always));
        }
    }

    #[test]
    fn how_long_a_container_may_take_to_stop_stands_with_it() {
        assert_eq!(inspected("running", 0, false).grace(), Some(Duration::from_secs(240)));
    }
}
