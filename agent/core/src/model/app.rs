//! The App document: where an app runs, what it needs, what it is, and how it is judged.

use std::collections::BTreeSet;
use std::str::FromStr;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::decode::{Context, Decode, Placed, entries, record, text, words};
use super::document::{Metadata, Values};
use super::selector::Selector;
use super::units::Span;
use super::wasm::{ArtifactRef, WasmFields};
use crate::diagnostic::quoted;
use crate::name::{AppName, is_subdomain};
use crate::release::{Check, HealthPolicy, Immutable, OnFailure, Policy, Strategy, WorkloadKind};
use crate::runtime::DriverName;
use crate::yaml::{Node, NodeValue};

/// An app: `apps/<name>/app.yaml`.
#[derive(Clone, Debug, PartialEq)]
pub struct App {
    /// Its name and labels.
    pub metadata: Metadata,
    /// What it says.
    pub spec: AppSpec,
}

/// What an App document says.
#[derive(Clone, Debug, PartialEq)]
pub struct AppSpec {
    /// Which boxes it runs on.
    pub placement: Selector,
    /// What the box must have.
    pub requires: Requires,
    /// Apps that must be good first.
    pub depends_on: Vec<Placed<AppName>>,
    /// The lowest layer of values.
    pub values: Values,
    /// Layers for some boxes, in order.
    pub overrides: Vec<Override>,
    /// What it is.
    pub workload: Body,
    /// The service account that it is limited to, on Kubernetes.
    pub service_account: Option<ServiceAccountName>,
    /// How it is judged and changed.
    pub policy: Policy<ArtifactRef>,
}

/// What an app is: exactly one of these.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// Kubernetes YAML in `manifests/`.
    Container(ContainerSpec),
    /// Its fields were checked; the strings in it are templates.
    Wasm(Node),
    /// A map; the strings in it are templates.
    Vm(Node),
    /// A map; the strings in it are templates.
    Plugin(Node),
}

impl Body {
    /// Which one it is.
    pub fn kind(&self) -> WorkloadKind {
        match self {
            Body::Container(_) => WorkloadKind::Container,
            Body::Wasm(_) => WorkloadKind::Wasm,
            Body::Vm(_) => WorkloadKind::Vm,
            Body::Plugin(_) => WorkloadKind::Plugin,
        }
    }
}

/// Versions of the agent that can hold an app, such as `>=0.1` (Cargo's syntax of semver requirements).
#[derive(Clone, Debug, PartialEq)]
pub struct AgentVersions(pub semver::VersionReq);

impl FromStr for AgentVersions {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        semver::VersionReq::parse(text)
            .map(AgentVersions)
            .map_err(|error| format!("{} is not a range of versions: {error}; write >=0.1", quoted(text)))
    }
}
text!(AgentVersions, json!({"type": "string", "examples": [">=0.1"]}));

/// The name of a Kubernetes service account: an RFC 1123 subdomain.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceAccountName(String);

impl ServiceAccountName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ServiceAccountName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if is_subdomain(text) {
            Ok(ServiceAccountName(text.to_owned()))
        } else {
            Err(format!(
                "{} is not a valid name for a service account: use parts of 1 to 63 of a-z, 0-9 and '-', joined by '.', 253 \
                 characters in all; its namespace is container.namespace",
                quoted(text)
            ))
        }
    }
}
text!(ServiceAccountName, json!({"type": "string", "maxLength": 253, "examples": ["pos-deployer"]}));

record! {
    /// What the box must have.
    pub struct Requires, "requires" {
        /// Versions of the agent that can run the app.
        "agent" => agent: Option<AgentVersions> = None;
    }
}

record! {
    /// Values for some boxes.
    pub struct Override, "the override" {
        /// Which boxes it applies to.
        "when" => when: Selector;
        /// Values, merged over the layers below.
        "values" => values: Values = Values::new();
    }
}

words! {
    /// The runtime that containers run on.
    pub enum ContainerDriver {
        /// Whichever the box has: Kubernetes before podman.
        Any = "any",
        /// podman.
        Podman = "podman",
        /// Kubernetes.
        Kubernetes = "kubernetes",
        /// A folder that stands for a runtime, for tests.
        Simulated = "simulated",
    }
}

