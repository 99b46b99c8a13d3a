//! The data sets: the same bytes in each run, made of a small generator of pseudo-random numbers.

use std::fs;
use std::io::{BufWriter, Write};
use std::path::Path;

/// What is deployed, and what it may cost.
pub(crate) struct Set {
    pub(crate) name: &'static str,
    pub(crate) against_gzip: &'static str,
    pub(crate) against_plain: &'static str,
    files: u64,
    bytes: u64,
    /// How many of ten files are text.
    text: u64,
}

impl Set {
    /// The four sets; the large ones are divided by `scale`.
    pub(crate) fn all(scale: u64) -> [Set; 4] {
        let set = |name, files, bytes, text, against_gzip, against_plain| Set {
            name,
            against_gzip,
            against_plain,
            files,
            bytes,
            text,
        };
        [
            set("12 files", 12, 64 << 10, 10, "", ""),
            set(
                "10,000 files of 100 MB",
                10_000 / scale,
                100_000_000 / scale,
                9,
                "<= 1.2, then 1.0",
                "then <= 2.4",
            ),
            set("512 MB of text", 8, (512 << 20) / scale, 10, "", ""),
            set(
                "1 GiB of noise",
                1,
                (1 << 30) / scale,
                0,
                "",
                "<= 2.0, then 1.3",
            ),
        ]
    }

    /// Writes it, if it is not there.
    pub(crate) fn write(&self, dir: &Path) {
        if dir.exists() {
            return;
        }
        let mut random = Random(42);
        let each = self.bytes / self.files;
        for n in 0..self.files {
            let folder = dir.join(format!("d{}", n / 100));
            fs::create_dir_all(&folder).unwrap();
            let mut file = BufWriter::new(fs::File::create(folder.join(format!("f{n}"))).unwrap());
            let mut left = each;
            while left > 0 {
                let piece = if n % 10 < self.text {
                    random.word()
                } else {
                    random.noise()
                };
                let piece = &piece[..piece.len().min(usize::try_from(left).unwrap())];
                file.write_all(piece).unwrap();
                left -= piece.len() as u64;
            }
            file.flush().unwrap();
        }
    }
}

/// Xorshift: small, and good enough that nothing shrinks it.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A word and a space, from as many words as a large source has.
    fn word(&mut self) -> Vec<u8> {
        format!("{:x} ", self.next() % 5000 * 7919).into_bytes()
    }

    fn noise(&mut self) -> Vec<u8> {
        (0..512).flat_map(|_| self.next().to_le_bytes()).collect()
    }
}
