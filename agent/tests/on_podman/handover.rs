//! What moves from one app to another: podman can't give a container another owner, so the order is what counts. A
//! claim's volume goes over as it is.

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

const CLAIM: &str = "---\napiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: { name: data }\nspec: { accessModes: [ReadWriteOnce], resources: { requests: { storage: 1Gi } } }\n";

/// The same app with a claim, in which its init container writes what `note` says, where it says something.
fn write_app_with_data(shop: &Shop, name: &str, image: &str, (port, listens_on): (u16, u16), note: &str) {
    write_app(shop, name, image, port, listens_on);
    let path = format!("apps/{name}/manifests/all.yaml");
    let manifest = std::fs::read_to_string(shop.agent.repo.path().join(&path)).unwrap();
    let fill = match note {
        "" => String::new(),
        note => format!(
            "  initContainers: [ {{ name: fill, image: \"{image}\", command: [/webapp, write, /data/note, {note}], volumeMounts: [ {{ name: data, mountPath: /data }} ] }} ]\n"
        ),
    };
    let more = format!(
        "    volumeMounts: [ {{ name: data, mountPath: /data }} ]\n{fill}  volumes: [ {{ name: data, persistentVolumeClaim: {{ claimName: data }} }} ]\n"
    );
    shop.agent.repo.write(&[(&path, &(manifest + &more + CLAIM))]);
}

#[test]
fn a_claim_goes_over_to_the_renamed_app_with_its_data_and_comes_back_if_that_fails() {
    let mut shop = Shop::new();
    let (port, other) = (free_port(), free_port());
    let image = shop.push("1");
    let address = format!("127.0.0.1:{port}");
    let note = || get(&address, "/file?/data/note").ok();
    write_app_with_data(&shop, "pos", &image, (port, port), "kept");
    shop.agent.start(&[]);
    shop.converge();
    assert_eq!(note().unwrap(), "kept");

    shop.agent.repo.git(&["rm", "-rq", "apps/pos"]);
    write_app_with_data(&shop, "till", &image, (port, other), "");
    shop.commit();
    shop.agent.wait_until("taken back", |_, status| {
        app(status, "till").is_some_and(|till| till.phase == "RolledBack")
    });
    assert_eq!(wait_for("the old app is back with its data", note), "kept");
    shop.agent.wait_until("the old app has its claim", |_, status| {
        app(status, "pos").is_some_and(|pos| pos.health == "Healthy")
    });

    write_app_with_data(&shop, "till", &image, (port, port), "");
    shop.converge();
    assert_eq!(note().unwrap(), "kept");
    let status = shop.agent.status().unwrap();
    assert!(app(&status, "pos").is_none() && status.orphans.is_empty(), "{status:?}");

    // Whose it is lasts, and nobody else may remove it.
    shop.agent.stop();
    shop.agent.start(&[]);
    let purge = |app: &str| {
        format!(
            "apiVersion: holdfast.dev/v1alpha1\nkind: Purge\nmetadata: {{ name: {app} }}\nspec:\n  placement: {{}}\n  reason: moved\n  objects: [ {{ app: {app}, object: PersistentVolumeClaim/shop/data }} ]\n"
        )
    };
    shop.agent.repo.write(&[("purges/pos.yaml", &purge("pos"))]);
    shop.converge();
    assert_eq!(note().unwrap(), "kept");
    shop.agent.repo.git(&["rm", "-rq", "apps/till", "purges/pos.yaml"]);
    shop.converge();
    assert_eq!(shop.agent.status().unwrap().orphans.len(), 1);
    let volumes = || String::from_utf8(shop.podman.cli(&["volume", "ls", "-q"]).stdout).unwrap();
    assert_eq!(volumes().trim(), "shop.data");
}
