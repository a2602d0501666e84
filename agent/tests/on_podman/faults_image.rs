//! Images that can't be fetched, or are damaged.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::meddler::HostApp;
use crate::shop::{Shop, wait_for, web_server};
use crate::support::faulty_proxy::{Fault, FaultyProxy};
use crate::support::hostile::Hostile;
use crate::support::podman::Setup;
use crate::support::registry::Registry;

/// A box whose registry is behind a proxy that does what `fault` says.
struct Behind {
    shop: Shop,
    proxy: FaultyProxy,
    fault: Arc<Mutex<Fault>>,
}

impl Behind {
    fn new() -> Self {
        let registry = Registry::start();
        let fault = Arc::new(Mutex::new(Fault::Pass));
        let told = Arc::clone(&fault);
        let proxy = FaultyProxy::start(registry.port(), move |seen| {
            let fault = told.lock().unwrap().clone();
            let every = matches!(fault, Fault::Answer(..));
            if every || seen.is_blob() { fault } else { Fault::Pass }
        });
        let shop = Shop::with_registry(&Setup::default(), registry, &proxy.host());
        Behind { shop, proxy, fault }
    }

    fn set(&self, fault: Fault) {
        *self.fault.lock().unwrap() = fault;
    }

    /// Pushes a version, and gives what it is called behind the proxy.
    fn push(&self, version: &str) -> String {
        let digest = self.shop.registry.push("pos", version, &web_server(version));
        format!("{}/pos@{digest}", self.proxy.host())
    }
}

#[test]
fn an_image_that_does_not_come_costs_nothing_and_comes_by_itself_later() {
    let mut it = Behind::new();
    let pos = HostApp::new("pos");
    pos.write(&it.shop, &it.push("0"), "");
    it.shop.agent.start(&[]);
    it.shop.converge();
    let faults = [
        ("is down", Fault::status(503, &[])),
        ("cuts", Fault::CutAfter(0)),
        ("changes a byte", Fault::CorruptAt(50)),
    ];
    for (version, (what, fault)) in faults.into_iter().enumerate() {
        let before = pos.answer().unwrap();
        let new = (version + 1).to_string();
        it.set(fault);
        pos.write(&it.shop, &it.push(&new), "");
        let commit = it.shop.commit();
        let host = it.proxy.host();
        it.shop.wait_said("pos", &host);
        assert_eq!(pos.answer().unwrap(), before, "the registry {what}");
        it.set(Fault::Pass);
        it.shop.agent.wait_converged(&commit);
        assert_eq!(pos.answer().unwrap(), new);
    }
}

#[test]
fn an_image_that_nobody_pushed_yet_is_waited_for_while_the_old_one_answers() {
    let mut shop = Shop::new();
    let pos = HostApp::new("pos");
    pos.write(&shop, &shop.push("1"), "");
    shop.agent.start(&[]);
    shop.converge();
    let image = web_server("2");
    let name = format!("{}/pos@{}", shop.registry.host(), image.digest());
    pos.write(&shop, &name, "");
    let commit = shop.commit();
    wait_for("it is said", || {
        let status = shop.agent.status()?;
        let app_said = status.apps.iter().any(|app| app.held.is_some());
        (app_said || !status.held.is_empty()).then_some(())
    });
    assert_eq!(pos.answer().unwrap(), "1");
    assert_eq!(shop.push("2"), name);
    shop.agent.wait_converged(&commit);
    assert_eq!(pos.answer().unwrap(), "2");
}

#[test]
fn a_registry_that_hangs_holds_up_what_names_a_tag_of_it_and_nothing_else() {
    // It takes whoever comes, says nothing, and counts those that gave up.
    let given_up = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&given_up);
    let silent = Hostile::start(move |mut peer| {
        peer.hang();
        counted.fetch_add(1, Ordering::SeqCst);
    });
    let host = format!("127.0.0.1:{}", silent.port());
    let mut shop = Shop::new();
    shop.agent.configure(&format!("[registries.\"{host}\"]\nplain_http = true\n"));
    let pos = HostApp::new("pos");
    pos.write(&shop, &shop.push("1"), "");
    shop.write_app("menu", &format!("{host}/menu:1"), "", "", "");
    shop.agent.start(&[]);
    shop.commit();
    // What is asked of that registry hangs from here on, and another commit comes meanwhile.
    shop.wait_said("menu", "is not known yet");
    let mut commits = 1;
    loop {
        let before = given_up.load(Ordering::SeqCst);
        commits += 1;
        let version = commits.to_string();
        pos.write(&shop, &shop.push(&version), "");
        shop.commit();
        wait_for("the commit is here", || pos.answer().ok().filter(|answer| *answer == version));
        // Where the registry was given up meanwhile, it may have been waited for.
        if given_up.load(Ordering::SeqCst) == before {
            break;
        }
        assert!(commits < 5, "no commit comes while a registry hangs");
    }
}
