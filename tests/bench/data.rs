//! The data sets: the same bytes in each run, made of a small generator of pseudo-random numbers.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

/// What is deployed, and what it may cost.
pub(crate) struct Set {
    pub(crate) name: &'static str,
    /// The bound of the ratio to `tar | tcp | tar`.
    pub(crate) wanted: f64,
    /// Whether a deployment is to be ahead of `tar | zstd -1 | tcp | tar`.
    pub(crate) ahead_of_zstd: bool,
    /// The seconds that a deployment may take, whatever else takes how long.
    pub(crate) wanted_wall: Option<f64>,
    /// With a `package.json` that has no dependencies; its installation is left to the server then.
    pub(crate) has_manifest: bool,
    files: u64,
    bytes: u64,
    /// How many of ten files are text; the others are noise, as what is compressed already.
    text: u64,
}

/// The smallest set.
pub(crate) const SMALL: Set = Set {
    name: "12 files",
    wanted: 2.5,
    ahead_of_zstd: false,
    wanted_wall: Some(0.02),
    has_manifest: false,
    files: 12,
    bytes: 64 << 10,
    text: 10,
};

/// What has many files, or many bytes.
const LARGE: Set = Set {
    wanted_wall: None,
    ..SMALL
};

/// All sets; the large ones are divided by `scale`.
pub(crate) fn sets(scale: u64) -> [Set; 7] {
    [
        SMALL,
        Set {
            name: "12 files with a package.json",
            has_manifest: true,
            ..SMALL
        },
        Set {
            name: "11,512 files, 100 MB",
            wanted: 1.6,
            ahead_of_zstd: true,
            files: 11_512 / scale,
            bytes: 100_000_000 / scale,
            text: 9,
            ..LARGE
        },
        Set {
            name: "a JavaScript app, 76 MB",
            wanted: 1.8,
            files: 1893 / scale,
            bytes: 76_000_000 / scale,
            text: 5,
            ..LARGE
        },
        Set {
            name: "30,000 files, 386 MB",
            wanted: 1.4,
            files: 30_000 / scale,
            bytes: 386_000_000 / scale,
            text: 9,
            ..LARGE
        },
        Set {
            name: "512 MB of text",
            wanted: 2.0,
            files: 8,
            bytes: (512 << 20) / scale,
            ..LARGE
        },
        Set {
            name: "1 GiB of noise",
            wanted: 1.9,
            files: 1,
            bytes: (1 << 30) / scale,
            text: 0,
            ..LARGE
        },
    ]
}

impl Set {
    /// Deploying it takes a moment.
    pub(crate) fn is_small(&self) -> bool {
        self.bytes < 1 << 20
    }

    /// Removing it takes a moment.
    pub(crate) fn has_few_files(&self) -> bool {
        self.files < 100
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// So many files with so many bytes, of which so many of ten are text.
    pub(crate) const fn of(files: u64, bytes: u64, text: u64) -> Set {
        Set {
            files,
            bytes,
            text,
            ..LARGE
        }
    }

    /// Writes it.
    pub(crate) fn write(&self, dir: &Path) {
        let mut random = Random(42);
        let mut text = Text::new(&mut random);
        for n in 0..self.files {
            let folder = dir.join(format!("d{:02}", n / 100));
            fs::create_dir_all(&folder).unwrap();
            let mut file = BufWriter::new(File::create(folder.join(format!("f{n}"))).unwrap());
            // Sizes vary by the half of their mean, up and down.
            let mean = self.bytes / self.files;
            let size = if self.files < 100 {
                mean
            } else {
                mean / 2 + random.next() % mean
            };
            let mut left = usize::try_from(size).unwrap();
            while left > 0 {
                let number;
                let piece = if n % 10 < self.text {
                    text.piece(&mut random)
                } else {
                    number = random.next().to_le_bytes();
                    &number
                };
                let piece = &piece[..piece.len().min(left)];
                file.write_all(piece).unwrap();
                left -= piece.len();
            }
            file.flush().unwrap();
        }
        if self.has_manifest {
            let manifest = r#"{ "name": "bench", "scripts": { "test": "true" } }"#;
            fs::write(dir.join("package.json"), manifest).unwrap();
        }
    }
}

/// Of ten pieces of a text so many are there already a little before, as in sources: gzip -1 makes a third of it then, and lz4
/// 43 %.
const REPEATED: u64 = 2;

/// Text that looks like a source.
struct Text {
    words: Vec<String>,
    /// What came last, and where its last piece begins.
    last: Vec<u8>,
    at: usize,
}

impl Text {
    /// How far back something is repeated from, at least.
    const BACK: usize = 8 << 10;

    fn new(random: &mut Random) -> Text {
        Text {
            words: (0..5000).map(|_| random.word()).collect(),
            last: Vec::new(),
            at: 0,
        }
    }

    fn piece(&mut self, random: &mut Random) -> &[u8] {
        if self.last.len() >= 2 * Text::BACK {
            self.last.drain(..Text::BACK);
        }
        self.at = self.last.len();
        let (dice, len) = (random.next() % 10, 16 + random.below(49));
        if dice < REPEATED && self.at >= Text::BACK {
            let from = random.below(self.at - len);
            self.last.extend_from_within(from..from + len);
        } else {
            let word = random.below(self.words.len());
            self.last.extend_from_slice(self.words[word].as_bytes());
        }
        &self.last[self.at..]
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

    fn below(&mut self, most: usize) -> usize {
        usize::try_from(self.next() % most as u64).unwrap()
    }

    /// Two to nine letters and what follows a word in a source.
    fn word(&mut self) -> String {
        let letters = 2 + self.next() % 8;
        let mut word = String::new();
        for _ in 0..letters {
            let letter = u8::try_from(self.next() % 26).unwrap();
            word.push(char::from(b'a' + letter));
        }
        word + ["(", ".", " = ", ", ", ";\n    ", " "][usize::try_from(self.next() % 6).unwrap()]
    }
}
