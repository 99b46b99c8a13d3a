//! The sequences of a block of lz4, undone as they come.

use std::io;

use crate::formats::archive::gunzip::invalid;

/// A match is longer than what its token says by this.
const MATCH_MIN: usize = 4;

/// A length of a token that goes on in bytes of its own.
const GOES_ON: usize = 15;

/// Where in a sequence of a block: literals, and then a match, each as long as the token says that comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SequenceStep {
    Token,
    /// More bytes of the literals' length; and what the token says of the match.
    MoreLiterals(usize, usize),
    Literals(usize, usize),
    Offset(usize),
    /// As `Offset`, behind its first byte.
    OffsetEnd(usize, u8),
    /// More bytes of the match's length; and how far back it is.
    MoreMatch(usize, usize),
    Match(usize, usize),
}

/// The sequences of a block, as far as they have come and there is room.
pub(super) struct Sequences<'a> {
    pub(super) packed: &'a [u8],
    /// How many of these were taken.
    pub(super) taken: usize,
    pub(super) room: &'a mut [u8],
    /// How much of the room is full.
    pub(super) until: usize,
    /// How many bytes before that may be referred to.
    pub(super) known: usize,
}

impl Sequences<'_> {
    /// Goes on until more has to come, or more room is needed.
    pub(super) fn run(&mut self, step: &mut SequenceStep) -> io::Result<()> {
        loop {
            *step = match *step {
                SequenceStep::Token => {
                    self.short()?;
                    let Some(token) = self.byte() else { break };
                    let (literals, matched) = (usize::from(token >> 4), usize::from(token & 15));
                    match literals {
                        GOES_ON => SequenceStep::MoreLiterals(literals, matched),
                        _ => SequenceStep::Literals(literals, matched),
                    }
                }
                SequenceStep::MoreLiterals(len, matched) => {
                    let Some(more) = self.byte() else { break };
                    match more {
                        255 => SequenceStep::MoreLiterals(longer(len, more)?, matched),
                        _ => SequenceStep::Literals(longer(len, more)?, matched),
                    }
                }
                SequenceStep::Literals(0, matched) => SequenceStep::Offset(matched),
                SequenceStep::Literals(left, matched) => {
                    let packed = &self.packed[self.taken..];
                    let len = left.min(packed.len()).min(self.room.len() - self.until);
                    if len == 0 {
                        break;
                    }
                    self.room[self.until..self.until + len].copy_from_slice(&packed[..len]);
                    self.taken += len;
                    self.made(len);
                    SequenceStep::Literals(left - len, matched)
                }
                SequenceStep::Offset(matched) => match self.byte() {
                    None => break,
                    Some(low) => SequenceStep::OffsetEnd(matched, low),
                },
                SequenceStep::OffsetEnd(matched, low) => {
                    let Some(high) = self.byte() else { break };
                    let back = usize::from(u16::from_le_bytes([low, high]));
                    self.reaches(back)?;
                    match matched {
                        GOES_ON => SequenceStep::MoreMatch(matched + MATCH_MIN, back),
                        _ => SequenceStep::Match(matched + MATCH_MIN, back),
                    }
                }
                SequenceStep::MoreMatch(len, back) => {
                    let Some(more) = self.byte() else { break };
                    match more {
                        255 => SequenceStep::MoreMatch(longer(len, more)?, back),
                        _ => SequenceStep::Match(longer(len, more)?, back),
                    }
                }
                SequenceStep::Match(0, _) => SequenceStep::Token,
                SequenceStep::Match(left, back) => {
                    let len = left.min(self.room.len() - self.until);
                    if len == 0 {
                        break;
                    }
                    self.repeat(len, back);
                    SequenceStep::Match(left - len, back)
                }
            };
        }
        Ok(())
    }

    /// Takes whole sequences of which nothing is long, which are most, without looking where each of their bytes is.
    fn short(&mut self) -> io::Result<()> {
        // A token, literals and an offset are within so many bytes, and what they make within as many.
        const AHEAD: usize = 32;
        const PIECE: usize = 16;
        while let (Some(packed), true) = (
            self.packed.get(self.taken..self.taken + AHEAD),
            self.until + 2 * AHEAD <= self.room.len(),
        ) {
            let (literals, matched) = (usize::from(packed[0] >> 4), usize::from(packed[0] & 15));
            if literals == GOES_ON || matched == GOES_ON {
                return Ok(());
            }
            let back = usize::from(u16::from_le_bytes([
                packed[1 + literals],
                packed[2 + literals],
            ]));
            // More is written than counts, which comes again.
            self.room[self.until..self.until + PIECE].copy_from_slice(&packed[1..1 + PIECE]);
            self.taken += 3 + literals;
            self.made(literals);
            self.reaches(back)?;
            let len = matched + MATCH_MIN;
            if back >= PIECE {
                let (old, new) = self.room.split_at_mut(self.until);
                let from = old.len() - back;
                new[..PIECE].copy_from_slice(&old[from..from + PIECE]);
                if len > PIECE {
                    self.room
                        .copy_within(from + PIECE..from + len, self.until + PIECE);
                }
                self.made(len);
            } else {
                self.repeat(len, back);
            }
        }
        Ok(())
    }

    fn byte(&mut self) -> Option<u8> {
        let byte = self.packed.get(self.taken)?;
        self.taken += 1;
        Some(*byte)
    }

    /// Refuses what refers to nothing.
    fn reaches(&self, back: usize) -> io::Result<()> {
        match back > 0 && back <= self.known {
            true => Ok(()),
            false => Err(invalid("a block refers to what is not there")),
        }
    }

    /// Copies from so far back, which may be nearer than it is long: then it comes again and again.
    fn repeat(&mut self, len: usize, back: usize) {
        let from = self.until - back;
        let mut done = 0;
        while done < len {
            // What was copied is twice as much the next time.
            let piece = (len - done).min(back + done);
            self.room.copy_within(from..from + piece, self.until + done);
            done += piece;
        }
        self.made(len);
    }

    fn made(&mut self, len: usize) {
        self.until += len;
        self.known += len;
    }
}

fn longer(len: usize, more: u8) -> io::Result<usize> {
    // Bytes of 255 for a length that no block has.
    let too_long = || invalid("a block holds more than its head says");
    let len = len + usize::from(more);
    (len <= 5 << 20).then_some(len).ok_or_else(too_long)
}
