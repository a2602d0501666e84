//! A pod as podman can run it: what Kubernetes' workloads are lowered to (see [`crate::lower`]). Everything
//! that a container needs stands in it, so that the same pod is the same value, and another value another pod.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::image::ImageReference;
use crate::name::ObjectKey;
use crate::release::{EnvValue, Restart, SecretRef};

/// One pod. `I` is how its images are named: an [`ImageReference`] while it is desired, a [`PinnedImage`] once
/// it is resolved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", bound(deserialize = "I: Deserialize<'de>"))]
pub struct Pod<I> {
    /// The workload that it was made from, such as `Deployment/pos/pos`: what health checks name.
    pub workload: ObjectKey,
    /// What it calls itself: the host name in its containers.
    pub hostname: String,
    /// The network that its containers share.
    pub network: Network,
    /// Lines of `/etc/hosts` beside the usual ones: an address with its names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<HostAlias>,
    /// Containers that run to their end, one after the other, before the others start.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub init: Vec<Container<I>>,
    /// The containers; at least one.
    pub containers: Vec<Container<I>>,
    /// Its volumes, by their names in it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub volumes: BTreeMap<String, Volume>,
    /// What happens when a container ends.
    pub restart: Restart,
    /// Set for a job: how it may fail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<Job>,
    /// How long its containers may take to stop, in seconds.
    pub grace_seconds: u32,
    /// Whether it sees the box's processes.
    #[serde(default, skip_serializing_if = "is_false")]
    pub host_pid: bool,
    /// Whether it shares the box's IPC.
    #[serde(default, skip_serializing_if = "is_false")]
    pub host_ipc: bool,
}

/// When a job counts as failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Job {
    /// How often it is tried again.
    pub backoff_limit: u32,
    /// After how many seconds it is given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_seconds: Option<u32>,
}

/// How a pod reaches the network, and is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Network {
    /// It uses the box's own.
    Host,
    /// An address of its own on the bridge that the box's pods share.
    #[serde(rename_all = "camelCase")]
    Bridge {
        /// Ports of the box that lead to it.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        ports: Vec<PortMapping>,
        /// Names that other pods find it by.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        aliases: Vec<String>,
    },
}

/// A port of the box that leads into a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortMapping {
    /// The box's address; none is all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
    /// The box's port.
    pub host_port: u16,
    /// The pod's port.
    pub container_port: u16,
    /// What is spoken there.
    pub protocol: Protocol,
}

/// What is spoken on a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// A line of `/etc/hosts`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostAlias {
    /// The address.
    pub ip: IpAddr,
    /// Its names.
    pub names: Vec<String>,
}

/// An image with nothing mutable left in it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PinnedImage {
    /// What the manifest calls it.
    pub reference: ImageReference,
    /// The digest of its manifest, or of an index with one manifest for each kind of machine.
    pub digest: Digest,
}

/// One container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Container<I> {
    /// Its name in the pod.
    pub name: String,
    /// What runs.
    pub image: I,
    /// Instead of the image's entry point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// Instead of the image's command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub args: Option<Vec<String>>,
    /// Instead of the image's working folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    /// The environment beside the image's own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, EnvValue>,
    /// Where the pod's volumes are seen.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
    /// What it may use.
    #[serde(default, skip_serializing_if = "Limits::is_none")]
    pub limits: Limits,
    /// What it may do.
    #[serde(default, skip_serializing_if = "Security::is_usual")]
    pub security: Security,
    /// Asked until it answers for the first time; the others wait for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub startup: Option<Probe>,
    /// When it fails, the container is started again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub liveness: Option<Probe>,
    /// While it fails, the app isn't healthy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readiness: Option<Probe>,
    /// What is done after its start and before its stop.
    #[serde(default, skip_serializing_if = "Lifecycle::is_none")]
    pub lifecycle: Lifecycle,
}

/// What is done after a container's start and before its stop.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lifecycle {
    /// Right after each start. Until it has succeeded the container isn't ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub post_start: Option<Hook>,
    /// Before it is asked to stop. Its time counts as part of the pod's grace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pre_stop: Option<Hook>,
}

impl Lifecycle {
    fn is_none(&self) -> bool {
        *self == Lifecycle::default()
    }
}

/// One thing that is done with a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Hook {
    /// A program in the container, which must end with 0.
    Exec(Vec<String>),
    /// A GET that must be answered. As the kubelet does it, any status will do.
    Http(HttpGet),
    /// So many seconds pass.
    Sleep(u32),
}

