//! From a pod to the bodies by which podman makes its containers (libpod's SpecGenerator). Pure.

use std::collections::BTreeMap;

use holdfast_core::digest::ReleaseId;
use holdfast_core::name::{AppName, ObjectKey};
use holdfast_core::pod::{Container, Mount, Network, PinnedImage, Pod, PortMapping, Propagation, Volume};
use holdfast_core::release::EnvValue;
use serde_json::{Map, Value, json};

use super::marks::{self, PodId};
use crate::Owner;
use crate::beneath::Shown;

/// How large a container's log may become, in bytes.
const LOG_SIZE: u64 = 1 << 20;
/// The most processes of one container: a fork bomb ends there.
const PIDS: u64 = 4096;
/// What a quota of processor time counts in, in microseconds.
const CPU_PERIOD: u64 = 100_000;

/// Where a pod's volumes are on this box.
#[derive(Clone, Debug, Default)]
pub(super) struct Places {
    /// Where each folder or file of the box is that stands for a volume: files of the documents, and volumes of
    /// which only a part is seen.
    pub(super) folders: BTreeMap<String, String>,
    /// What those of them must show that lie below what a workload can write.
    pub(super) meant: BTreeMap<String, Shown>,
}

impl Places {
    /// What a container must have mounted, each as often as it mounts it.
    pub(super) fn meant_of(&self, container: &Container<PinnedImage>) -> Vec<Shown> {
        container.mounts.iter().filter_map(|mount| self.meant.get(&place_key(mount)).cloned()).collect()
    }
}

/// What a container is in its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role<'a> {
    /// It runs before the others: nobody finds it by the pod's names or ports.
    Init,
    /// It has the pod's network.
    Main,
    /// It shares that of the container of this name.
    Beside(&'a str),
}

/// One pod, as the driver has it in hand.
pub(super) struct PodSpec<'a> {
    pub(super) owner: &'a Owner,
    pub(super) app: &'a AppName,
    pub(super) key: &'a ObjectKey,
    pub(super) release: ReleaseId,
    pub(super) pod: &'a Pod<PinnedImage>,
    pub(super) id: &'a PodId,
}

