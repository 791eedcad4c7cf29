//! The arena a memory plan lays its buffers in, and the [`View`]s that ops read and write through.
//!
//! A plan gives every buffer a region of one allocation and lets buffers that are never alive
//! together share bytes. Rust's borrow rules cannot see that, so views are raw underneath; the
//! promise that makes them sound is the plan's (checked by its own test): buffers that one op
//! touches never overlap unless they are the same buffer.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;

/// Bytes every region is aligned to: a cache line, and one AVX-512 vector.
pub const ALIGNMENT: usize = 64;

/// One zeroed, cache-line aligned allocation of f32.
pub struct Arena {
    start: NonNull<f32>,
    len: usize,
}

// SAFETY: the arena owns its allocation; access goes through views, whose contract is above.
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

impl Arena {
    /// Allocates `len` zeroed f32. Pages are touched on first use only.
    pub fn new(len: usize) -> Arena {
        let layout = Self::layout(len);
        // SAFETY: the layout has a non-zero size.
        let start = unsafe { alloc_zeroed(layout) }.cast::<f32>();
        match NonNull::new(start) {
            Some(start) => Arena { start, len },
            None => handle_alloc_error(layout),
        }
    }

    fn layout(len: usize) -> Layout {
        Layout::array::<f32>(len.max(1))
            .and_then(|layout| layout.align_to(ALIGNMENT))
            .expect("an arena's size fits an isize")
    }

    /// Number of f32 in the arena.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True for an arena of no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The view of `len` f32 from `offset`.
    pub fn view(&self, offset: usize, len: usize) -> View {
        assert!(offset + len <= self.len, "a view inside its arena");
        // SAFETY: the range was checked to lie inside the allocation.
        let start = unsafe { self.start.as_ptr().add(offset) };
        View { start, len }
    }

    /// The first `len` f32 as a slice, for scratch that one caller uses alone.
    pub fn as_mut_slice(&mut self) -> &mut [f32] {
        // SAFETY: the arena is borrowed mutably and its memory is initialised.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with the same layout.
        unsafe { dealloc(self.start.as_ptr().cast(), Self::layout(self.len)) }
    }
}

/// A window on planned memory, handed to the kernels of one op for the time of one pass.
#[derive(Clone, Copy, Debug)]
pub struct View {
    start: *mut f32,
    len: usize,
}

// SAFETY: tasks of one op write disjoint elements of a view (each its own images, or its own
// partial sums), which is what every kernel states where it uses one.
unsafe impl Send for View {}
// SAFETY: as above.
unsafe impl Sync for View {}

impl View {
    /// A view of a parameter vector that a pass only reads.
    pub fn of(slice: &[f32]) -> View {
        View {
            start: slice.as_ptr().cast_mut(),
            len: slice.len(),
        }
    }

    /// A view of a vector that a pass writes.
    pub fn of_mut(slice: &mut [f32]) -> View {
        View {
            start: slice.as_mut_ptr(),
            len: slice.len(),
        }
    }

    /// Number of f32.
    pub fn len(self) -> usize {
        self.len
    }

    /// True for a view of nothing.
    pub fn is_empty(self) -> bool {
        self.len == 0
    }

    /// The part of `len` f32 from `offset`.
    pub fn part(self, offset: usize, len: usize) -> View {
        assert!(offset + len <= self.len, "a part inside its view");
        View {
            // SAFETY: checked to lie inside the view.
            start: unsafe { self.start.add(offset) },
            len,
        }
    }

    /// Address of the first element.
    pub fn pointer(self) -> *mut f32 {
        self.start
    }

    /// The elements, to read.
    pub fn read<'a>(self) -> &'a [f32] {
        // SAFETY: planned memory outlives the pass that the view was made for and is initialised;
        // nobody writes these elements while an op reads them (module docs).
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }

    /// The elements, to write; the caller is the only task that touches them.
    pub fn write<'a>(self) -> &'a mut [f32] {
        // SAFETY: as in `read`, and the task owns these elements for the call (module docs).
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }
}
