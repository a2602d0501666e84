//! What is asked of podman, as typed calls.

use std::collections::BTreeMap;
use std::time::Duration;

use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::{Value, json};

use super::client::{ApiError, Body, Call, Client, SOON, WORK, escaped};
use super::marks;

/// How long podman may take to unpack an image after it has all of it.
const UNPACKING: Duration = Duration::from_secs(600);

/// A container as the list has it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Listed {
    pub(super) id: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) names: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) labels: BTreeMap<String, String>,
}

/// A container as podman knows it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Inspected {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) state: State,
    pub(super) config: Config,
    #[serde(default)]
    network_settings: NetworkSettings,
    /// It was made before the box was started: it ended with the box.
    #[serde(skip)]
    pub(super) before_boot: bool,
}

/// Something that a container shows of the box.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Mounted {
    #[serde(default)]
    pub(super) source: String,
    #[serde(default, rename = "RW")]
    pub(super) is_writable: bool,
}

/// What podman says of a container's process.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct State {
    pub(super) status: String,
    pub(super) pid: i32,
    pub(super) conmon_pid: i32,
    pub(super) exit_code: i32,
    #[serde(rename = "OOMKilled")]
    pub(super) oom_killed: bool,
    pub(super) error: String,
}

/// What a container was made with.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Config {
    #[serde(default, deserialize_with = "or_default")]
    pub(super) labels: BTreeMap<String, String>,
    /// A number in podman 4, a name in podman 5.
    #[serde(default)]
    stop_signal: Value,
    /// In seconds.
    #[serde(default)]
    stop_timeout: Option<u64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct NetworkSettings {
    #[serde(rename = "IPAddress")]
    ip_address: String,
    #[serde(deserialize_with = "or_default")]
    networks: BTreeMap<String, EndpointSettings>,
    #[serde(deserialize_with = "or_default")]
    ports: BTreeMap<String, Option<Vec<HostPort>>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct HostPort {
    host_port: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct EndpointSettings {
    #[serde(rename = "IPAddress")]
    ip_address: String,
}

impl Inspected {
    /// A container that podman lists and can't say more of, for this reason: a kill took part of it.
    pub(super) fn unreadable(listed: Listed, why: &str) -> Self {
        Inspected {
            name: listed.names.into_iter().next().unwrap_or_else(|| listed.id.clone()),
            id: listed.id,
            state: State { status: format!("unreadable ({why})"), ..State::default() },
            config: Config { labels: listed.labels, stop_signal: Value::Null, stop_timeout: None },
            network_settings: NetworkSettings::default(),
            before_boot: false,
        }
    }

    /// The address of its own, if it has one.
    pub(super) fn address(&self) -> Option<&str> {
        let own = std::iter::once(&self.network_settings.ip_address);
        let others = self.network_settings.networks.values().map(|network| &network.ip_address);
        own.chain(others).map(String::as_str).find(|address| !address.is_empty())
    }

    /// The ports of the box that lead to it.
    pub(super) fn published(&self) -> Vec<u16> {
        let ports = self.network_settings.ports.values().flatten().flatten();
        ports.filter_map(|port| port.host_port.parse().ok()).collect()
    }

    /// How long it may take to stop, as it was made.
    pub(super) fn grace(&self) -> Option<Duration> {
        self.config.stop_timeout.map(Duration::from_secs)
    }

    /// The signal that asks it to stop.
    pub(super) fn stop_signal(&self) -> String {
        match &self.config.stop_signal {
            Value::Number(number) if number.as_u64().is_some_and(|number| number > 0) => number.to_string(),
            Value::String(name) if !name.is_empty() => name.clone(),
            _ => "SIGTERM".to_owned(),
        }
    }
}

/// A volume.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Volume {
    pub(super) name: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) labels: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) mountpoint: String,
}

/// An image.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Image {
    #[serde(default, deserialize_with = "or_default")]
    pub(super) names: Vec<String>,
}

/// An image's own user, for `runAsNonRoot`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ImageDetails {
    pub(super) id: String,
    #[serde(default)]
    pub(super) user: String,
}

/// How a program that was started in a container ended.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ExecState {
    #[serde(default)]
    pub(super) running: bool,
    #[serde(default)]
    pub(super) exit_code: i32,
    #[serde(default)]
    pub(super) pid: i32,
}

#[derive(Deserialize)]
struct Created {
    #[serde(rename = "Id")]
    id: String,
}

/// podman, asked by its API.
#[derive(Clone, Debug)]
pub(super) struct Api {
    client: Client,
}

/// Whether all of these labels are there. podman is asked for them, and not believed: it takes several labels of
/// volumes as "one of them" (seen with 4.3.1), and what is found by labels may be removed.
fn has_all(labels: &BTreeMap<String, String>, wanted: &[(&str, &str)]) -> bool {
    wanted.iter().all(|(key, value)| labels.get(*key).is_some_and(|found| found == value))
}

fn label_filter(labels: &[(&str, &str)]) -> String {
    let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    json!({ "label": labels }).to_string()
}

impl Api {
    pub(super) fn new(client: Client) -> Self {
        Api { client }
    }

