//! The buffers that payloads go through. A few large ones are for all uploads together, so that one at a time goes as fast as
//! the disk; when these are taken, there are small ones, so that many at once go on in little memory.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::system::memory::Pages;

/// A large buffer: handing it over costs nothing beside writing it.
pub(super) const LARGE: usize = 256 << 10;

/// A small one: two of them are what an upload always gets.
const SMALL: usize = 32 << 10;

/// So many large ones are out at most, 4 MiB: what four uploads take, and more than four at once share the processor.
const LARGE_MAX: usize = 16;

/// How many of them are out.
static OUT: AtomicUsize = AtomicUsize::new(0);

/// Bytes that mean nothing at first.
pub(super) struct Buffer(Pages);

impl Buffer {
    /// A large buffer, or a small one if there are too many large ones.
    pub(super) fn take() -> Buffer {
        let one_more = |out| (out < LARGE_MAX).then_some(out + 1);
        let large = OUT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        Buffer(Pages::new(if large.is_ok() { LARGE } else { SMALL }))
    }

    /// Whether it is one of the few.
    pub(super) fn is_large(&self) -> bool {
        self.0.len() == LARGE
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.is_large() {
            OUT.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_buffers_have_a_bound_and_small_ones_follow() {
        // Other tests take some meanwhile, so that not all of them come here.
        let taken: Vec<Buffer> = (0..LARGE_MAX + 2).map(|_| Buffer::take()).collect();
        let large = taken.iter().filter(|buffer| buffer.is_large()).count();
        assert!(large <= LARGE_MAX && taken.iter().all(|buffer| buffer.len() >= SMALL));
    }
}
