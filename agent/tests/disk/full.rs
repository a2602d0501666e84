//! No blocks, or no inodes.

use holdfast_core::report::Status;
use nix::sys::signal::Signal;

use crate::small_disk::SmallDisk;
use crate::support::agent_box::{AgentBox, Kind, app};
use crate::support::customer::Customer;
use crate::support::ports::free_port;

/// How the disk is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lack {
    Blocks,
    Inodes,
}

impl Lack {
    fn use_up(self, disk: &SmallDisk) {
        match self {
            Lack::Blocks => disk.fill(),
            Lack::Inodes => disk.take_inodes(),
        }
    }
}

/// A box on a small disk that has converged, with a WASM app and one of the simulated runtime, and somebody who asks
/// the first all the time.
struct Shop {
    customer: Option<Customer>,
    disk: SmallDisk,
    it: AgentBox,
}

impl Shop {
    fn open() -> Self {
        let mut it = AgentBox::new();
        let disk = SmallDisk::in_memory(&it, "size=32m,nr_inodes=1000");
        let port = free_port();
        it.write_wasm_app("hello", port);
        it.write_app("pos", &[], 1, Kind::Good);
        let first = it.commit();
        it.start(&[]);
        it.wait_converged(&first);
        Shop { customer: Some(Customer::of(port)), disk, it }
    }

    fn commit(&self, version: usize, kind: Kind) -> String {
        self.it.write_app("pos", &[], version, kind);
        self.it.commit()
    }

    fn runs(&self, version: usize) -> bool {
        self.it.versions_of("pos") == vec![version.to_string(); 2]
    }

    /// Nobody noticed, and nothing was made twice.
    fn close(mut self) {
        self.customer.take().unwrap().leave_content();
        self.it.assert_nothing_made_twice();
        self.it.stop();
    }
}

fn says_why(status: &Status) -> bool {
    let causes: Vec<&str> = status.held.iter().map(|held| held.cause.as_str()).collect();
    !status.converged
        && causes.iter().any(|cause| cause.contains("free some space") || cause.contains("No space"))
}

fn a_commit_waits_for_room_and_comes_by_itself(lack: Lack) {
    let mut shop = Shop::open();
    lack.use_up(&shop.disk);
    let second = shop.commit(2, Kind::Good);
    shop.it.signal(Signal::SIGHUP);
    shop.it.wait_until("out of room", |_, status| says_why(status));
    lack.use_up(&shop.disk);
    // Somebody asks again and again: it stays so, and what runs stays as it is.
    for _ in 0..3 {
        shop.it.signal(Signal::SIGHUP);
        shop.it.wait_until("out of room", |_, status| says_why(status));
    }
    assert!(shop.runs(1), "{:?}", shop.it.versions_of("pos"));
    let third = shop.commit(3, Kind::Good);
    assert_ne!(second, third);
    shop.disk.make_room();
    shop.it.wait_converged(&third);
    assert!(shop.runs(3));
    shop.close();
}

#[test]
fn on_a_full_disk_a_commit_waits_for_room_and_comes_by_itself() {
    a_commit_waits_for_room_and_comes_by_itself(Lack::Blocks);
}

#[test]
fn without_inodes_a_commit_waits_for_some_and_comes_by_itself() {
    a_commit_waits_for_room_and_comes_by_itself(Lack::Inodes);
}

fn a_bad_release_goes_back(lack: Lack) {
    let mut shop = Shop::open();
    let bad = shop.commit(2, Kind::Ill);
    shop.it.signal(Signal::SIGHUP);
    shop.it.wait_until("judged", |_, status| app(status, "pos").is_some_and(|pos| pos.phase == "Judging"));
    lack.use_up(&shop.disk);
    shop.it.wait_until("back", |_, status| app(status, "pos").is_some_and(|pos| pos.phase == "RolledBack"));
    assert!(shop.runs(1), "{:?}", shop.it.versions_of("pos"));
    // It is on disk as well: after a crash the box knows that this release failed.
    shop.it.kill();
    lack.use_up(&shop.disk);
    shop.it.start(&[]);
    shop.it.wait_until("up", |_, status| app(status, "pos").is_some_and(|pos| pos.phase == "RolledBack"));
    assert!(shop.runs(1));
    let third = shop.commit(3, Kind::Good);
    assert_ne!(bad, third);
    shop.it.signal(Signal::SIGHUP);
    shop.it.wait_until("out of room", |_, status| says_why(status));
    shop.disk.make_room();
    shop.it.wait_converged(&third);
    assert!(shop.runs(3));
    shop.close();
}

