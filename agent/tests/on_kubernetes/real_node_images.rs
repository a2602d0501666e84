//! Images for a real kubelet that the agent put there, and how the kubelet uses them.

use std::fs;
use std::path::PathBuf;

use serde_json::json;

use crate::cluster_box::ClusterBox;
use crate::pods::node;
use crate::support::image::Image;
use crate::support::kubernetes::ControlPlane;
use crate::support::podman_image::webapp;
use crate::support::registry::Registry;

/// A registry that nobody but the agent reaches, by its mirror.
const AWAY: &str = "registry.holdfast.test";

fn web_server(version: &str) -> Image {
    let program = fs::read(webapp()).unwrap();
    let image = Image::new().layer(&[("webapp", 0o755, &program)]);
    image.layer(&[("version", 0o644, version.as_bytes())]).entrypoint(&["/webapp"])
}

fn web(image: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{ name: web }}\nspec:\n  strategy: {{ type: Recreate }}\n  selector: \
         {{ matchLabels: {{ app: web }} }}\n  template:\n    metadata: {{ labels: {{ app: web }} }}\n    spec:\n      \
         terminationGracePeriodSeconds: 1\n      containers: [ {{ name: web, image: \"{image}\", imagePullPolicy: IfNotPresent \
         }} ]\n"
    )
}

/// Imports what is new in the folder, as k3s does, until the node has the image.
fn import_until_there(shop: &mut ClusterBox<'_>, plane: &ControlPlane, folder: &PathBuf, name: &str) {
    shop.wait_until("its archive is there", |_, _| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let archives =
            entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == "tar"));
        archives.for_each(|archive| plane.import_archive(&archive));
        plane.images().lines().any(|image| image == name)
    });
}

#[test]
fn an_imported_image_runs_and_where_the_kubelet_once_pulled_the_same_by_another_name_it_is_said_why_it_does_not()
 {
    let Some(node) = node() else { return };
    let registry = Registry::start();
    let host = registry.host();
    let more = format!(
        "images_dir = \"{{dir}}/images\"\n[registries.\"{AWAY}\"]\nmirrors = [\"{host}\"]\n[registries.\"{host}\"]\nplain_http = \
         true\n"
    );
    let mut shop = ClusterBox::with(&node, "imported", &["system:masters"], &more);
    let folder = shop.dir().join("images");
    let health = "health: { startup: 5s, deadline: 2m, soak: 1s }";

    // Nobody but the agent has ever had this one.
    let new = format!("{AWAY}/pos@{}", registry.push("pos", "new", &web_server("new")));
    shop.write(health, &web(&new));
    shop.start(&[]);
    let commit = shop.push();
    import_until_there(&mut shop, &node, &folder, &new);
    shop.wait_converged(&commit);

    // And this one the kubelet pulled for somebody else.
    let pulled = web_server("pulled");
    let digest = registry.push("others", "1", &pulled);
    assert_eq!(registry.push("pos", "pulled", &pulled), digest);
    let pods = format!("/api/v1/namespaces/{}/pods", shop.namespace);
    let container = json!({ "name": "web", "image": format!("{host}/others@{digest}"), "imagePullPolicy": "IfNotPresent" });
    node.create(
        &pods,
        &json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "other" }, "spec": { "containers": [container] } }),
    );
    node.until(&format!("{pods}/other"), |pod| pod["status"]["phase"] == "Running");
    let name = format!("{AWAY}/pos@{digest}");
    // The kubelet tries again after 10 s: by then the image is there, and is refused.
    shop.write("health: { startup: 30s, deadline: 2m, soak: 1s }", &web(&name));
    shop.push();
    import_until_there(&mut shop, &node, &folder, &name);
    shop.wait_app("told", |app| {
        let words = [
            "ImagePull",
            "its image was put into images_dir",
            "imagePullCredentialsVerificationPolicy is NeverVerify",
        ];
        app.held.as_ref().is_some_and(|held| words.iter().all(|word| held.cause.contains(word)))
    });
}