impl ContainerDriver {
    /// The driver, if a certain one is asked for.
    pub fn name(self) -> Option<DriverName> {
        match self {
            ContainerDriver::Any => None,
            ContainerDriver::Podman => Some(DriverName::PODMAN),
            ContainerDriver::Kubernetes => Some(DriverName::KUBERNETES),
            ContainerDriver::Simulated => Some(DriverName::SIMULATED),
        }
    }

    /// Whether it may be this one.
    pub fn may_be(self, driver: DriverName) -> bool {
        self.name().is_none_or(|name| name == driver)
    }
}

record! {
    /// Containers, described by the Kubernetes YAML in the app's `manifests/`.
    pub struct ContainerSpec, "container" {
        /// The namespace of objects that name none; the app's name unless given.
        "namespace" => namespace: Option<AppName> = None;
        /// The runtime.
        "driver" => driver: ContainerDriver = ContainerDriver::Any;
    }
}

impl Decode for OnFailure {
    fn decode(node: &Node, context: &mut Context<'_>) -> Option<Self> {
        OnFailureWord::decode(node, context).map(|word| match word {
            OnFailureWord::Rollback => OnFailure::Rollback,
            OnFailureWord::Hold => OnFailure::Hold,
        })
    }

    fn schema() -> Value {
        OnFailureWord::schema()
    }
}

words! {
    /// What to do after a failure.
    pub enum OnFailureWord {
        /// The last known good release is restored.
        Rollback = "rollback",
        /// The failed release stays, and the app is held.
        Hold = "hold",
    }
}

words! {
    /// How the new release takes the old one's place.
    pub enum StrategyWord {
        /// The old one is stopped, then the new one is started.
        StopStart = "stop-start",
        /// The new one is started, and once it is ready the old one is stopped.
        StartStop = "start-stop",
    }
}

impl Decode for Strategy {
    fn decode(node: &Node, context: &mut Context<'_>) -> Option<Self> {
        StrategyWord::decode(node, context).map(|word| match word {
            StrategyWord::StopStart => Strategy::StopStart,
            StrategyWord::StartStop => Strategy::StartStop,
        })
    }

    fn schema() -> Value {
        StrategyWord::schema()
    }
}

words! {
    /// What happens to a change that the runtime can't make in place.
    pub enum ImmutableWord {
        /// The app is held.
        Hold = "hold",
        /// The object is removed and recreated, unless it holds data.
        Recreate = "recreate",
    }
}

impl Decode for Immutable {
    fn decode(node: &Node, context: &mut Context<'_>) -> Option<Self> {
        ImmutableWord::decode(node, context).map(|word| match word {
            ImmutableWord::Hold => Immutable::Hold,
            ImmutableWord::Recreate => Immutable::Recreate,
        })
    }

    fn schema() -> Value {
        ImmutableWord::schema()
    }
}

record! {
    /// How an app is updated.
    pub struct Update, "update" {
        /// How the new release takes the old one's place.
        "strategy" => strategy: Placed<Strategy> = default_strategy();
        /// The app changes data so that the old version can't read it: after a failure the app is held, not rolled back.
        "irreversible" => irreversible: bool = false;
        /// What happens to a change that the runtime can't make in place; objects that hold data are never recreated.
        "immutable" => immutable: Placed<Immutable> = default_immutable();
        /// The apps that name the same group change together on a box: all of them, or none.
        "group" => group: Option<AppName> = None;
    }
}

record! {
    /// How an app's health is judged.
    pub struct HealthFields, "health" {
        /// How long it may be unhealthy after its start before that counts.
        "startup" => startup: Span = Span(HealthPolicy::<ArtifactRef>::default().startup);
        /// The time after its start by which it must have been healthy for `soak`.
        "deadline" => deadline: Span = Span(HealthPolicy::<ArtifactRef>::default().deadline);
        /// How long it must stay healthy without a break.
        "soak" => soak: Span = Span(HealthPolicy::<ArtifactRef>::default().soak);
        /// Health checks that are asked in addition to the runtime.
        "checks" => checks: Vec<Check<ArtifactRef>> = Vec::new();
    }
}

