//! What the fuzz targets share: how an input is read, and how archives are built out of one.
//!
//! The inputs of all targets but `archive` are texts, so that seeds can be read and written by hand. Two bytes are special:
//! 0x1a, a byte and a count stand for a run of that byte, because limits of kilobytes are not reached one byte at a time;
//! and what stands behind the last 0x1d says into which pieces the text is cut as it arrives.

pub mod craft;

const RUN: u8 = 0x1a;
const CUTS: u8 = 0x1d;

/// The longest text that runs can make: twice the largest buffer, and still some thousand texts a second.
const TEXT_MAX: usize = 128 << 10;

/// The most line ends of a run: tens of thousands of empty lines are all alike, and slow.
const LINES_MAX: usize = 500;

/// An input, read.
pub struct Input {
    /// What arrives.
    pub text: Vec<u8>,
    /// The lengths of its pieces, over and over.
    steps: Vec<usize>,
}

impl Input {
    /// Reads an input.
    pub fn new(bytes: &[u8]) -> Input {
        let (text, cuts) = match bytes.iter().rposition(|&byte| byte == CUTS) {
            Some(at) => (&bytes[..at], &bytes[at + 1..]),
            None => (bytes, &[][..]),
        };
        let steps = cuts.iter().map(|&cut| match usize::from(cut) {
            // Nothing arrives too, now and then.
            few @ 0..128 => few,
            many => (many - 127) * 512,
        });
        Input {
            text: expanded(text),
            steps: steps.collect(),
        }
    }

    /// The steps behind the text, as they stand: also a choice of the input's.
    pub fn steps(&self) -> &[usize] {
        &self.steps
    }

    /// The text, or a part of it, in the pieces in which it arrives.
    pub fn pieces<'a>(&self, text: &'a [u8]) -> Vec<&'a [u8]> {
        // Long texts come in some hundred pieces at most, or each run would take seconds.
        let least = text.len() / 512;
        let mut steps = self.steps.iter().chain([&1]).cycle();
        let (mut pieces, mut rest) = (Vec::new(), text);
        while !rest.is_empty() {
            let step = steps.next().map_or(1, |&step| step.max(least));
            let (piece, behind) = rest.split_at(step.min(rest.len()));
            pieces.push(piece);
            rest = behind;
        }
        pieces
    }
}

fn expanded(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, behind)) = rest.split_first() {
        match (byte, behind) {
            (RUN, [byte, count, behind @ ..]) => {
                let most = match byte {
                    b'\r' | b'\n' => LINES_MAX,
                    _ => TEXT_MAX.saturating_sub(out.len()),
                };
                let run = match usize::from(*count) {
                    few @ 0..128 => few * 8,
                    many => (many - 127) * 512,
                };
                let run = run.clamp(1, most.max(1));
                out.extend(std::iter::repeat_n(*byte, run));
                rest = behind;
            }
            _ => {
                out.push(byte);
                rest = behind;
            }
        }
    }
    out
}

/// Where a part begins in a whole.
pub fn find(whole: &[u8], part: &[u8]) -> Option<usize> {
    memchr::memmem::find(whole, part)
}
