//! A box that boots without a network.

use std::fs;

use crate::meddler::HostApp;
use crate::shop::Shop;

/// The agent stops, the box boots, and there is neither repository nor registry.
fn boot_offline(meddle: impl FnOnce(&Shop)) {
    let mut shop = Shop::new();
    let (db, pos) = (HostApp::new("db"), HostApp::new("pos"));
    // By name, `db` isn't the first.
    let web = HostApp::new("a-web");
    let image = shop.push("1");
    db.write(&shop, &image, "");
    pos.write_after(&shop, &image, "  dependsOn: [db]\n", "");
    web.write_after(&shop, &image, "  dependsOn: [pos]\n", "");
    shop.agent.start(&[]);
    let head = shop.converge();
    shop.agent.stop();
    meddle(&shop);
    shop.podman.reboot();
    let _ = fs::remove_dir_all(shop.agent.dir().join("podman"));
    fs::rename(shop.agent.repo.path(), shop.agent.repo.beside("gone")).unwrap();
    let Shop { agent, podman, registry } = shop;
    drop(registry);
    // Nobody is at that port.
    let registry = crate::support::registry::Registry::start();
    let mut shop = Shop { agent, podman, registry };
    assert!(db.answer().is_err() && pos.answer().is_err() && web.answer().is_err());
    shop.agent.start(&[]);
    for app in [&db, &pos, &web] {
        app.wait_answer(&shop, "1");
    }
    let started = |app: &HostApp| {
        let found = shop.podman.inspect(&app.container(&shop).id).unwrap();
        found["State"]["StartedAt"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap()
    };
    for app in ["db", "pos", "a-web"] {
        let said = shop.events("app.drift", app).join("; ");
        // What ended with the box was not killed by anybody. Where podman lost the container there is nothing to say.
        assert!(!said.contains("137"), "{app}: {said}");
        assert!(
            said.is_empty() || said.contains("the box was rebooted") || said.contains("is gone"),
            "{said}"
        );
    }
    let times = [&db, &pos, &web].map(started);
    assert!(times.is_sorted(), "{times:?}");
    shop.agent.wait_until("good", |_, status| {
        status.apps.len() == 3
            && status
                .apps
                .iter()
                .all(|app| app.phase == "Good" && app.health == "Healthy" && app.held.is_none())
            && status.revision.applied.as_ref().is_some_and(|revision| revision.0 == head)
    });
}

#[test]
fn after_a_boot_without_network_every_app_is_back_in_order() {
    boot_offline(|_| ());
}

#[test]
fn images_that_somebody_removed_are_loaded_again_from_the_boxs_own_disk() {
    boot_offline(|shop| {
        assert!(shop.podman.cli(&["rm", "--all", "--force", "--time", "0"]).status.success());
        assert!(shop.podman.cli(&["rmi", "--all", "--force"]).status.success());
        assert!(shop.podman.cli(&["images", "-q"]).stdout.is_empty());
    });
}
