//! The health of kinds that have no pods: claims, services, namespaces, CustomResourceDefinitions and custom resources.

use serde_json::Value;

use super::Status;
use super::fields::{Condition, annotation, list, number, text, words};

/// What the scheduler and the volume controller write on a claim that somebody uses
/// (k8s.io/component-helpers, storage/volume/pv_helpers.go).
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
const PROVISIONERS: [&str; 2] =
    ["volume.kubernetes.io/storage-provisioner", "volume.beta.kubernetes.io/storage-provisioner"];

/// What says why a namespace isn't gone yet, worst first.
const REMAINS: [&str; 5] = [
    "NamespaceDeletionDiscoveryFailure",
    "NamespaceDeletionGroupVersionParsingFailure",
    "NamespaceDeletionContentFailure",
    "NamespaceFinalizersRemaining",
    "NamespaceContentRemaining",
];

/// How a PersistentVolumeClaim is.
///
/// kstatus wants every claim bound. But with the binding mode `WaitForFirstConsumer`, which k3s's own storage class
/// has, a claim that no pod uses is never bound, and is as it should be: nothing about it on the claim itself tells
/// the mode. So a pending claim is only waited for once somebody is at work on it. Nothing is overlooked by that: a
/// pod whose claim isn't bound is not scheduled, and its workload isn't current.
pub(super) fn claim(object: &Value) -> Status {
    match text(object, "/status/phase") {
        Some("Bound") => Status::Current,
        Some("Lost") => Status::failed("the volume that it was bound to is gone, and its data with it"),
        Some("Pending") => pending_claim(object),
        Some(other) => Status::in_progress(format!("it isn't bound yet (phase {other})")),
        None => Status::in_progress("it isn't bound yet"),
    }
}

fn pending_claim(object: &Value) -> Status {
    if let Some(volume) = text(object, "/spec/volumeName") {
        return Status::in_progress(format!("it waits to be bound to the volume {volume}"));
    }
    if let Some(provisioner) = PROVISIONERS.iter().find_map(|key| annotation(object, key)) {
        return Status::in_progress(format!("it waits for {provisioner} to provision its volume"));
    }
    match annotation(object, SELECTED_NODE) {
        Some(node) => Status::in_progress(format!("it waits for a volume on {node}")),
        None => Status::Current,
    }
}

/// How a Service is.
///
/// Of a load balancer kstatus wants a cluster address only. The address that the manifest asks for is the balancer's
/// own, and nobody reaches the app before it is there.
pub(super) fn service(object: &Value) -> Status {
    if text(object, "/spec/type") != Some("LoadBalancer") {
        return Status::Current;
    }
    if text(object, "/spec/clusterIP").is_none() {
        return Status::in_progress("it has no cluster address yet");
    }
    if let Some(error) = balancer_error(object) {
        return Status::in_progress(error);
    }
    let has_address = |one: &Value| text(one, "/ip").is_some() || text(one, "/hostname").is_some();
    if list(object, "/status/loadBalancer/ingress").iter().any(has_address) {
        return Status::Current;
    }
    Status::in_progress(
        "its load balancer has no address yet (does this cluster have a load balancer controller?)",
    )
}

/// How an Ingress is. Many controllers never write an address into it, so that, as in kstatus, it is well unless a
/// controller says otherwise.
pub(super) fn ingress(object: &Value) -> Status {
    balancer_error(object).map_or(Status::Current, Status::in_progress)
}

/// What a load balancer says of a port that it couldn't open.
fn balancer_error(object: &Value) -> Option<String> {
    let ports = list(object, "/status/loadBalancer/ingress").iter().flat_map(|one| list(one, "/ports"));
    ports
        .filter_map(|port| Some((number(port, "/port")?, text(port, "/error")?)))
        .map(|(port, error)| format!("port {port} of its load balancer doesn't work: {error}"))
        .next()
}

/// How a Namespace is.
pub(super) fn namespace(object: &Value) -> Status {
    match text(object, "/status/phase") {
        Some("Terminating") => {
            Status::terminating(namespace_remains(object).unwrap_or_else(|| "it is being deleted".to_owned()))
        }
        _ => Status::Current,
    }
}

/// Why a namespace that is being deleted isn't gone, if its controller says.
pub(super) fn namespace_remains(object: &Value) -> Option<String> {
    REMAINS.iter().find_map(|kind| Condition::that_is_true(object, kind)).map(|condition| condition.says())
}

/// How a CustomResourceDefinition is: well once the server serves it.
pub(super) fn definition(object: &Value) -> Status {
    if let Some(names) = Condition::of(object, "NamesAccepted").filter(|names| names.is("False")) {
        return Status::failed(format!("its names are not accepted: {}", names.says()));
    }
    match Condition::of(object, "Established") {
        Some(established) if established.is("True") => Status::Current,
        Some(one) if one.is("False") && one.reason() != Some("Installing") => Status::failed(one.says()),
        _ => Status::in_progress("the API server doesn't serve its kind yet"),
    }
}

/// How an APIService is: well once the server behind it answers. kstatus doesn't know the kind.
pub(super) fn api_service(object: &Value) -> Status {
    match Condition::of(object, "Available") {
        Some(available) if available.is("True") => Status::Current,
        Some(available) => Status::in_progress(available.says()),
        None => Status::in_progress("the availability of the server behind it has not been checked yet"),
    }
}

/// How an object of any other kind is: by its condition `Ready`, or `Available` where it has no such; well if it has
/// neither (kstatus: status.go, checkReadyCondition; it doesn't look at `Available`).
///
/// `Ready: False` is never a failure: most controllers say it of what they haven't brought about yet, too.
pub(super) fn custom(object: &Value) -> Status {
    let Some(condition) = ["Ready", "Available"].iter().find_map(|kind| Condition::of(object, kind)) else {
        return Status::Current;
    };
    let wanted = number(object, "/metadata/generation");
    if let (Some(wanted), Some(seen)) = (wanted, condition.generation())
        && wanted != seen
    {
        return Status::in_progress(format!(
            "its controller has not evaluated this version yet (generation {wanted}; it evaluated {seen})"
        ));
    }
    if condition.is("True") {
        return Status::Current;
    }
    let phase = text(object, "/status/phase").map(|phase| words(Some(phase), None));
    match phase {
        Some(phase) => Status::in_progress(format!("{} (phase {phase})", condition.says())),
        None => Status::in_progress(condition.says()),
    }
}
