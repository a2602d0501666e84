//! The program's allocators: the system's own, and mimalloc in the processes that run WebAssembly.
//!
//! An agent rests nearly all of the time, and must be small then, after years as on its first day: the system's allocator
//! (musl's) gives back what is freed, by any thread. What runs WebAssembly serves many requests on some threads at once,
//! where musl's has one lock for all of them: there it is mimalloc. docs/adr/0003-allocator.md has the figures.

#![allow(
    unsafe_code,
    reason = "an allocator is unsafe by its nature; all that is done here is to choose one of two"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, Ordering};

use mimalloc::MiMalloc;

/// Whether this process takes what it needs from mimalloc. Never false again once it is true.
static FAST: AtomicBool = AtomicBool::new(false);

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct Allocator;

/// From here on what this process needs comes from mimalloc. For a process that serves or compiles.
pub fn be_fast() {
    FAST.store(true, Ordering::Relaxed);
}

fn is_fast() -> bool {
    FAST.load(Ordering::Relaxed)
}

/// Whether mimalloc gave this block, and not the system before [`be_fast`]. Whoever has a block that mimalloc gave knows
/// that it may: the block came to its thread by a way that orders both.
fn is_mimallocs(block: *mut u8) -> bool {
    // SAFETY: as mimalloc.h declares it; it only looks the address up, whatever it is.
    unsafe extern "C" {
        safe fn mi_is_in_heap_region(block: *const c_void) -> bool;
    }
    is_fast() && mi_is_in_heap_region(block.cast())
}

// SAFETY: each call is handed on as it came to one of two allocators that keep the trait's promises; a block is freed and
// grown by the one that gave it.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are those that the callee asks for.
        if is_fast() { unsafe { MiMalloc.alloc(layout) } } else { unsafe { System.alloc(layout) } }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        if is_fast() {
            unsafe { MiMalloc.alloc_zeroed(layout) }
        } else {
            unsafe { System.alloc_zeroed(layout) }
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above; the block came from there.
        if is_mimallocs(block) {
            unsafe { MiMalloc.dealloc(block, layout) }
        } else {
            unsafe { System.dealloc(block, layout) }
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if is_mimallocs(block) {
            // SAFETY: as above; the block came from there.
            unsafe { MiMalloc.realloc(block, layout, size) }
        } else {
            // SAFETY: as above; the block came from there.
            unsafe { System.realloc(block, layout, size) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_keeps_its_content_whichever_allocator_gave_it_and_however_it_grows_and_shrinks() {
        let sizes = [1, 1000, 100_000, 200_000, 3_000_000, 40_000_000, 200_000, 1000, 17, 5_000_000, 64];
        // SAFETY: the layouts are not empty, each block is written to before it is read, and freed once.
        unsafe {
            let layout_of = |size, align| Layout::from_size_align(size, align).unwrap();
            let aligns = [1, 8, 64, 4096, 1 << 20];
            let early = aligns.map(|align| Allocator.alloc(layout_of(sizes[0], align)));
            assert!(early.iter().all(|block| !is_mimallocs(*block)));
            be_fast();
            let late = aligns.map(|align| Allocator.alloc_zeroed(layout_of(sizes[0], align)));
            assert!(late.iter().all(|block| is_mimallocs(*block)));
            assert!(early.iter().all(|block| !is_mimallocs(*block)));
            for (align, mut block) in aligns.into_iter().zip(early).chain(aligns.into_iter().zip(late)) {
                let given = is_mimallocs(block);
                let mut layout = layout_of(sizes[0], align);
                block.write(7);
                for size in sizes {
                    block = Allocator.realloc(block, layout, size);
                    layout = layout_of(size, align);
                    assert_eq!((block as usize % align, block.read(), is_mimallocs(block)), (0, 7, given));
                    block.add(size - 1).write(if size == 1 { 7 } else { 9 });
                }
                Allocator.dealloc(block, layout);
            }
        }
    }
}