    /// The version of podman.
    pub(super) async fn version(&self) -> Result<String, ApiError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Version {
            version: String,
        }
        self.client.json::<Version>(Call::get("/version")).await.map(|version| version.version)
    }

    /// Whether podman runs without root.
    pub(super) async fn is_rootless(&self) -> Result<bool, ApiError> {
        let info: Value = self.client.json(Call::get("/info")).await?;
        Ok(info.pointer("/host/security/rootless").and_then(Value::as_bool).unwrap_or(false))
    }

    /// All containers with these labels, whatever their state.
    pub(super) async fn containers(&self, labels: &[(&str, &str)]) -> Result<Vec<Listed>, ApiError> {
        let call = Call::get("/containers/json").query("all", "true").query("filters", label_filter(labels));
        let found: Option<Vec<Listed>> = self.client.json(call).await?;
        Ok(found.unwrap_or_default().into_iter().filter(|one| has_all(&one.labels, labels)).collect())
    }

    /// A container by its name or id; none if there is none.
    pub(super) async fn container(&self, name: &str) -> Result<Option<Inspected>, ApiError> {
        found(self.client.json(Call::get(format!("/containers/{}/json", escaped(name)))).await)
    }

    /// The containers that run with a volume.
    pub(super) async fn running_on(&self, volume: &str) -> Result<Vec<Listed>, ApiError> {
        let filters = json!({ "volume": [volume], "status": ["running", "paused"] }).to_string();
        let call = Call::get("/containers/json").query("all", "true").query("filters", filters);
        Ok(self.client.json::<Option<Vec<Listed>>>(call).await?.unwrap_or_default())
    }

    /// What a container shows of the box; nothing if there is none of that name or id.
    pub(super) async fn mounts(&self, name: &str) -> Result<Vec<Mounted>, ApiError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Mounts {
            #[serde(default, deserialize_with = "or_default")]
            mounts: Vec<Mounted>,
        }
        let call = Call::get(format!("/containers/{}/json", escaped(name)));
        let container: Option<Mounts> = found(self.client.json(call).await)?;
        Ok(container.map(|container| container.mounts).unwrap_or_default())
    }

    pub(super) async fn create(&self, body: &Value) -> Result<String, ApiError> {
        let call = Call::post("/containers/create").json(body).within(WORK);
        self.client.json::<Created>(call).await.map(|created| created.id)
    }

    /// Everything of a start but the start: its namespaces, its mounts, its process that waits.
    pub(super) async fn init(&self, name: &str) -> Result<(), ApiError> {
        self.work(format!("/containers/{}/init", escaped(name))).await
    }

    pub(super) async fn start(&self, name: &str) -> Result<(), ApiError> {
        self.work(format!("/containers/{}/start", escaped(name))).await
    }

    pub(super) async fn unpause(&self, name: &str) -> Result<(), ApiError> {
        self.work(format!("/containers/{}/unpause", escaped(name))).await
    }

    async fn work(&self, path: String) -> Result<(), ApiError> {
        self.client.send(Call::post(path).within(WORK)).await.map(drop)
    }

    pub(super) async fn kill(&self, name: &str, signal: &str) -> Result<(), ApiError> {
        let call = Call::post(format!("/containers/{}/kill", escaped(name))).query("signal", signal);
        self.client.send(call).await.map(drop)
    }

    /// Removes a container with its anonymous volumes, running or not. One that isn't there is no error.
    pub(super) async fn delete_container(&self, name: &str) -> Result<(), ApiError> {
        let path = format!("/containers/{}", escaped(name));
        let call =
            || Call::delete(path.clone()).query("force", "true").query("v", "true").query("depend", "true");
        let first = self.client.send(call().within(WORK)).await;
        match first {
            Ok(_) => Ok(()),
            Err(error) if error.is_not_found() => Ok(()),
            // Where conmon died, the first one fails and the second one removes (docs/adr/0008).
            Err(ApiError::Refused { .. }) => match self.client.send(call().within(WORK)).await {
                Ok(_) => Ok(()),
                Err(error) if error.is_not_found() => Ok(()),
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    /// The last lines of a container's log.
    pub(super) async fn logs(&self, name: &str, lines: usize) -> Result<Vec<u8>, ApiError> {
        let call = Call::get(format!("/containers/{}/logs", escaped(name)))
            .query("stdout", "true")
            .query("stderr", "true")
            .query("tail", lines.to_string());
        self.client.send(call).await.map(|answer| answer.body.to_vec())
    }

    /// Prepares a program in a container.
    pub(super) async fn exec_create(&self, name: &str, command: &[String]) -> Result<String, ApiError> {
        let body = json!({ "Cmd": command, "AttachStdout": true, "AttachStderr": true });
        let call = Call::post(format!("/containers/{}/exec", escaped(name))).json(&body);
        self.client.json::<Created>(call).await.map(|created| created.id)
    }

    /// Starts it, and waits until it has ended: its output ends with it.
    pub(super) async fn exec_start(&self, id: &str, limit: Duration) -> Result<(), ApiError> {
        let body = json!({ "Detach": false, "Tty": false });
        let call = Call::post(format!("/exec/{id}/start")).json(&body).within(limit).waiting_for_a_program();
        self.client.send(call).await.map(drop)
    }

    pub(super) async fn exec_state(&self, id: &str) -> Result<ExecState, ApiError> {
        self.client.json(Call::get(format!("/exec/{id}/json"))).await
    }

    /// All volumes with these labels.
    pub(super) async fn volumes(&self, labels: &[(&str, &str)]) -> Result<Vec<Volume>, ApiError> {
        let call = Call::get("/volumes/json").query("filters", label_filter(labels));
        let found: Option<Vec<Volume>> = self.client.json(call).await?;
        Ok(found.unwrap_or_default().into_iter().filter(|one| has_all(&one.labels, labels)).collect())
    }

    pub(super) async fn volume(&self, name: &str) -> Result<Option<Volume>, ApiError> {
        found(self.client.json(Call::get(format!("/volumes/{}/json", escaped(name)))).await)
    }

    pub(super) async fn create_volume(
        &self,
        name: &str,
        labels: &BTreeMap<&'static str, String>,
    ) -> Result<Volume, ApiError> {
        let body = json!({ "Name": name, "Label": labels, "Labels": labels });
        self.client.json(Call::post("/volumes/create").json(&body)).await
    }

    pub(super) async fn delete_volume(&self, name: &str) -> Result<(), ApiError> {
        absent_is_fine(self.client.send(Call::delete(format!("/volumes/{}", escaped(name)))).await.map(drop))
    }

    /// The bridge that pods share is made if it isn't there.
    pub(super) async fn ensure_network(&self) -> Result<(), ApiError> {
        let there = self.client.send(Call::get(format!("/networks/{}/exists", marks::NETWORK))).await;
        match there {
            Ok(_) => return Ok(()),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
        let body = json!({ "name": marks::NETWORK, "driver": "bridge", "dns_enabled": true });
        match self.client.send(Call::post("/networks/create").json(&body)).await {
            // Another agent may have been faster.
            Err(error) if error.says("already") => Ok(()),
            other => other.map(drop),
        }
    }

    /// Every image.
    pub(super) async fn images(&self) -> Result<Vec<Image>, ApiError> {
        self.client.json::<Option<Vec<Image>>>(Call::get("/images/json")).await.map(Option::unwrap_or_default)
    }

    /// An image by its name or id; none if there is none.
    pub(super) async fn image(&self, name: &str) -> Result<Option<ImageDetails>, ApiError> {
        // The name's slashes stay: podman takes the rest of the path as the name.
        found(self.client.json(Call::get(format!("/images/{name}/json"))).await)
    }

    pub(super) async fn delete_image(&self, name: &str) -> Result<(), ApiError> {
        absent_is_fine(self.client.send(Call::delete(format!("/images/{name}"))).await.map(drop))
    }

    /// Loads the archive of an image.
    pub(super) async fn load(&self, archive: Body, bytes: u64) -> Result<(), ApiError> {
        // A slow medium gets its time: a MB each second beside what unpacking takes.
        let limit = UNPACKING + Duration::from_secs(bytes >> 20);
        let call = Call::post("/images/load").within(limit);
        self.client.upload(call, archive).await.map(drop)
    }

    /// Has a secret of this name with this value. One that is there may be anybody's, and can't be read: it is made anew.
    pub(super) async fn put_secret(&self, name: &str, value: &[u8]) -> Result<(), ApiError> {
        let create = || Call::post("/secrets/create").query("name", name).bytes(value.to_vec());
        match self.client.send(create()).await {
            Err(error) if error.says("name in use") || error.says("already") => {
                self.delete_secret(name).await?;
                self.client.send(create()).await.map(drop)
            }
            other => other.map(drop),
        }
    }

    pub(super) async fn delete_secret(&self, name: &str) -> Result<(), ApiError> {
        absent_is_fine(self.client.send(Call::delete(format!("/secrets/{}", escaped(name)))).await.map(drop))
    }

    /// The names of all secrets.
    pub(super) async fn secrets(&self) -> Result<Vec<String>, ApiError> {
        let all: Option<Vec<Value>> = self.client.json(Call::get("/secrets/json")).await?;
        let name = |secret: &Value| secret.pointer("/Spec/Name").and_then(Value::as_str).map(str::to_owned);
        Ok(all.unwrap_or_default().iter().filter_map(name).collect())
    }

    /// What happens to containers with this label, as it happens.
    pub(super) async fn events(&self, label: (&str, &str), limit: Duration) -> Result<Incoming, ApiError> {
        let filters = json!({ "type": ["container"], "label": [format!("{}={}", label.0, label.1)] });
        let call = Call::get("/events").query("stream", "true").query("filters", filters.to_string());
        self.client.stream(call.within(limit.min(SOON))).await
    }
}

fn found<T>(answer: Result<T, ApiError>) -> Result<Option<T>, ApiError> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

fn absent_is_fine(answer: Result<(), ApiError>) -> Result<(), ApiError> {
    match answer {
        Err(error) if error.is_not_found() => Ok(()),
        other => other,
    }
}

/// podman writes `null` for what is empty.
fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}