record! {
    /// The App document's fields as they are written.
    pub struct AppFields, "spec" {
        /// Which boxes it runs on; `{}` is every box.
        "placement" => placement: Selector;
        /// What the app requires of the box.
        "requires" => requires: Requires = Requires { agent: None };
        /// Apps that must be good before this one changes.
        "dependsOn" => depends_on: Vec<Placed<AppName>> = Vec::new();
        /// The lowest layer of values.
        "values" => values: Values = Values::new();
        /// Layers of values for some boxes, in this order.
        "overrides" => overrides: Vec<Override> = Vec::new();
        /// Containers, described by Kubernetes YAML in `manifests/`.
        "container" => container: Option<ContainerSpec> = None;
        /// A WebAssembly module or component.
        "wasm" => wasm: Option<WasmTemplate> = None;
        /// A virtual machine.
        "vm" => vm: Option<Opaque> = None;
        /// A workload for a driver that is a program outside of Holdfast.
        "plugin" => plugin: Option<Opaque> = None;
        /// The Kubernetes service account that applies the app's objects, in container.namespace; has no effect
        /// on podman.
        "serviceAccount" => service_account: Option<Placed<ServiceAccountName>> = None;
        /// How its health is judged.
        "health" => health: Placed<HealthPolicy<ArtifactRef>> = default_health();
        /// What to do after a failure.
        "onFailure" => on_failure: OnFailure = OnFailure::Rollback;
        /// How it is updated.
        "update" => update: Update = default_update();
    }
}

fn default_strategy() -> Placed<Strategy> {
    Placed { at: crate::diagnostic::Position::START, value: Strategy::StopStart }
}

fn default_immutable() -> Placed<Immutable> {
    Placed { at: crate::diagnostic::Position::START, value: Immutable::Hold }
}

fn default_update() -> Update {
    Update { strategy: default_strategy(), irreversible: false, immutable: default_immutable(), group: None }
}

fn default_health() -> Placed<HealthPolicy<ArtifactRef>> {
    Placed { at: crate::diagnostic::Position::START, value: HealthPolicy::default() }
}

impl Decode for HealthPolicy<ArtifactRef> {
    fn decode(node: &Node, context: &mut Context<'_>) -> Option<Self> {
        let fields = HealthFields::decode(node, context)?;
        if fields.deadline.0 < fields.soak.0 || fields.deadline.0.is_zero() {
            let message = "the deadline is shorter than the soak: no release could ever be good";
            context.error_with(node.at, message, "make health.deadline longer than health.soak");
            return None;
        }
        if let Some(interval) = slow_metrics(&fields.checks, fields.soak.0) {
            let message = format!(
                "the soak is shorter than two scrape intervals of a metrics check ({interval:?} each)"
            );
            let hint = "make health.soak longer, or the check's interval shorter";
            context.error_with(node.at, message, hint);
            return None;
        }
        Some(HealthPolicy {
            startup: fields.startup.0,
            deadline: fields.deadline.0,
            soak: fields.soak.0,
            checks: fields.checks,
        })
    }

    fn schema() -> Value {
        HealthFields::schema()
    }
}

/// The interval of a metrics check that would never see anything grow before the app is found good.
fn slow_metrics(checks: &[Check<ArtifactRef>], soak: Duration) -> Option<Duration> {
    checks.iter().find_map(|check| match check {
        Check::Metrics(metrics) if 2 * metrics.interval > soak => Some(metrics.interval),
        _ => None,
    })
}

/// The `wasm` part, whose fields were checked as far as that goes before its templates are rendered.
#[derive(Clone, Debug, PartialEq)]
pub struct WasmTemplate(pub Node);

impl Decode for WasmTemplate {
    fn decode(node: &Node, context: &mut Context<'_>) -> Option<Self> {
        let mut inner = Context::with_templates(context.file());
        // What it decodes to doesn't count yet: only whether it can.
        let _ = WasmFields::decode(node, &mut inner);
        let whole = inner.errors.is_empty();
        context.errors.append(&mut inner.errors);
        whole.then(|| WasmTemplate(node.clone()))
    }

    fn schema() -> Value {
        WasmFields::schema()
    }
}

/// A map that only its driver understands.
#[derive(Clone, Debug, PartialEq)]
pub struct Opaque(pub Node);

impl Decode for Opaque {
    fn decode(node: &Node, context: &mut Context<'_>) -> Option<Self> {
        entries(node, context).map(|_| Opaque(node.clone()))
    }

    fn schema() -> Value {
        <Map<String, Value>>::schema()
    }
}

