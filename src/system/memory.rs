//! Memory that goes back to the system when it is dropped. What is allocated in a thread stays with its allocator for the next
//! thread: a few buffers of each of many uploads are megabytes that nobody needs any longer.

use std::ops::{Deref, DerefMut};

use memmap2::MmapMut;

use crate::system::host;

/// Bytes in pages of their own, zeros at first.
pub struct Pages(Kind);

enum Kind {
    Mapped(MmapMut),
    /// Where the system gives no pages.
    Allocated(Vec<u8>),
}

impl Pages {
    /// So many bytes: worth it from some tens of kibibytes on.
    pub fn new(bytes: usize) -> Pages {
        Pages(match MmapMut::map_anon(bytes) {
            Ok(mapped) => Kind::Mapped(mapped),
            Err(_) => Kind::Allocated(vec![0; bytes]),
        })
    }
}

impl Deref for Pages {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Kind::Mapped(bytes) => bytes,
            Kind::Allocated(bytes) => bytes,
        }
    }
}

impl DerefMut for Pages {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.0 {
            Kind::Mapped(bytes) => bytes,
            Kind::Allocated(bytes) => bytes,
        }
    }
}

/// How much memory of this process is in the machine's; none where the system does not say.
pub fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * host::page_size())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_memory() {
        assert!(resident_bytes().unwrap() > 100 << 10);
    }

    #[test]
    fn pages_are_bytes() {
        let mut pages = Pages::new(100_000);
        assert!(pages.len() == 100_000 && pages.iter().all(|byte| *byte == 0));
        pages[99_999] = 7;
        assert_eq!(pages[99_999], 7);
        assert!(Pages::new(0).is_empty());
    }
}
