//! Health checks that only a runtime with real processes can show.

#[cfg(feature = "wasm")]
use crate::component::ask;
use crate::shop::Shop;
use crate::support::agent_box::app;
use crate::support::git_server::GitServer;

#[test]
fn a_program_in_the_container_says_whether_the_release_is_good() {
    let mut shop = Shop::new();
    let image = shop.push("1");
    // The usual health is written by the shop; a second key would be an error.
    let document = |command: &str| {
        format!(
            "apiVersion: holdfast.dev/v1alpha1\nkind: App\nmetadata: {{ name: pos }}\nspec:\n  placement: {{}}\n  container: {{ driver: podman }}\n  health:\n    startup: 2s\n    deadline: 60s\n    soak: 300ms\n    checks: [ {{ exec: {{ target: Deployment/pos, command: [{command}], timeout: 2s }} }} ]\n"
        )
    };
    let write = |shop: &Shop, version: &str, command: &str| {
        let container = format!("          env: [ {{ name: X, value: \"{version}\" }} ]\n");
        shop.write_app("pos", &image, "", "", &container);
        shop.agent.repo.write(&[("apps/pos/app.yaml", &document(command))]);
    };
    write(&shop, "1", "/webapp, exit, \"0\"");
    shop.agent.start(&[]);
    // A signal that came before the agent could take it would end it.
    shop.agent.wait_until("up", |_, _| true);
    shop.converge();
    let back = |_: &_, status: &_| app(status, "pos").is_some_and(|app| app.phase == "RolledBack");
    for (version, command, said) in [
        ("2", "/webapp, exit, \"7\"", "exec in Deployment/pos: /webapp exit 7 exited with code 7"),
        ("3", "/webapp, sleep", "/webapp sleep did not end within 2s"),
    ] {
        write(&shop, version, command);
        shop.commit();
        shop.agent
            .wait_until("taken back", |agent, status| back(agent, status) && agent.log().contains(said));
        write(&shop, "1", "/webapp, exit, \"0\"");
        shop.converge();
    }
}

#[cfg(feature = "wasm")]
#[test]
fn a_probe_component_asks_a_container_where_podman_says_that_it_is() {
    let mut shop = Shop::new();
    let image = shop.push("1");
    let files = shop.agent.repo.path().join("apps/pos/files");
    std::fs::create_dir_all(&files).unwrap();
    std::fs::write(files.join("ask.wasm"), ask()).unwrap();
    let judged = "  health:\n    startup: 2s\n    deadline: 60s\n    soak: 300ms\n    checks: [ { wasm: { component: files/ask.wasm, args: [get, /healthz], target: Deployment/pos, port: 8080 } } ]\n";
    let write = |shop: &Shop, health: u16| {
        let container = format!("          env: [ {{ name: HEALTH, value: \"{health}\" }} ]\n");
        shop.write_app("pos", &image, judged, "", &container);
    };
    write(&shop, 200);
    shop.agent.start(&[]);
    shop.converge();
    write(&shop, 503);
    shop.commit();
    shop.agent.wait_until("taken back", |_, status| {
        app(status, "pos").is_some_and(|app| app.phase == "RolledBack")
    });
    let log = shop.agent.log();
    assert!(
        log.contains("probe files/ask.wasm: exited with code 1: ") && log.contains(":8080 said"),
        "{log}"
    );
}

#[test]
fn a_probe_by_https_takes_any_certificate_as_the_kubelets_do() {
    let mut shop = Shop::new();
    let image = shop.push("1");
    shop.agent.commit();
    // Nobody of the box knows its authority.
    let server = GitServer::start(&shop.agent.repo);
    let write = |shop: &Shop, scheme: &str| {
        let probe = format!(
            "          readinessProbe: {{ periodSeconds: 1, httpGet: {{ host: 127.0.0.1, port: {}, path: \
             \"/edge.git/info/refs?service=git-upload-pack\", scheme: {scheme} }} }}\n",
            server.port()
        );
        shop.write_app("pos", &image, "  health: { startup: 2s, deadline: 10s, soak: 300ms }\n", "", &probe);
    };
    write(&shop, "HTTPS");
    shop.agent.start(&[]);
    shop.converge();
    assert!(server.requests(1)[0].contains("/edge.git/info/refs"), "nobody asked");
    // What speaks TLS answers nothing else.
    write(&shop, "HTTP");
    shop.commit();
    shop.agent.wait_until("taken back", |_, status| {
        app(status, "pos").is_some_and(|app| app.phase == "RolledBack")
    });
}