impl PodSpec<'_> {
    /// What a container of it is called.
    pub(super) fn name_of(&self, container: &str) -> String {
        marks::container_name(self.app, self.key, container, self.id)
    }

    /// The name of podman's secret for a variable.
    pub(super) fn secret_name(&self, container: &str, variable: &str) -> String {
        format!("{}.{variable}", self.name_of(container))
    }

    /// The container whose network the others share.
    pub(super) fn main(&self) -> Option<&Container<PinnedImage>> {
        self.pod.containers.first()
    }

    /// Whether other containers share something of the first one, and can't be without it.
    pub(super) fn is_shared(&self) -> bool {
        self.pod.containers.len() > 1 && (self.pod.network != Network::Host || !self.pod.host_ipc)
    }

    /// The body that makes `container` from the image `image_id`.
    pub(super) fn body(
        &self,
        container: &Container<PinnedImage>,
        image_id: &str,
        role: Role<'_>,
        places: &Places,
    ) -> Value {
        let mut body = Map::new();
        let mut put = |key: &str, value: Value| {
            body.insert(key.to_owned(), value);
        };
        put("name", self.name_of(&container.name).into());
        put("image", image_id.into());
        put("labels", json!(self.labels(&container.name)));
        put("hostname", self.pod.hostname.as_str().into());
        // The agent starts containers again, with a pause that grows; podman would do it at once, for ever.
        put("restart_policy", "no".into());
        put("stop_timeout", self.pod.grace_seconds.into());
        put("log_configuration", json!({ "driver": "k8s-file", "size": LOG_SIZE }));
        put("healthconfig", json!({ "Test": ["NONE"] }));
        if let Some(command) = &container.command {
            put("entrypoint", json!(command));
            // Without one, the image's own arguments would follow.
            put("command", json!([]));
        }
        if let Some(args) = &container.args {
            put("command", json!(args));
        }
        if let Some(folder) = &container.working_dir {
            put("work_dir", folder.as_str().into());
        }
        self.environment(container, &mut put);
        self.namespaces(role, &mut put);
        self.mounts(container, places, &mut put);
        limits(container, &mut put);
        security(container, &mut put);
        if !self.pod.hosts.is_empty() {
            let lines = self
                .pod
                .hosts
                .iter()
                .flat_map(|alias| alias.names.iter().map(|name| format!("{name}:{}", alias.ip)));
            put("hostadd", lines.collect::<Vec<_>>().into());
        }
        Value::Object(body)
    }

    fn labels(&self, container: &str) -> BTreeMap<&'static str, String> {
        let mut labels = marks::labels(self.owner, self.app, self.key, self.release);
        labels.insert(marks::POD, self.id.as_str().to_owned());
        labels.insert(marks::CONTAINER, container.to_owned());
        labels
    }

    fn environment(&self, container: &Container<PinnedImage>, put: &mut impl FnMut(&str, Value)) {
        let mut plain = BTreeMap::new();
        let mut secret = BTreeMap::new();
        for (name, value) in &container.env {
            match value {
                EnvValue::Plain(text) => {
                    plain.insert(name, text);
                }
                EnvValue::Secret { .. } => {
                    secret.insert(name, self.secret_name(&container.name, name));
                }
            }
        }
        put("env", json!(plain));
        if !secret.is_empty() {
            put("secret_env", json!(secret));
        }
    }

    fn namespaces(&self, role: Role<'_>, put: &mut impl FnMut(&str, Value)) {
        match (role, &self.pod.network) {
            (_, Network::Host) => put("netns", json!({ "nsmode": "host" })),
            (Role::Beside(main), Network::Bridge { .. }) => {
                put("netns", json!({ "nsmode": "container", "value": main }));
            }
            (Role::Init, Network::Bridge { .. }) => {
                put("netns", json!({ "nsmode": "bridge" }));
                put("networks", json!({ marks::NETWORK: {} }));
            }
            (Role::Main, Network::Bridge { ports, aliases }) => {
                put("netns", json!({ "nsmode": "bridge" }));
                put("networks", json!({ marks::NETWORK: { "aliases": aliases } }));
                put("portmappings", ports.iter().map(port).collect::<Vec<_>>().into());
            }
        }
        let ipc = match role {
            _ if self.pod.host_ipc => json!({ "nsmode": "host" }),
            Role::Beside(main) => json!({ "nsmode": "container", "value": main }),
            Role::Main | Role::Init => json!({ "nsmode": "shareable" }),
        };
        put("ipcns", ipc);
        if self.pod.host_pid {
            put("pidns", json!({ "nsmode": "host" }));
        }
    }

    fn mounts(&self, container: &Container<PinnedImage>, places: &Places, put: &mut impl FnMut(&str, Value)) {
        let mut mounts = Vec::new();
        let mut volumes = Vec::new();
        for mount in &container.mounts {
            let folder = places.folders.get(&place_key(mount));
            match (folder, self.pod.volumes.get(&mount.volume)) {
                // As with Kubernetes, nobody writes to what the documents give.
                (Some(folder), Some(Volume::Files(_))) => {
                    mounts.push(bind(folder, &Mount { read_only: true, ..mount.clone() }));
                }
                (Some(folder), _) => mounts.push(bind(folder, mount)),
                (None, Some(Volume::Host { path, .. })) => mounts.push(bind(path, mount)),
                (None, Some(Volume::Empty { memory: true, size })) => mounts.push(tmpfs(*size, mount)),
                (None, Some(Volume::Empty { .. })) => {
                    volumes
                        .push(named(&marks::scratch_name(self.app, self.key, &mount.volume, self.id), mount));
                }
                (None, Some(Volume::Claim(claim))) => volumes.push(named(&marks::claim_name(claim), mount)),
                // Files have a folder as soon as they are written down; what isn't there isn't mounted.
                (None, Some(Volume::Files(_)) | None) => {}
            }
        }
        put("mounts", mounts.into());
        put("volumes", volumes.into());
    }
}

/// A mount in [`Places`]: parts of one volume are places of their own.
pub(super) fn place_key(mount: &Mount) -> String {
    format!("{}\n{}", mount.volume, mount.sub_path.as_deref().unwrap_or_default())
}

fn port(port: &PortMapping) -> Value {
    json!({
        "host_ip": port.host_ip.map(|ip| ip.to_string()).unwrap_or_default(),
        "host_port": port.host_port,
        "container_port": port.container_port,
        "protocol": port.protocol,
    })
}

fn bind(source: &str, mount: &Mount) -> Value {
    let propagation = match mount.propagation {
        None => "rprivate",
        Some(Propagation::HostToContainer) => "rslave",
        Some(Propagation::Bidirectional) => "rshared",
    };
    let mode = if mount.read_only { "ro" } else { "rw" };
    json!({ "type": "bind", "source": source, "destination": mount.path, "options": ["rbind", mode, propagation] })
}

fn tmpfs(size: Option<u64>, mount: &Mount) -> Value {
    let mut options = vec!["mode=1777".to_owned(), "nosuid".to_owned(), "nodev".to_owned()];
    options.extend(size.map(|size| format!("size={size}")));
    options.extend(mount.read_only.then(|| "ro".to_owned()));
    json!({ "type": "tmpfs", "source": "tmpfs", "destination": mount.path, "options": options })
}

