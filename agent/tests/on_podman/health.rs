//! Health checks that only a runtime with real processes can show.

use crate::shop::Shop;
use crate::support::agent_box::app;

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
        ("2", "/webapp, exit, \"7\"", "exec in Deployment/pos: /webapp exit 7 ended with 7"),
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