/// Stands in a variable or an argument for the box's own address, which is known only where the container is made, and
/// when. Neither can hold a zero byte, so that nothing that somebody writes is taken for it.
pub const HOST_IP: &str = "\0status.hostIP\0";
/// As [`HOST_IP`], for all addresses of the box, with commas.
pub const HOST_IPS: &str = "\0status.hostIPs\0";

/// What a container may use. None is no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// Bytes of memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Thousandths of a core.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_millis: Option<u32>,
    /// The thousandths of a core that it counts for when processors are short.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_request_millis: Option<u32>,
}

impl Limits {
    fn is_none(&self) -> bool {
        *self == Limits::default()
    }
}

/// What a container may do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Security {
    /// The user that it runs as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<u32>,
    /// The group that it runs as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<u32>,
    /// Further groups.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<u32>,
    /// Root is refused.
    #[serde(default, skip_serializing_if = "is_false")]
    pub non_root: bool,
    /// Everything is allowed.
    #[serde(default, skip_serializing_if = "is_false")]
    pub privileged: bool,
    /// Its root file system can't be written to.
    #[serde(default, skip_serializing_if = "is_false")]
    pub read_only: bool,
    /// No program gives it more rights than it has.
    #[serde(default, skip_serializing_if = "is_false")]
    pub no_new_privileges: bool,
    /// Capabilities beside the usual ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub add: Vec<String>,
    /// Capabilities that are taken away; `ALL` is all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drop: Vec<String>,
}

impl Security {
    fn is_usual(&self) -> bool {
        *self == Security::default()
    }
}

/// A volume in a container's file system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mount {
    /// The volume's name in the pod.
    pub volume: String,
    /// Where it is seen, absolute.
    pub path: String,
    /// Only this part of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sub_path: Option<String>,
    /// It can't be written to.
    #[serde(default, skip_serializing_if = "is_false")]
    pub read_only: bool,
    /// Whether what is mounted later, by the box or by the container, is seen by the other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub propagation: Option<Propagation>,
}

/// Which later mounts are seen through a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Propagation {
    /// The box's are seen in the container.
    HostToContainer,
    /// Each sees the other's.
    Bidirectional,
}

/// What a volume is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Volume {
    /// A volume that outlives its pods: `namespace` and name of its PersistentVolumeClaim.
    Claim(ObjectKey),
    /// An empty folder that goes with the pod.
    #[serde(rename_all = "camelCase")]
    Empty {
        /// In memory instead of on disk.
        #[serde(default, skip_serializing_if = "is_false")]
        memory: bool,
        /// How large it may become, in bytes; held for those in memory.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        size: Option<u64>,
    },
    /// A file or folder of the box.
    #[serde(rename_all = "camelCase")]
    Host {
        /// Where it is.
        path: String,
        /// What must be there.
        #[serde(default)]
        kind: HostPathKind,
    },
    /// Files that the documents give, by their paths in the volume.
    Files(BTreeMap<String, ConfigFile>),
}

/// What a `hostPath` must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HostPathKind {
    /// Whatever there is.
    #[default]
    Any,
    /// A folder, made if it isn't there.
    DirectoryOrCreate,
    /// A folder.
    Directory,
    /// A file, made if it isn't there.
    FileOrCreate,
    /// A file.
    File,
    /// A socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

/// A file that the documents give.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigFile {
    /// Its permissions, as `chmod` takes them.
    pub mode: u32,
    /// What is in it.
    pub content: FileContent,
}

/// What is in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum FileContent {
    /// Text.
    Text(String),
    /// Bytes that are no text, in base64.
    Base64(String),
    /// Opened by the executor only.
    Secret(SecretRef),
}

/// A question to a container, asked again and again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Probe {
    /// What is asked.
    pub ask: Ask,
    /// How long after the container's start it begins.
    pub initial_delay: Duration,
    /// From one to the next.
    pub period: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// So many in a row must succeed to count.
    pub success_threshold: u32,
    /// So many in a row must fail to count.
    pub failure_threshold: u32,
}

