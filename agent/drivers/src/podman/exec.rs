//! Health checks that run a program in a container.

use holdfast_core::pod::{PinnedImage, Pod};
use holdfast_core::release::{ExecCheck, Release};

use super::api::Inspected;
use super::instance::{self, Instance, Standing, standing};
use super::{PodmanDriver, prober};

impl PodmanDriver {
    /// Runs a check's program in the container that it names, and wants 0 of it.
    pub(super) async fn run_in(&self, release: &Release, check: &ExecCheck) -> Result<(), String> {
        let pods = self.pods(release).map_err(|error| error.to_string())?;
        let found = pods.iter().find(|wanted| wanted.is_named(&check.target));
        let wanted = found.ok_or_else(|| format!("the app has no {} with containers", check.target))?;
        let name = container_of(check, &wanted.pod)?;
        let there = instance::of_app(&self.api, &self.owner, &release.app).await;
        let there = there.map_err(|error| error.to_string())?;
        let container =
            running(wanted.own(&there), name).ok_or_else(|| format!("the container {name} does not run"))?;
        prober::exec(&self.api, &container.id, &check.command, check.timeout).await
    }
}

/// The container that a check means: the one that it names, else the first.
fn container_of<'a>(check: &ExecCheck, pod: &'a Pod<PinnedImage>) -> Result<&'a str, String> {
    let mut names = pod.containers.iter().map(|container| container.name.as_str());
    let found = match &check.container {
        Some(wanted) => names.find(|name| name == wanted),
        None => names.next(),
    };
    let wanted = check.container.as_deref().unwrap_or_default();
    found
        .ok_or_else(|| format!("{} has no container {wanted}; correct the check's `container`", check.target))
}

fn running<'a>(pod: Option<&'a Instance>, name: &str) -> Option<&'a Inspected> {
    let container = pod?.containers.get(name)?;
    (standing(container) == Standing::Running).then_some(container)
}
