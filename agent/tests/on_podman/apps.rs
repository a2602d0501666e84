//! Apps come, change, go wrong and go, as documents say.

use crate::shop::{Shop, get, wait_for};
use crate::support::ports::free_port;

#[test]
fn an_app_runs_changes_and_goes_with_its_documents() {
    let mut shop = Shop::new();
    let port = free_port();
    let (first, second) = (shop.push("1"), shop.push("2"));
    let container = format!(
        "          env: [ {{ name: PORT, value: \"{port}\" }} ]\n          readinessProbe: {{ httpGet: {{ path: /healthz, port: {port} }}, periodSeconds: 1 }}\n"
    );
    let address = format!("127.0.0.1:{port}");
    shop.write_app("pos", &first, "", "      hostNetwork: true\n", &container);
    shop.agent.start(&[]);
    shop.converge();
    assert_eq!(get(&address, "/").unwrap(), "1");

    shop.write_app("pos", &second, "", "      hostNetwork: true\n", &container);
    shop.converge();
    assert_eq!(get(&address, "/").unwrap(), "2");
    assert_eq!(shop.containers_of("pos").len(), 1);

    shop.agent.repo.git(&["rm", "-rq", "apps/pos"]);
    shop.converge();
    assert!(shop.containers_of("pos").is_empty());
    assert!(get(&address, "/").is_err());
    wait_for("the images are gone", || shop.podman.cli(&["images", "-q"]).stdout.is_empty().then_some(()));
}
