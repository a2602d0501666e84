//! Pods that really run, for tests on a real node: their image has a shell and a web server.

use crate::support::kubernetes::{ControlPlane, OnNode};
use crate::support::podman_image::{Image, Wishes};

pub(crate) const IMAGE: &str = "holdfast.test/web:1";

/// A cluster with a node that has the tests' image.
pub(crate) fn node() -> Option<OnNode> {
    let node = ControlPlane::on_a_node()?;
    node.import(&image(), IMAGE);
    Some(node)
}

pub(crate) fn image() -> Image {
    Image::new(&Wishes { version: "1".into(), shell: true, ..Wishes::default() })
}

/// A container that runs this in its shell; `more` is of the container. The script stands in YAML's double quotes.
pub(crate) fn runs(name: &str, script: &str, more: &str) -> String {
    format!(
        "{{ name: {name}, image: \"{IMAGE}\", imagePullPolicy: Never, command: [/bin/sh, -c, \"{script}\"], {more} }}"
    )
}

/// A Deployment of one pod with these containers, whose successor comes up beside it.
pub(crate) fn rolled(containers: &[String]) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{ name: web }}\nspec:\n  selector: {{ matchLabels: {{ app: web }} \
         }}\n  template:\n    metadata: {{ labels: {{ app: web }} }}\n    spec:\n      terminationGracePeriodSeconds: 1\n      \
         containers: [ {} ]\n---\n",
        containers.join(", ")
    )
}
