//! The disk budget and what is fetched from Git: a commit that is too large is given up, and every way out of it stays
//! open.

use std::fs;
use std::path::Path;

use holdfast_core::report::Status;

use crate::support::agent_box::{AgentBox, app};
use crate::support::ports::free_port;

/// The budget of these boxes, in bytes, and the room that something small always has.
const BUDGET: u64 = (16 << 20) + (1 << 20);

/// A box with that budget.
fn small_box() -> AgentBox {
    let it = AgentBox::new();
    let path = it.dir().join("agent.toml");
    let config = fs::read_to_string(&path).unwrap();
    let budgeted = config.replacen("[state]\n", "[state]\ndisk_budget = \"16MiB\"\n", 1);
    assert_ne!(config, budgeted, "there is a [state]");
    fs::write(path, budgeted).unwrap();
    it
}

/// Text that compresses to some four fifths.
fn noise(size: usize, seed: u64) -> String {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        char::from(b'!' + (state >> 33) as u8 % 94)
    };
    (0..size).map(|_| next()).collect()
}

/// Writes the app with a component of some `size` bytes that only `seed` tells from others, and commits it.
fn commit(it: &AgentBox, port: u16, size: usize, seed: u64) -> String {
    it.write_wasm_app("hello", port);
    let path = "apps/hello/files/hello.wat";
    let component = fs::read_to_string(it.repo.path().join(path)).unwrap();
    // One comment: nobody compiles it.
    it.repo.write(&[(path, &format!("{component}\n;; {}\n", noise(size, seed)))]);
    it.commit()
}

/// The bytes of all files below `path`.
fn size_of(path: &Path) -> u64 {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => size_of(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}

fn used(it: &AgentBox) -> u64 {
    let folders = ["mirror", "wasm/compiled", "content/sha256", "content/partial", "content/tmp"];
    folders.iter().map(|folder| size_of(&it.state().join(folder))).sum()
}

fn is_held_for_the_budget(status: &Status) -> bool {
    status.held.iter().any(|held| held.cause.contains("disk_budget"))
}

#[test]
fn a_commit_beyond_the_disk_budget_is_given_up_and_a_smaller_one_and_one_without_the_app_get_through() {
    let (mut it, port) = (small_box(), free_port());
    let first = commit(&it, port, 4_000_000, 1);
    it.start(&[]);
    it.wait_converged(&first);
    for seed in 2..5 {
        let next = commit(&it, port, 4_000_000, seed);
        it.signal(nix::sys::signal::Signal::SIGHUP);
        it.wait_until("followed, or held for the budget", |_, status| {
            status.revision.applied.as_ref().is_some_and(|applied| applied.0 == next)
                || is_held_for_the_budget(status)
        });
    }

    commit(&it, port, 20_000_000, 9);
    it.signal(nix::sys::signal::Signal::SIGHUP);
    it.wait_until("held for the budget", |_, status| is_held_for_the_budget(status));
    assert!(used(&it) <= BUDGET, "{} bytes of {BUDGET} are used", used(&it));

    let small = commit(&it, port, 1_000, 10);
    it.signal(nix::sys::signal::Signal::SIGHUP);
    it.wait_converged(&small);
    assert!(used(&it) <= BUDGET, "{} bytes of {BUDGET} are used", used(&it));

    commit(&it, port, 20_000_000, 11);
    it.signal(nix::sys::signal::Signal::SIGHUP);
    it.wait_until("held for the budget", |_, status| is_held_for_the_budget(status));
    fs::remove_dir_all(it.repo.path().join("apps/hello")).unwrap();
    let without = it.commit();
    it.signal(nix::sys::signal::Signal::SIGHUP);
    it.wait_converged(&without);
    it.wait_until("rid of the app", |_, status| app(status, "hello").is_none());
    it.stop();
}

#[test]
fn a_box_whose_mirror_is_beyond_the_budget_follows_a_commit_that_needs_less() {
    let (mut it, port) = (small_box(), free_port());
    let first = commit(&it, port, 1_000, 1);
    it.start(&[]);
    it.wait_converged(&first);
    it.stop();
    // As agents left it that kept no bound.
    let garbage = it.state().join("mirror/objects/pack/pack-of-before");
    fs::write(&garbage, vec![7; 30 << 20]).unwrap();
    let small = commit(&it, port, 2_000, 2);
    it.start(&[]);
    it.wait_converged(&small);
    it.wait_until("tidied up", |it, _| used(it) <= BUDGET);
    it.stop();
}
