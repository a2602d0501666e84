//! Secrets that change, and what their values must not show up in.

use crate::meddler::HostApp;
use crate::shop::{Shop, get, wait_for};

/// The app `pos`, which has its password as a variable and as a file.
fn write(shop: &Shop, pos: &HostApp, image: &str, password: &str) {
    let manifest = format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{ name: keys }}\nstringData: {{ password: {password} }}\n---\napiVersion: v1\nkind: Pod\nmetadata: {{ name: pos }}\nspec:\n  hostNetwork: true\n  terminationGracePeriodSeconds: 5\n  volumes: [ {{ name: keys, secret: {{ secretName: keys }} }} ]\n  containers:\n    - name: pos\n      image: {image}\n      env:\n        - {{ name: PORT, value: \"{}\" }}\n        - {{ name: PASSWORD, valueFrom: {{ secretKeyRef: {{ name: keys, key: password }} }} }}\n      volumeMounts: [ {{ name: keys, mountPath: /keys }} ]\n",
        pos.port
    );
    shop.write("pos", "", &manifest);
}

fn has(pos: &HostApp, password: &str) {
    let address = format!("127.0.0.1:{}", pos.port);
    for path in ["/env/PASSWORD", "/file?/keys/password"] {
        wait_for(&format!("{path} is {password}"), || {
            get(&address, path).ok().filter(|value| value == password)
        });
    }
}

#[test]
fn a_secret_that_changes_reaches_its_container_and_so_does_the_value_that_comes_back() {
    let mut shop = Shop::new();
    let pos = HostApp::new("pos");
    // An image by tag, as with a Secret that was once held for ever.
    shop.push("1");
    let image = format!("{}/pos:1", shop.registry.host());
    write(&shop, &pos, &image, "first");
    shop.agent.start(&[]);
    shop.converge();
    has(&pos, "first");

    write(&shop, &pos, &image, "second");
    shop.converge();
    has(&pos, "second");
    assert_eq!(shop.containers_of("pos").len(), 1);

    // What is made anew after that has the new one, and after a restart of the agent too.
    shop.agent.stop();
    shop.agent.start(&[]);
    crate::meddler::murder(pos.container(&shop).pid);
    has(&pos, "second");

    write(&shop, &pos, &image, "first");
    shop.converge();
    has(&pos, "first");

    // Of those that are gone nothing is left.
    let kept = String::from_utf8(shop.podman.cli(&["secret", "ls", "--format", "{{.Name}}"]).stdout).unwrap();
    assert_eq!(kept.lines().count(), 1, "{kept}");
    let folders = std::fs::read_dir(shop.agent.dir().join("podman/files")).unwrap().count();
    assert_eq!(folders, 1);
}

#[test]
fn what_a_container_said_before_it_failed_is_in_the_diagnosis_and_nowhere_else() {
    let mut shop = Shop::new();
    let image = shop.push("1");
    let init = format!(
        "      initContainers: [ {{ name: migrate, image: {image}, command: [/webapp, read, /no-such-password-hunter2] }} ]\n"
    );
    shop.write_app("pos", &image, "", "", "          env: [ { name: PORT, value: \"8080\" } ]\n");
    shop.agent.start(&[]);
    shop.converge();
    shop.write_app("pos", &image, "", &init, "          env: [ { name: PORT, value: \"8081\" } ]\n");
    shop.commit();
    shop.agent.wait_until("taken back", |_, status| {
        crate::support::agent_box::app(status, "pos").is_some_and(|app| app.phase == "RolledBack")
    });
    let said = shop.events("app.rolledback", "pos").join("\n");
    assert!(said.contains("migrate exited with code"), "{said}");
    let status = format!("{:?}", shop.agent.status().unwrap());
    for (place, text) in [("the events", said), ("status", status), ("the journal", shop.agent.log())] {
        assert!(!text.contains("hunter2"), "{place} has a line of the container's log: {text}");
    }
    let holdfast = |arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_holdfast"));
        command.args(arguments).arg("--config").arg(shop.agent.dir().join("agent.toml"));
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    let diag = holdfast(&["diag", "pos"]);
    assert!(diag.contains("migrate: /no-such-password-hunter2"), "{diag}");
}
