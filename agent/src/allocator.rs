//! The program's allocator: the system's own in the agent and its commands, mimalloc in the processes that run WebAssembly.
//!
//! An agent rests nearly all of the time, and must be small then, after years as on its first day: the system's allocator
//! (musl's) gives back what is freed, by any thread. What runs WebAssembly serves many requests on some threads at once,
//! where musl's has one lock for all of them: there it is mimalloc. docs/adr/0003-allocator.md has the figures.
//!
//! A process has one allocator for all of its life. Which one is decided by the first allocation, before `main`, from the
//! command line that the kernel has of the process, so every block is freed by the allocator that gave it, and no block's
//! address is ever asked where it came from.

#![allow(
    unsafe_code,
    reason = "an allocator is unsafe by its nature; all that is done here is to choose one of two, once"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU8, Ordering};

use holdfast_drivers::wasm::{COMPILE_COMMAND, PROBE_COMMAND, RUN_COMMAND};
use mimalloc::MiMalloc;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct Allocator;

/// Whose blocks this process has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Choice {
    /// The C library's.
    System = 1,
    /// mimalloc's.
    Mimalloc = 2,
}

/// The choice as a number; 0 before the first allocation. Written once, and never changed afterwards.
static CHOICE: AtomicU8 = AtomicU8::new(0);

/// As much of a command line as is read: a program's path and the word after it.
const COMMAND_LINE: usize = 4096 + 64;

/// The process' allocator. Threads that came here at once would agree: the first to write decides, and the rest take its
/// word.
fn choice() -> Choice {
    let number = match CHOICE.load(Ordering::Relaxed) {
        0 => {
            let wanted = wanted() as u8;
            match CHOICE.compare_exchange(0, wanted, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => wanted,
                Err(decided) => decided,
            }
        }
        decided => decided,
    };
    if number == Choice::Mimalloc as u8 { Choice::Mimalloc } else { Choice::System }
}

/// By the command line that the kernel has of this process. Nothing here may allocate: there is no allocator yet.
/// Without /proc it is the system's, which is right everywhere, and slower for WebAssembly.
#[cold]
fn wanted() -> Choice {
    let mut line = [0; COMMAND_LINE];
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    let read = open(c"/proc/self/cmdline", flags, Mode::empty())
        .and_then(|file| nix::unistd::read(&file, &mut line))
        .unwrap_or(0);
    wanted_by(line.get(..read).unwrap_or_default())
}

/// A command line as in /proc/PID/cmdline (proc(5)): words that each end with a zero.
fn wanted_by(command_line: &[u8]) -> Choice {
    let command = command_line.split(|byte| *byte == 0).nth(1).unwrap_or_default();
    let runs_wasm =
        [RUN_COMMAND, PROBE_COMMAND, COMPILE_COMMAND].iter().any(|word| word.as_bytes() == command);
    if runs_wasm { Choice::Mimalloc } else { Choice::System }
}

// SAFETY: each call is handed on as it came to an allocator that keeps the trait's promises, and to the same one for as
// long as the process lives: `choice` never gives another answer than its first.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are those that the callee asks for.
        unsafe {
            match choice() {
                Choice::System => System.alloc(layout),
                Choice::Mimalloc => MiMalloc.alloc(layout),
            }
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe {
            match choice() {
                Choice::System => System.alloc_zeroed(layout),
                Choice::Mimalloc => MiMalloc.alloc_zeroed(layout),
            }
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above; the process has no other allocator that the block could be of.
        unsafe {
            match choice() {
                Choice::System => System.dealloc(block, layout),
                Choice::Mimalloc => MiMalloc.dealloc(block, layout),
            }
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above.
        unsafe {
            match choice() {
                Choice::System => System.realloc(block, layout, size),
                Choice::Mimalloc => MiMalloc.realloc(block, layout, size),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every test of this crate runs on it.
    #[global_allocator]
    static ALLOCATOR: Allocator = Allocator;

    #[test]
    fn only_the_processes_that_run_webassembly_have_mimalloc() {
        for line in [
            "/proc/self/exe\0wasm-run\0/run/holdfast/wasm/pos\0",
            "holdfast\0wasm-probe\0",
            "h\0wasm-compile",
        ] {
            assert_eq!(wanted_by(line.as_bytes()), Choice::Mimalloc, "{line:?}");
        }
        for line in [
            "",
            "\0",
            "holdfast\0run\0",
            "wasm-run\0",
            "holdfast\0run\0wasm-run\0",
            "holdfast\0wasm-runner\0",
        ] {
            assert_eq!(wanted_by(line.as_bytes()), Choice::System, "{line:?}");
        }
    }

    #[test]
    fn the_choice_was_made_before_the_first_test_and_stays() {
        assert_eq!(
            CHOICE.load(Ordering::Relaxed),
            Choice::System as u8,
            "a test's program runs no WebAssembly"
        );
        assert_eq!(choice(), Choice::System);
        assert_eq!(wanted(), Choice::System);
    }
}