fn named(name: &str, mount: &Mount) -> Value {
    let mode = if mount.read_only { "ro" } else { "rw" };
    json!({ "Name": name, "Dest": mount.path, "Options": [mode] })
}

fn limits(container: &Container<PinnedImage>, put: &mut impl FnMut(&str, Value)) {
    let limits = &container.limits;
    let mut resources = json!({ "pids": { "limit": PIDS } });
    if let Some(memory) = limits.memory {
        // The same for both: none of it is swapped.
        resources["memory"] = json!({ "limit": memory, "swap": memory });
    }
    let mut cpu = Map::new();
    if let Some(millis) = limits.cpu_millis {
        cpu.insert("quota".to_owned(), (u64::from(millis) * CPU_PERIOD / 1000).max(1000).into());
        cpu.insert("period".to_owned(), CPU_PERIOD.into());
    }
    if let Some(millis) = limits.cpu_request_millis {
        // A core is 1024 shares, and 2 the fewest (Kubernetes does the same).
        cpu.insert("shares".to_owned(), (u64::from(millis) * 1024 / 1000).max(2).into());
    }
    if !cpu.is_empty() {
        resources["cpu"] = Value::Object(cpu);
    }
    put("resource_limits", resources);
}

fn security(container: &Container<PinnedImage>, put: &mut impl FnMut(&str, Value)) {
    let security = &container.security;
    match (security.user, security.group) {
        (Some(user), Some(group)) => put("user", format!("{user}:{group}").into()),
        (Some(user), None) => put("user", user.to_string().into()),
        (None, Some(group)) => put("user", format!("0:{group}").into()),
        (None, None) => {}
    }
    if !security.groups.is_empty() {
        put("groups", security.groups.iter().map(u32::to_string).collect::<Vec<_>>().into());
    }
    if security.privileged {
        put("privileged", true.into());
    }
    if security.read_only {
        put("read_only_filesystem", true.into());
    }
    if security.no_new_privileges {
        put("no_new_privileges", true.into());
    }
    if !security.add.is_empty() {
        put("cap_add", json!(security.add));
    }
    if !security.drop.is_empty() {
        put("cap_drop", json!(security.drop));
    }
}

#[cfg(test)]
mod tests {
    use holdfast_core::digest::Digest;
    use holdfast_core::image::ImageReference;

    use super::*;

    /// What core makes of every field that podman holds.
    const LOWERED: &str = include_str!("../../../core/tests/golden/podman/everything.json");
    /// What podman is sent for it. BLESS=1 writes it.
    const BODIES: &str = "tests/golden/podman_bodies.json";

    fn pod() -> Pod<PinnedImage> {
        let lowered: Value = serde_json::from_str(LOWERED).unwrap();
        let pods = lowered["pods"].as_array().unwrap();
        let web = pods.iter().find(|pod| pod[0] == "Pod/web").unwrap();
        let pod: Pod<ImageReference> = serde_json::from_value(web[1].clone()).unwrap();
        let digest = Digest::of(b"an image");
        pod.try_map_images(|reference| {
            Ok::<_, ()>(PinnedImage { reference: reference.pinned(digest), digest })
        })
        .unwrap()
    }

    #[test]
    fn podman_is_sent_what_is_written_down() {
        let (owner, pod) = (Owner { device: "emea/till-1".parse().unwrap() }, pod());
        let (app, key) = ("shop".parse().unwrap(), ObjectKey::new("Pod", "web"));
        let id = PodId::parse("0123456789abcdef").unwrap();
        let release = ReleaseId(Digest::of(b"a release"));
        let spec = PodSpec { owner: &owner, app: &app, key: &key, release, pod: &pod, id: &id };
        let mut places = Places::default();
        for mount in pod.all_containers().flat_map(|container| &container.mounts) {
            if matches!(pod.volumes.get(&mount.volume), Some(Volume::Files(_))) || mount.sub_path.is_some() {
                places.folders.insert(place_key(mount), format!("/run/holdfast/podman/{}", mount.volume));
            }
        }
        let main = spec.name_of("web");
        let bodies: Vec<Value> = pod
            .all_containers()
            .map(|container| {
                let role = match container.name.as_str() {
                    "migrate" => Role::Init,
                    "web" => Role::Main,
                    _ => Role::Beside(&main),
                };
                let address = "198.51.100.7".parse().unwrap();
                spec.body(&container.at(address, &[address]), "feedface", role, &places)
            })
            .collect();
        let text = serde_json::to_string_pretty(&bodies).unwrap() + "\n";
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(BODIES);
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        let expected = std::fs::read_to_string(&path).unwrap();
        assert!(expected == text, "{} differs; is now:\n{text}", path.display());
    }
}
