//! kill -9 with podman: of the agent, of podman's service and of conmon, at random moments, under a stream of good
//! and bad commits of two apps.
//!
//! The steps can be repeated, the moments can't: what it found once is said where it was mended. A service killed
//! while it unpacked or removed left containers that it lists and can't inspect ("layer not known", "container not
//! known"); they held up their apps for ever.
//!
//! `HOLDFAST_PODMAN_KILLS` says how often (100), `HOLDFAST_SEED` repeats a run's random steps.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failing helper is a failing test")]
#![allow(clippy::print_stdout, reason = "a test's figures")]

#[path = "on_podman/meddler.rs"]
#[allow(dead_code, reason = "this test needs a part of it")]
mod meddler;
#[allow(dead_code, reason = "this test needs a part of it")]
#[path = "on_podman/shop.rs"]
mod shop;
mod support;

use std::fs;
use std::process::ExitStatus;
use std::thread;
use std::time::Instant;

use meddler::{HostApp, Neighbour, murder, pid};
use nix::sys::signal::Signal;
use shop::Shop;
use support::agent_box::died_of;
use support::git_repo::Signer;
use support::random::{Random, number};

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Agent,
    Service,
    Conmon,
}

/// Commits a change of one app: most often a good one.
fn commit(shop: &Shop, apps: &[HostApp], images: &[String], random: &mut Random, version: u64) {
    let app = &apps[random.below(apps.len() as u64) as usize];
    let image = &images[random.below(images.len() as u64) as usize];
    let (container, signer) = match random.below(8) {
        // Ends at once; never becomes ready; can't be started; nobody signed it.
        0 => ("          args: [exit, \"1\"]\n".to_owned(), Signer::Ops),
        1 => ("          args: [sleep]\n".to_owned(), Signer::Ops),
        2 => ("          command: [/nothing]\n".to_owned(), Signer::Ops),
        3 => (String::new(), Signer::Nobody),
        _ => (String::new(), Signer::Ops),
    };
    app.write_marked(shop, image, version, &container);
    shop.agent.repo.commit(&[], signer);
}

fn kill(shop: &mut Shop, victim: Victim, random: &mut Random, round: u64) {
    match victim {
        Victim::Agent => {
            let status: ExitStatus = shop.agent.kill();
            // A SIGHUP that comes before the agent's first line of code ends it too.
            let expected = died_of(status, Signal::SIGKILL) || died_of(status, Signal::SIGHUP);
            assert!(expected, "round {round}: the agent ended with {status}\n{}", shop.agent.log_tail());
            shop.agent.start(&[]);
        }
        Victim::Service => shop.podman.restart_service(),
        Victim::Conmon => {
            let ours = shop.podman.containers("dev.holdfast.device");
            let Some(one) = ours.get(random.below(ours.len().max(1) as u64) as usize) else { return };
            // It may have gone in this moment.
            let found = shop.podman.inspect(&one.id);
            let Some(conmon) = found.map(|found| pid(&found, "ConmonPid")).filter(|pid| *pid > 1) else {
                return;
            };
            let line = fs::read(format!("/proc/{conmon}/cmdline")).unwrap_or_default();
            if String::from_utf8_lossy(&line).contains(&one.id) {
                murder(conmon);
            }
        }
    }
}

#[test]
fn kills_of_the_agent_of_podman_and_of_conmon_leave_one_container_of_each_app_and_nothing_else() {
    let kills = number("HOLDFAST_PODMAN_KILLS", 100);
    let time = std::time::UNIX_EPOCH.elapsed().unwrap().subsec_nanos();
    let seed = number("HOLDFAST_SEED", time.into()).max(1);
    println!("{kills} kills; HOLDFAST_SEED={seed} repeats the steps");
    let mut random = Random(seed);
    let mut shop = Shop::new();
    let neighbour = Neighbour::start(&shop);
    let apps = [HostApp::new("db"), HostApp::new("pos")];
    let images = ["1", "2", "3"].map(|version| shop.push(version));
    for app in &apps {
        app.write_marked(&shop, &images[0], 0, "");
    }
    shop.agent.start(&[]);
    shop.converge();

    let began = Instant::now();
    let mut killed = [0; 3];
    let mut version = 0;
    for round in 0..kills {
        if random.below(2) == 0 {
            version += 1;
            commit(&shop, &apps, &images, &mut random, version);
            shop.agent.signal(Signal::SIGHUP);
        }
        thread::sleep(random.millis(700));
        let victim = [Victim::Agent, Victim::Service, Victim::Conmon][random.below(3) as usize];
        killed[victim as usize] += 1;
        kill(&mut shop, victim, &mut random, round);
        if round % 20 == 19 {
            // However it was killed before, it comes up.
            shop.agent.wait_until("up", |_, _| true);
            neighbour.assert_untouched(&shop);
        }
    }
    let took = began.elapsed();
    version += 1;
    let last = shop.push("last");
    for app in &apps {
        app.write_marked(&shop, &last, version, "");
    }
    let converging = Instant::now();
    shop.converge();
    println!("converged in {:?}", converging.elapsed());
    for app in &apps {
        assert_eq!(app.answer().unwrap(), "last");
        assert_eq!(app.container(&shop).state, "running");
    }
    shop.assert_no_strays();
    neighbour.assert_untouched(&shop);
    let log = shop.agent.log();
    assert!(!log.contains("damaged"), "the store was taken for damaged\n{}", shop.agent.log_tail());
    println!("{kills} kills (agent, service, conmon: {killed:?}) in {took:?}, {version} commits");
    for kind in ["app.applied", "app.good", "app.rolledback", "app.setaside", "app.drift", "left behind"] {
        println!("{kind}: {}", log.matches(kind).count());
    }

    shop.agent.repo.git(&["rm", "-rq", "apps"]);
    let gone = shop.commit();
    shop.agent.wait_until("empty", |_, status| {
        status.apps.is_empty() && status.revision.accepted.as_ref().is_some_and(|it| it.0 == gone)
    });
    assert!(shop.podman.containers("dev.holdfast.device").is_empty());
    let (_, volumes) = shop.podman.api("GET", "/volumes/json", None);
    assert_eq!(volumes.as_array().map(Vec::len), Some(1), "{volumes}");
    shop.assert_no_strays();
    neighbour.assert_untouched(&shop);
}
