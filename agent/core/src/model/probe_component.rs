//! Health checks by probe components, as documents write them.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::decode::{Context, Decode, Placed, Whole, record};
use super::units::{Bytes, Span};
use super::wasm::{Argument, ArtifactRef};
use crate::diagnostic::{Position, quoted};
use crate::name::ObjectKey;
use crate::probe_component::{RESERVED_PREFIX, TargetPort, WasmCheck};
use crate::yaml::Node;

record! {
    /// A WebAssembly program that the agent runs beside the app, and that must end with 0.
    pub struct WasmCheckFields, "wasm" {
        /// The code: a file of the app, or oci://host/name@sha256:…; a module, a component, or text (.wat).
        "component" => component: ArtifactRef;
        /// Arguments after the program's name.
        "args" => args: Vec<Argument> = Vec::new();
        /// The environment; the program also gets HOLDFAST_APP and, with a target, HOLDFAST_TARGET.
        "env" => env: Placed<BTreeMap<String, Argument>> = Placed { at: Position::START, value: BTreeMap::new() };
        /// An object of the app that the program may connect to, such as Deployment/pos.
        "target" => target: Option<ObjectKey> = None;
        /// The port in the workload.
        "port" => port: Option<Whole<1, 65535>> = None;
        /// How long it may take, at most 1m.
        "timeout" => timeout: Placed<Span> = Placed { at: Position::START, value: Span(TIMEOUT) };
        /// How much memory it may use, 64Ki to 1Gi.
        "memory" => memory: Placed<Bytes> = Placed { at: Position::START, value: Bytes(MEMORY) };
    }
}

/// How long a probe may take unless it is said.
const TIMEOUT: Duration = Duration::from_secs(5);
/// A verdict waits for no probe longer than this.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(60);
/// What a probe may use of memory unless it is said.
const MEMORY: u64 = 32 << 20;
/// Less holds no program: one page of WebAssembly.
const LEAST_MEMORY: u64 = 64 << 10;
/// More is no probe.
const MOST_MEMORY: u64 = 1 << 30;

impl Decode for WasmCheck<ArtifactRef> {
    fn decode(node: &Node, context: &mut Context<'_>) -> Option<Self> {
        let fields = WasmCheckFields::decode(node, context)?;
        let (timeout, memory) = (fields.timeout.value.0, fields.memory.value.0);
        let errors = context.errors.len();
        if timeout.is_zero() || timeout > LONGEST_TIMEOUT {
            let message = "the timeout of a probe must be more than 0s and at most 1m";
            context.error_with(fields.timeout.at, message, "write timeout: 5s");
        }
        if !(LEAST_MEMORY..=MOST_MEMORY).contains(&memory) {
            let message = "the memory of a probe must be from 64Ki to 1Gi";
            context.error_with(fields.memory.at, message, "write memory: 32Mi");
        }
        for name in fields.env.value.keys() {
            check_variable(name, fields.env.at, context);
        }
        let target = match (fields.target, fields.port) {
            (None, None) => None,
            // `Whole` has checked its bounds.
            (Some(object), Some(Whole(port))) => Some(TargetPort { object, port: u16::try_from(port).ok()? }),
            _ => {
                let message = "a wasm check needs both target and port, or neither";
                context.error_with(node.at, message, "write target: Deployment/pos, port: 8080");
                None
            }
        };
        if context.errors.len() > errors {
            return None;
        }
        let name = match &fields.component {
            ArtifactRef::File(path) => path.clone(),
            ArtifactRef::Oci(reference) => format!("oci://{reference}"),
        };
        Some(WasmCheck {
            name,
            component: fields.component,
            args: fields.args.into_iter().map(Argument::into_text).collect(),
            env: fields.env.value.into_iter().map(|(name, value)| (name, value.into_text())).collect(),
            target,
            timeout,
            memory,
        })
    }

    fn schema() -> Value {
        WasmCheckFields::schema()
    }
}

fn check_variable(name: &str, at: Position, context: &mut Context<'_>) {
    if name.is_empty() || name.contains(['=', '\0']) {
        context.error(at, format!("{} is not a valid variable name", quoted(name)));
    } else if name.starts_with(RESERVED_PREFIX) {
        let message =
            format!("{} is reserved: the agent sets variables with this prefix for the probe", quoted(name));
        context.error_with(at, message, "give the variable another name");
    }
}