/// What a probe asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Ask {
    /// A program in the container, which must end with 0.
    Exec(Vec<String>),
    /// A GET that must be answered with 200 to 399.
    Http(HttpGet),
    /// A connection that must be taken.
    #[serde(rename_all = "camelCase")]
    Tcp {
        /// Instead of the pod's address.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host: Option<String>,
        /// The port in the pod.
        port: u16,
    },
    /// A question by gRPC's health protocol, without TLS, that must be answered with `SERVING`.
    #[serde(rename_all = "camelCase")]
    Grpc {
        /// The port in the pod.
        port: u16,
        /// Which of the server's services is asked for; empty is the server as a whole.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        service: String,
    },
}

/// A GET.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpGet {
    /// By TLS. As the kubelet does it, the certificate isn't checked: the pod is known by its address.
    #[serde(default, skip_serializing_if = "is_false")]
    pub tls: bool,
    /// Instead of the pod's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The port in the pod.
    pub port: u16,
    /// The path with its query.
    pub path: String,
    /// Headers beside the usual ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, String)>,
}

impl<I> Pod<I> {
    /// The init containers, then the others.
    pub fn all_containers(&self) -> impl Iterator<Item = &Container<I>> {
        self.init.iter().chain(&self.containers)
    }

    /// The same pod with its images named otherwise.
    pub fn try_map_images<J, E>(self, mut name: impl FnMut(I) -> Result<J, E>) -> Result<Pod<J>, E> {
        let mut map = |containers: Vec<Container<I>>| -> Result<Vec<Container<J>>, E> {
            containers.into_iter().map(|container| container.try_map_image(&mut name)).collect()
        };
        Ok(Pod {
            init: map(self.init)?,
            containers: map(self.containers)?,
            workload: self.workload,
            hostname: self.hostname,
            network: self.network,
            hosts: self.hosts,
            volumes: self.volumes,
            restart: self.restart,
            job: self.job,
            grace_seconds: self.grace_seconds,
            host_pid: self.host_pid,
            host_ipc: self.host_ipc,
        })
    }

    /// Every secret that it uses.
    pub fn secrets(&self) -> impl Iterator<Item = &SecretRef> {
        let env = self.all_containers().flat_map(|container| container.env.values());
        let env = env.filter_map(|value| match value {
            EnvValue::Secret { secret_ref } => Some(secret_ref),
            EnvValue::Plain(_) => None,
        });
        let files = self.volumes.values().flat_map(|volume| match volume {
            Volume::Files(files) => files.values().collect(),
            _ => Vec::new(),
        });
        env.chain(files.into_iter().filter_map(|file| match &file.content {
            FileContent::Secret(secret_ref) => Some(secret_ref),
            _ => None,
        }))
    }
}

impl<I: Clone> Container<I> {
    /// Whether something in it stands for the box's address.
    pub fn wants_address(&self) -> bool {
        let env = self.env.values().filter_map(|value| match value {
            EnvValue::Plain(text) => Some(text),
            EnvValue::Secret { .. } => None,
        });
        let words = self.command.iter().chain(&self.args).flatten();
        env.chain(words).any(|text| [HOST_IP, HOST_IPS].iter().any(|mark| text.contains(mark)))
    }

    /// The same container on a box with these addresses, of which the first is the box's own.
    pub fn at(&self, first: IpAddr, all: &[IpAddr]) -> Self {
        let all: Vec<String> = all.iter().map(IpAddr::to_string).collect();
        let (first, all) = (first.to_string(), all.join(","));
        let told = |text: &String| text.replace(HOST_IP, &first).replace(HOST_IPS, &all);
        let words = |words: &Option<Vec<String>>| Some(words.as_ref()?.iter().map(told).collect());
        let env = self.env.iter().map(|(name, value)| match value {
            EnvValue::Plain(text) => (name.clone(), EnvValue::Plain(told(text))),
            secret @ EnvValue::Secret { .. } => (name.clone(), secret.clone()),
        });
        Container {
            env: env.collect(),
            command: words(&self.command),
            args: words(&self.args),
            ..self.clone()
        }
    }
}

impl<I> Container<I> {
    fn try_map_image<J, E>(self, name: impl FnOnce(I) -> Result<J, E>) -> Result<Container<J>, E> {
        Ok(Container {
            image: name(self.image)?,
            name: self.name,
            command: self.command,
            args: self.args,
            working_dir: self.working_dir,
            env: self.env,
            mounts: self.mounts,
            limits: self.limits,
            security: self.security,
            startup: self.startup,
            liveness: self.liveness,
            readiness: self.readiness,
            lifecycle: self.lifecycle,
        })
    }
}

fn is_false(value: &bool) -> bool {
    !value
}
