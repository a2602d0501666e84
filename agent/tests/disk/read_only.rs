//! A file system that the kernel has made read-only.

use holdfast_core::report::Status;
use nix::sys::signal::Signal;

use crate::small_disk::SmallDisk;
use crate::support::agent_box::{AgentBox, Kind, app};
use crate::support::customer::Customer;
use crate::support::ports::free_port;

fn says_why(status: &Status) -> bool {
    let causes: Vec<&str> = status.held.iter().map(|held| held.cause.as_str()).collect();
    !status.converged && causes.iter().any(|cause| cause.to_lowercase().contains("read-only"))
}

fn pos(it: &AgentBox, version: usize, kind: Kind) -> String {
    it.write_app("pos", &[], version, kind);
    it.commit()
}

#[test]
fn while_the_disk_is_read_only_what_runs_goes_on_and_afterwards_the_newest_commit_comes_by_itself() {
    let mut it = AgentBox::new();
    let disk = SmallDisk::in_memory(&it, "size=32m");
    let port = free_port();
    it.write_wasm_app("hello", port);
    let first = pos(&it, 1, Kind::Good);
    it.start(&[]);
    it.wait_converged(&first);
    let customer = Customer::of(port);
    disk.cover();
    pos(&it, 2, Kind::Good);
    it.signal(Signal::SIGHUP);
    it.wait_until("read-only", |_, status| says_why(status));
    assert_eq!(it.versions_of("pos"), ["1", "1"]);
    let third = pos(&it, 3, Kind::Good);
    disk.uncover();
    it.wait_converged(&third);
    assert_eq!(it.versions_of("pos"), ["3", "3"]);
    customer.leave_content();
    it.assert_nothing_made_twice();
    it.stop();
}

#[test]
fn when_the_kernel_gives_a_file_system_up_what_runs_goes_on_until_somebody_mends_it() {
    let mut it = AgentBox::new();
    let disk = SmallDisk::ext4(&it);
    let port = free_port();
    it.write_wasm_app("hello", port);
    let first = pos(&it, 1, Kind::Good);
    it.start(&[]);
    it.wait_converged(&first);
    let customer = Customer::of(port);
    disk.fail();
    pos(&it, 2, Kind::Good);
    it.signal(Signal::SIGHUP);
    it.wait_until("read-only", |_, status| says_why(status));
    assert_eq!(it.versions_of("pos"), ["1", "1"]);
    // Started again on it, the agent says the same.
    it.kill();
    it.start(&[]);
    it.wait_until("read-only", |_, status| says_why(status));
    it.kill();
    let third = pos(&it, 3, Kind::Good);
    customer.leave_content();
    // What runs has files open there; that is ended as well, as by a restart of the box.
    it.end_workloads();
    disk.mend();
    it.start(&[]);
    it.wait_converged(&third);
    assert_eq!(it.versions_of("pos"), ["3", "3"]);
    it.assert_nothing_made_twice();
    it.stop();
}

#[test]
fn a_bad_release_that_is_judged_while_the_kernel_gives_the_disk_up_goes_back_once_it_is_mended() {
    let mut it = AgentBox::new();
    let disk = SmallDisk::ext4(&it);
    let first = pos(&it, 1, Kind::Good);
    it.start(&[]);
    it.wait_converged(&first);
    pos(&it, 2, Kind::Ill);
    it.signal(Signal::SIGHUP);
    it.wait_until("judged", |_, status| app(status, "pos").is_some_and(|pos| pos.phase == "Judging"));
    disk.fail();
    it.wait_until("read-only", |_, status| says_why(status));
    it.kill();
    disk.mend();
    it.start(&[]);
    it.wait_until("back", |_, status| app(status, "pos").is_some_and(|pos| pos.phase == "RolledBack"));
    assert_eq!(it.versions_of("pos"), ["1", "1"]);
    it.assert_nothing_made_twice();
    it.stop();
}

#[test]
fn an_agent_that_starts_on_a_read_only_disk_leaves_what_runs_says_so_and_goes_on_when_it_is_mended() {
    let mut it = AgentBox::new();
    let disk = SmallDisk::in_memory(&it, "size=32m");
    let port = free_port();
    it.write_wasm_app("hello", port);
    let first = pos(&it, 1, Kind::Good);
    it.start(&[]);
    it.wait_converged(&first);
    it.stop();
    let customer = Customer::of(port);
    disk.remount("ro");
    let second = pos(&it, 2, Kind::Good);
    it.start(&[]);
    it.wait_until("read-only", |_, status| says_why(status));
    disk.remount("rw");
    it.wait_converged(&second);
    customer.leave_content();
    it.assert_nothing_made_twice();
    it.stop();
}
