//! The program's allocator: mimalloc, and the operating system itself for what is large.
//!
//! What mimalloc is given back it keeps for the thread that had it, and a large block that is to be zero it takes from
//! there and writes zeroes to. Both cost a box megabytes for ever: a buffer that was read into once, and sled's tables of
//! several megabytes, of which a few pages are ever used. The system's allocator maps each large block by itself: it is
//! gone when it is freed, and what was never written to takes no memory. docs/adr/0003-allocator.md.

#![allow(
    unsafe_code,
    reason = "an allocator is unsafe by its nature; all that is done here is to choose one of two, and to set an option"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::ffi::{c_int, c_long};

use mimalloc::MiMalloc;

/// From this size on a block is large, in bytes: that of sled's write buffers, and musl maps from 131,052 on each block by
/// itself.
const LARGE: usize = 128 << 10;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct Allocator;

/// Has pages that become free go back to the system at once. By itself mimalloc waits for a second, and then until it is
/// asked for more: an agent that has started and has nothing to do would keep what the start used.
pub fn give_back_at_once() {
    /// `mi_option_purge_delay` of `mi_option_t` (mimalloc.h), in milliseconds.
    const PURGE_DELAY: c_int = 15;
    // SAFETY: as mimalloc.h declares it, `void mi_option_set(mi_option_t option, long value)`; any thread may call it.
    unsafe extern "C" {
        safe fn mi_option_set(option: c_int, value: c_long);
    }
    mi_option_set(PURGE_DELAY, 0);
}

fn is_large(size: usize) -> bool {
    size >= LARGE
}

// SAFETY: each call is handed on as it came to one of two allocators that keep the trait's promises. Which one depends on
// the layout's size alone, and a block is freed with the layout that it was allocated with: by the one that it is from.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are those that the callee asks for.
        if is_large(layout.size()) {
            unsafe { System.alloc(layout) }
        } else {
            unsafe { MiMalloc.alloc(layout) }
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if is_large(layout.size()) {
            // SAFETY: as above.
            unsafe { System.alloc_zeroed(layout) }
        } else {
            // SAFETY: as above.
            unsafe { MiMalloc.alloc_zeroed(layout) }
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if is_large(layout.size()) {
            // SAFETY: as above; a block of this size came from there.
            unsafe { System.dealloc(block, layout) }
        } else {
            // SAFETY: as above; a block of this size came from there.
            unsafe { MiMalloc.dealloc(block, layout) }
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        match (is_large(layout.size()), is_large(size)) {
            // SAFETY: as above; it stays with the one that it came from.
            (true, true) => unsafe { System.realloc(block, layout, size) },
            // SAFETY: as above; it stays with the one that it came from.
            (false, false) => unsafe { MiMalloc.realloc(block, layout, size) },
            // SAFETY: `size` is not 0 and not too large for the alignment, as the caller promises; the two blocks are
            // apart, and the smaller size is in both; the old one is freed with its own layout, once the new one is there.
            _ => unsafe {
                let moved = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
                if !moved.is_null() {
                    std::ptr::copy_nonoverlapping(block, moved, layout.size().min(size));
                    self.dealloc(block, layout);
                }
                moved
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Resident memory of this process in bytes.
    fn resident() -> usize {
        let text = std::fs::read_to_string("/proc/self/statm").unwrap();
        text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
    }

    #[test]
    fn a_block_keeps_its_content_whichever_way_it_grows_and_shrinks() {
        let sizes = [1, 1000, LARGE - 1, LARGE, LARGE + 1, 3 * LARGE, LARGE, LARGE - 1, 17, 5 * LARGE, 64];
        for align in [1, 8, 64, 4096] {
            let mut layout = Layout::from_size_align(sizes[0], align).unwrap();
            // SAFETY: the layouts are not empty, each block is written to before it is read, and freed once.
            unsafe {
                let mut block = Allocator.alloc(layout);
                block.write(7);
                for size in sizes {
                    block = Allocator.realloc(block, layout, size);
                    layout = Layout::from_size_align(size, align).unwrap();
                    assert_eq!((block as usize % align, block.read()), (0, 7));
                    block.add(size - 1).write(if size == 1 { 7 } else { 9 });
                }
                Allocator.dealloc(block, layout);
            }
        }
    }

    #[test]
    fn a_large_block_of_zeroes_takes_no_memory_until_it_is_written_to_though_others_were_freed_before() {
        let layout = Layout::from_size_align(128 << 20, 8).unwrap();
        // SAFETY: as above.
        unsafe {
            let first = Allocator.alloc(layout);
            first.write_bytes(1, layout.size());
            Allocator.dealloc(first, layout);
            let before = resident();
            let second = Allocator.alloc_zeroed(layout);
            assert_eq!((second.read(), second.add(layout.size() - 1).read()), (0, 0));
            assert!(resident() < before + layout.size() / 2, "it is all there");
            Allocator.dealloc(second, layout);
        }
    }

    #[test]
    fn what_is_freed_in_small_blocks_is_given_back_though_nobody_asks_for_more() {
        give_back_at_once();
        let (layout, count) = (Layout::from_size_align(1000, 8).unwrap(), 128 << 10);
        let before = resident();
        // SAFETY: each block is written to within its size, and freed once with its layout.
        unsafe {
            let blocks: Vec<*mut u8> = (0..count).map(|_| Allocator.alloc(layout)).collect();
            blocks.iter().for_each(|block| block.write_bytes(1, layout.size()));
            assert!(resident() > before + layout.size() * count / 2);
            blocks.into_iter().for_each(|block| Allocator.dealloc(block, layout));
        }
        assert!(resident() < before + layout.size() * count / 2, "it is kept");
    }
}
