//! A real Kubernetes control plane for tests: etcd, kube-apiserver and kube-controller-manager of a current release,
//! on the loopback, and a stand-in for what runs on a node.
//!
//! A test asks for one of these, and ends at once when there is none, as the program isn't built here:
//!
//! ```ignore
//! let Some(plane) = ControlPlane::shared() else { return };
//! let namespace = plane.namespace("first-apply");
//! ```
//!
//! - `shared`: the one of the test program, beside its other tests. Each takes a namespace of its own, and names
//!   for what has none.
//! - `alone`: the same one, while no other test uses it: for a test that stops or hangs the API server, or counts
//!   all that is in the cluster.
//! - `own`: one that is started for this test, with `Options`.
//!
//! - `on_a_node`: one with a real kubelet, containerd and scheduler, in a network of its own that the test's thread is in
//!   from then on: for what pods do, say and are.
//!
//! Elsewhere nothing runs in the pods: the stand-in (`tests/control-plane/kubelet.go`) binds them to the node `edge`, and
//! writes their status. What they pretend is said by an annotation of the pod, [`BEHAVIOUR`], or for pods that a test
//! doesn't write, by the ConfigMap that [`ControlPlane::script`] writes. The API server reaches it as it reaches a
//! kubelet, for programs in containers ([`EXEC`]) and logs ([`LOG`], [`PREVIOUS_LOG`]).

#![allow(unused_imports, reason = "each test program uses a part of it")]

mod audit;
mod busy;
mod certificates;
mod client;
mod node;
mod plane;
mod process;
mod view;

use std::ops::Deref;
use std::sync::{OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

pub use audit::Request;
pub use busy::Occupied;
pub use client::Answer;
pub use node::Inside;
pub use plane::{ControlPlane, Options};
pub use view::has_condition;

/// What a pod pretends: `ready`, `never-ready`, `crash-loop`, `image-pull-error`, `exit-0`, `exit-1`, `unschedulable`
/// or `pending`. Without it: `ready`, and `exit-0` for a pod that doesn't restart always, as a Job's. May be changed
/// while the pod is there. A claim, a service or an ingress may be `pending` as well: it gets no volume, no address.
pub const BEHAVIOUR: &str = "test.holdfast.dev/behaviour";
/// How long a pod is pending before it starts, as `3s`; in whole seconds.
pub const DELAY: &str = "test.holdfast.dev/delay";
/// How long a deleted pod is terminating, as `3s`; in whole seconds.
pub const STOP_DELAY: &str = "test.holdfast.dev/stop-delay";

/// The address that a pod claims to have, so that a test can answer there. Without it: one that nobody answers at.
pub const POD_IP: &str = "test.holdfast.dev/pod-ip";

/// What programs do that are run in a pod's containers, step by step with `;` between: `stdout TEXT`, `stderr TEXT`,
/// `exit CODE`, `hang`. Without it: they end with 0. In a text, `{300*word #}` is that word 300 times, numbered.
pub const EXEC: &str = "test.holdfast.dev/exec";
/// What a pod's containers say, with the same repetitions; `hang`: nobody gets to know it.
pub const LOG: &str = "test.holdfast.dev/log";
/// What they said before they were started again.
pub const PREVIOUS_LOG: &str = "test.holdfast.dev/previous-log";

static NODE: OnceLock<Option<ControlPlane>> = OnceLock::new();
static PLANE: OnceLock<Option<ControlPlane>> = OnceLock::new();
/// Who shares it reads, who wants it alone writes.
static USE: RwLock<()> = RwLock::new(());

/// The control plane of this test program, beside other tests.
pub struct Shared {
    plane: &'static ControlPlane,
    _use: RwLockReadGuard<'static, ()>,
}

/// A control plane with a real node, which this thread is on. Dropped, the thread is back, and the node stays for others.
pub struct OnNode {
    plane: &'static ControlPlane,
    _inside: Inside,
}

/// The control plane of this test program, without other tests. Dropped, it runs again for the others.
pub struct Alone {
    plane: &'static ControlPlane,
    _use: RwLockWriteGuard<'static, ()>,
}

impl ControlPlane {
    /// The one of this test program, beside other tests; none if the test is to be skipped. Once in a test: who asks
    /// twice may wait for ever.
    pub fn shared() -> Option<Shared> {
        let guard = USE.read().unwrap_or_else(PoisonError::into_inner);
        Some(Shared { plane: the_plane()?, _use: guard })
    }

    /// The one with a real node of this test program, beside other tests; this thread is in the node's network from here
    /// on. None if the test is to be skipped.
    pub fn on_a_node() -> Option<OnNode> {
        super::go_program::control_plane()?;
        let options = Options { real_node: true, ..Options::default() };
        let plane = NODE.get_or_init(|| ControlPlane::own(&options)).as_ref()?;
        Some(OnNode { plane, _inside: plane.enter() })
    }

    /// The same once no other test uses it, and as long as this is kept.
    pub fn alone() -> Option<Alone> {
        let guard = USE.write().unwrap_or_else(PoisonError::into_inner);
        Some(Alone { plane: the_plane()?, _use: guard })
    }
}

fn the_plane() -> Option<&'static ControlPlane> {
    // Each test that is skipped says so itself.
    super::go_program::control_plane()?;
    PLANE.get_or_init(|| ControlPlane::own(&Options::default())).as_ref()
}

impl Deref for Shared {
    type Target = ControlPlane;

    fn deref(&self) -> &ControlPlane {
        self.plane
    }
}

impl Deref for OnNode {
    type Target = ControlPlane;

    fn deref(&self) -> &ControlPlane {
        self.plane
    }
}

impl Deref for Alone {
    type Target = ControlPlane;

    fn deref(&self) -> &ControlPlane {
        self.plane
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        self.plane.mend();
    }
}
