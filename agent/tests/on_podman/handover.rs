//! What moves from one app to another: podman can't give a container another owner, so the order is what counts.

use crate::shop::{Shop, get, wait_for};
use crate::support::agent_box::app;
use crate::support::ports::free_port;

/// Writes an app with a web server on a port of the box, in the namespace that all share.
fn write_app(shop: &Shop, name: &str, image: &str, port: u16, listens_on: u16) {
    let document = format!(
        "apiVersion: holdfast.dev/v1alpha1\nkind: App\nmetadata: {{ name: {name} }}\nspec:\n  placement: {{}}\n  \
         container: {{ driver: podman, namespace: shop }}\n  health: {{ startup: 2s, deadline: 6s, soak: 300ms }}\n"
    );
    let manifest = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{ name: web }}\nspec:\n  hostNetwork: true\n  containers:\n  - name: web\n    \
         image: {image}\n    env: [ {{ name: PORT, value: \"{listens_on}\" }} ]\n    readinessProbe: {{ httpGet: {{ path: \
         /healthz, port: {port} }}, periodSeconds: 1 }}\n"
    );
    shop.agent.repo.write(&[
        (&format!("apps/{name}/app.yaml"), &document),
        (&format!("apps/{name}/manifests/all.yaml"), &manifest),
    ]);
}

#[test]
fn an_app_whose_folder_is_renamed_makes_room_for_the_new_one_and_is_back_if_that_fails() {
    let mut shop = Shop::new();
    let (port, other) = (free_port(), free_port());
    let image = shop.push("1");
    let address = format!("127.0.0.1:{port}");
    write_app(&shop, "pos", &image, port, port);
    shop.agent.start(&[]);
    shop.converge();
    assert_eq!(get(&address, "/").unwrap(), "1");

    // It never gets ready, since it listens elsewhere.
    shop.agent.repo.git(&["rm", "-rq", "apps/pos"]);
    write_app(&shop, "till", &image, port, other);
    shop.commit();
    shop.agent.wait_until("taken back", |_, status| {
        app(status, "till").is_some_and(|till| till.phase == "RolledBack")
    });
    wait_for("the old app is back", || get(&address, "/").ok());
    assert!(shop.containers_of("till").is_empty());
    assert_eq!(shop.containers_of("pos").len(), 1);

    write_app(&shop, "till", &image, port, port);
    shop.converge();
    assert_eq!(get(&address, "/").unwrap(), "1");
    assert!(shop.containers_of("pos").is_empty());
    assert_eq!(shop.containers_of("till").len(), 1);
}