impl Decode for AppSpec {
    fn decode(node: &Node, context: &mut Context<'_>) -> Option<Self> {
        let given: Vec<&str> =
            WORKLOADS.into_iter().filter(|key| node.get(key).is_some_and(|node| !node.is_null())).collect();
        let empty_container = given.is_empty() && node.get("container").is_some();
        if given.len() != 1 && !empty_container {
            let message = match given.as_slice() {
                [] => "no workload type is given".to_owned(),
                given => format!("more than one workload type is given: {}", given.join(" and ")),
            };
            context.error_with(node.at, message, "give exactly one of container, wasm, vm, plugin");
        }
        let fields = AppFields::decode(node, context)?;
        let empty = ContainerSpec { namespace: None, driver: ContainerDriver::Any };
        let workload = match (fields.container, fields.wasm, fields.vm, fields.plugin) {
            (Some(container), None, None, None) => Body::Container(container),
            (None, Some(wasm), None, None) => Body::Wasm(wasm.0),
            (None, None, Some(vm), None) => Body::Vm(vm.0),
            (None, None, None, Some(plugin)) => Body::Plugin(plugin.0),
            (None, None, None, None) if empty_container => Body::Container(empty),
            _ => return None,
        };
        if fields.update.strategy.value == Strategy::StartStop && !matches!(workload, Body::Container(_)) {
            let hint = "write strategy: stop-start";
            context.error_with(
                fields.update.strategy.at,
                "strategy: start-stop is only for containers: two instances of this workload can't run side by side",
                hint,
            );
        }
        if fields.update.immutable.value == Immutable::Recreate && !matches!(workload, Body::Container(_)) {
            let hint = "remove immutable";
            context.error_with(
                fields.update.immutable.at,
                "immutable: recreate is only for containers: nothing in this app is immutable",
                hint,
            );
        }
        if matches!(workload, Body::Wasm(_)) {
            refuse_exec(node, context);
        }
        if let Some(account) = &fields.service_account {
            refuse_account(account, &workload, context);
        }
        let depends_on: BTreeSet<AppName> =
            fields.depends_on.iter().map(|dependency| dependency.value.clone()).collect();
        Some(AppSpec {
            placement: fields.placement,
            requires: fields.requires,
            depends_on: fields.depends_on,
            values: fields.values,
            overrides: fields.overrides,
            workload,
            service_account: fields.service_account.map(|account| account.value),
            policy: Policy {
                depends_on,
                health: fields.health.value,
                on_failure: fields.on_failure,
                strategy: fields.update.strategy.value,
                irreversible: fields.update.irreversible,
                immutable: fields.update.immutable.value,
                group: fields.update.group,
            },
        })
    }

    fn schema() -> Value {
        let mut schema = AppFields::schema();
        let choices: Vec<Value> = WORKLOADS.iter().map(|key| json!({"required": [key]})).collect();
        if let Value::Object(map) = &mut schema {
            map.insert("oneOf".to_owned(), Value::Array(choices));
        }
        schema
    }
}

/// Only Kubernetes has service accounts: where the app can't be on Kubernetes, what was meant can't be had.
fn refuse_account(account: &Placed<ServiceAccountName>, workload: &Body, context: &mut Context<'_>) {
    let (message, hint) = match workload {
        Body::Container(container) => match container.driver {
            ContainerDriver::Any | ContainerDriver::Kubernetes => return,
            ContainerDriver::Podman | ContainerDriver::Simulated => (
                "serviceAccount needs Kubernetes, but the app has another driver",
                "write driver: kubernetes or driver: any under container, or remove serviceAccount",
            ),
        },
        Body::Wasm(_) | Body::Vm(_) | Body::Plugin(_) => {
            ("only containers on Kubernetes have a service account", "remove serviceAccount")
        }
    };
    context.error_with(account.at, message, hint);
}

/// In a component there is nothing that another program could be run in.
fn refuse_exec(spec: &Node, context: &mut Context<'_>) {
    let checks = spec.get("health").and_then(|health| health.get("checks"));
    let Some(NodeValue::Sequence(checks)) = checks.map(|checks| &checks.value) else { return };
    for exec in checks.iter().filter_map(|check| check.get("exec")) {
        let message = "a wasm app can't have an exec check: a component contains no other programs";
        context.error_with(exec.at, message, "use an http or tcp check, or remove the check");
    }
}

const WORKLOADS: [&str; 4] = ["container", "wasm", "vm", "plugin"];
