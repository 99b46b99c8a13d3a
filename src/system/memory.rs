//! Memory that goes back to the system when it is dropped. What is allocated in a thread stays with its allocator for the next
//! thread: a few buffers of each of many uploads are megabytes that nobody needs any longer.

use std::io::{self, BufRead, Read};
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

/// Bytes in pages, as many as are needed each time.
#[derive(Default)]
pub struct Room {
    pages: Option<Pages>,
    len: usize,
}

impl Room {
    /// Makes it so many bytes long, and gives them: what they are says nothing if there were fewer before.
    pub fn resize(&mut self, bytes: usize) -> &mut [u8] {
        let pages = self.pages.take().filter(|pages| pages.len() >= bytes);
        self.len = bytes;
        let pages = pages.unwrap_or_else(|| Pages::new(bytes.next_power_of_two()));
        &mut self.pages.insert(pages)[..bytes]
    }
}

impl Deref for Room {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.pages.as_ref().map_or(&[], |pages| &pages[..self.len])
    }
}

/// Reads through a buffer of pages: [`std::io::BufReader`] has its buffer from the allocator.
pub struct PagesReader<R> {
    from: R,
    pages: Pages,
    at: usize,
    filled: usize,
}

impl<R: Read> PagesReader<R> {
    /// With a buffer of so many bytes.
    pub fn new(bytes: usize, from: R) -> PagesReader<R> {
        PagesReader {
            from,
            pages: Pages::new(bytes),
            at: 0,
            filled: 0,
        }
    }
}

impl<R: Read> Read for PagesReader<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.at == self.filled && out.len() >= self.pages.len() {
            return self.from.read(out);
        }
        let read = self.fill_buf()?.read(out)?;
        self.consume(read);
        Ok(read)
    }
}

impl<R: Read> BufRead for PagesReader<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.filled {
            (self.at, self.filled) = (0, 0);
            self.filled = self.from.read(&mut self.pages)?;
        }
        Ok(&self.pages[self.at..self.filled])
    }

    fn consume(&mut self, bytes: usize) {
        self.at = self.filled.min(self.at + bytes);
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

    #[test]
    fn a_reader_by_pages_gives_all_bytes_in_their_order() {
        let all: Vec<u8> = (0..10_000_u32).flat_map(u32::to_le_bytes).collect();
        for piece in [1, 7, 4096, 8192, 50_000] {
            let (mut reader, mut read) = (PagesReader::new(8192, &all[..]), Vec::new());
            assert_eq!(reader.fill_buf().unwrap(), &all[..8192]);
            let mut part = vec![0; piece];
            loop {
                match reader.read(&mut part).unwrap() {
                    0 => break,
                    len => read.extend_from_slice(&part[..len]),
                }
            }
            assert!(read == all, "by {piece} bytes");
        }
    }
}