#[test]
fn on_a_full_disk_a_bad_release_goes_back_and_that_is_known_after_a_crash() {
    a_bad_release_goes_back(Lack::Blocks);
}

#[test]
fn without_inodes_a_bad_release_goes_back_and_that_is_known_after_a_crash() {
    a_bad_release_goes_back(Lack::Inodes);
}

#[test]
fn on_a_full_disk_a_webassembly_app_goes_back_and_answers() {
    let mut shop = Shop::open();
    // It is asked at a port at which nobody ever answers.
    let app_yaml = shop.it.repo.path().join("apps/hello/app.yaml");
    let text = std::fs::read_to_string(&app_yaml).unwrap();
    let port = text.split("127.0.0.1:").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let bad = text
        .replace(&format!("http://127.0.0.1:{port}/healthz"), "http://127.0.0.1:1/healthz")
        .replace("deadline: 1m", "deadline: 3s")
        .replace("startup: 10s", "startup: 1s")
        .replace("limits: {", "env: { VERSION: bad }\n    limits: {");
    assert_ne!(bad, text);
    shop.it.repo.write(&[("apps/hello/app.yaml", &bad)]);
    shop.it.commit();
    shop.it.signal(Signal::SIGHUP);
    shop.it.wait_until("judged", |_, status| app(status, "hello").is_some_and(|app| app.phase == "Judging"));
    shop.disk.fill();
    shop.it.wait_until("back", |_, status| app(status, "hello").is_some_and(|app| app.phase == "RolledBack"));
    // Those who asked while one version took the place of the other may have got no answer; from now on all do.
    shop.customer.take().unwrap().leave();
    shop.customer = Some(Customer::of(port.parse().unwrap()));
    shop.disk.make_room();
    shop.it.wait_until("well", |_, status| app(status, "hello").is_some_and(|app| app.health == "Healthy"));
    shop.close();
}

#[test]
fn a_box_at_rest_does_not_mind_a_full_disk_and_says_afterwards_what_happened() {
    let mut shop = Shop::open();
    shop.disk.fill();
    for _ in 0..3 {
        shop.it.signal(Signal::SIGHUP);
        shop.it.wait_until("answering", |_, _| true);
    }
    assert!(shop.runs(1));
    // What somebody takes away by hand is made again, though the disk is full.
    for entry in std::fs::read_dir(shop.it.dir().join("sim/objects")).unwrap() {
        std::fs::remove_file(entry.unwrap().path()).unwrap();
    }
    shop.it.signal(Signal::SIGHUP);
    shop.it.wait_until("put right", |it, _| it.versions_of("pos") == ["1", "1"]);
    let second = shop.commit(2, Kind::Good);
    shop.it.signal(Signal::SIGHUP);
    shop.it.wait_until("out of room", |_, status| says_why(status));
    shop.disk.make_room();
    shop.it.wait_converged(&second);
    let events = shop.it.events();
    let kinds: Vec<&str> = events.iter().map(|event| event.kind.as_str()).collect();
    let full = kinds.iter().position(|kind| *kind == "disk.full").expect("disk.full");
    assert!(kinds[full..].contains(&"disk.room") && kinds.contains(&"app.drift"), "{kinds:?}");
    shop.close();
}

#[test]
fn an_agent_that_starts_on_a_disk_without_any_room_at_all_waits_for_it_and_says_so() {
    let mut it = AgentBox::new();
    let disk = SmallDisk::in_memory(&it, "size=32m,nr_inodes=1000");
    it.write_app("pos", &[], 1, Kind::Good);
    let first = it.commit();
    disk.fill();
    it.start(&[]);
    it.wait_until("out of room", |_, status| says_why(status));
    disk.make_room();
    it.wait_converged(&first);
    it.assert_nothing_made_twice();
    it.stop();
}
