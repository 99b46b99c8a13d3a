//! A live line on a terminal, above which all others scroll.
//!
//! Lines are gathered and printed together with the redrawing of the live line, at most ten times a second, so that a
//! burst of lines costs a few large writes. The live line is never as wide as the terminal, so that it cannot wrap, and it
//! holds no text of others but the name of a phase. It is taken away on every way out, a panic included.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use crate::api::event::{Event, PhaseStatus, Upload};
use crate::cli::screen::lines;
use crate::cli::screen::lines::sentence;
use crate::cli::screen::narrator::Narrator;
use crate::cli::screen::page::{LineKind, Page, RelayStyle};
use crate::cli::screen::sending::{Sending, cut};
use crate::cli::screen::sink::Sink;
use crate::cli::screen::units;
use crate::cli::screen::{Remark, Renderer, Surroundings};

/// Takes the cursor to the beginning of the line and empties it.
const CLEAR: &str = "\r\x1b[2K";

/// Ten redraws a second are as many as an eye can use.
const REDRAW: Duration = Duration::from_millis(100);

/// A command that is answered at once shows no live line at all.
const PATIENCE: Duration = Duration::from_millis(500);

/// So much text may wait for the next redraw: at 100,000 lines a second it is a fifth of a second's.
const HELD: usize = 1 << 20;

/// Lines that wait to be printed.
struct Scroll {
    text: String,
    colour: bool,
    raw: bool,
    columns: fn() -> u16,
}

impl Scroll {
    fn print(&mut self, line: &str) {
        self.text.push_str(&lines::defused(line));
        if self.raw && line.contains('\x1b') {
            // A colour that somebody left on would go on in the live line.
            self.text.push_str("\x1b[0m");
        }
        self.text.push('\n');
    }

    fn painted<'a>(&self, word: &'a str, colour: u8) -> Cow<'a, str> {
        if self.colour {
            format!("\x1b[{colour}m{word}\x1b[0m").into()
        } else {
            word.into()
        }
    }

    /// A warning or an error, of one or several lines.
    fn alarm(&mut self, word: &str, colour: u8, text: &str) {
        let word = self.painted(word, colour).into_owned();
        for (number, line) in text.split('\n').enumerate() {
            let line = lines::defused(line);
            let before = if number == 0 {
                format!("{word}: ")
            } else {
                "  ".to_owned()
            };
            self.text.extend([&before, &*line, "\n"]);
        }
    }
}

/// Red, yellow and green.
const RED: u8 = 31;
const YELLOW: u8 = 33;
const GREEN: u8 = 32;

impl Page for Scroll {
    fn line(&mut self, kind: LineKind, peer: Option<&str>, text: &str) {
        let text = match peer {
            Some(peer) => Cow::Owned(format!("[{peer}] {text}")),
            None => Cow::Borrowed(text),
        };
        match kind {
            LineKind::Warning => self.alarm("warning", YELLOW, &text),
            LineKind::Error => self.alarm("error", RED, &text),
            LineKind::Done if self.colour => {
                let done = self.painted(" done", GREEN);
                let text = text.replacen(" done", &done, 1);
                self.print(&text);
            }
            LineKind::Failed if self.colour => {
                let failed = self.painted(" ERROR:", RED);
                let text = text.replacen(" ERROR:", &failed, 1);
                self.print(&text);
            }
            _ => self.print(&text),
        }
    }

    fn columns(&self) -> Option<usize> {
        Some((self.columns)().into())
    }
}

/// What the live line is about.
enum LiveLine {
    /// There is none.
    Nothing,
    Upload(Sending),
    /// Somebody else sends it.
    Received(Sending),
    Waiting {
        what: &'static str,
        since: Instant,
    },
}

/// A screen with a live line.
pub(crate) struct Bar {
    sink: Sink,
    columns: fn() -> u16,
    /// A live line is on the terminal.
    drawn: bool,
    scroll: Scroll,
    narrator: Narrator,
    live: LiveLine,
    utf8: bool,
    /// When the live line may be drawn again.
    next: Instant,
    begun: Instant,
    /// Something happened, so that this takes its time.
    busy: bool,
    finished: bool,
}

impl Bar {
    /// A screen that begins now.
    pub(crate) fn new(sink: Sink, manner: RelayStyle, around: Surroundings, now: Instant) -> Bar {
        let scroll = Scroll {
            text: String::new(),
            colour: !around.no_color && !around.dumb,
            raw: manner.raw,
            columns: around.columns,
        };
        Bar {
            sink,
            columns: around.columns,
            drawn: false,
            scroll,
            narrator: Narrator::new(manner),
            live: LiveLine::Waiting {
                what: "waiting for the server",
                since: now,
            },
            utf8: manner.utf8,
            next: now,
            begun: now,
            busy: false,
            finished: false,
        }
    }

    fn width(&self) -> usize {
        // A line that fills the last column wraps on some terminals and not on others.
        usize::from((self.columns)().saturating_sub(1).max(1))
    }

    /// Somebody else's upload is so far.
    fn received(&mut self, upload: Upload, now: Instant) {
        if !matches!(self.live, LiveLine::Received(_)) {
            self.live = LiveLine::Received(Sending::new(now));
        }
        if let LiveLine::Received(sending) = &mut self.live {
            let total = upload.total.unwrap_or(0);
            sending.set(upload.bytes, total, now);
        }
        self.refresh(now, false);
    }

    /// The live line as it is now.
    fn text(&self, now: Instant) -> Option<String> {
        let (what, since) = match (&self.live, self.narrator.current()) {
            (LiveLine::Nothing, _) => return None,
            (LiveLine::Upload(sending) | LiveLine::Received(sending), _) => {
                return Some(sending.line(self.width(), now, false));
            }
            (LiveLine::Waiting { .. }, Some(current)) => (current.name.as_str(), current.since),
            (LiveLine::Waiting { what, since }, None) => (*what, *since),
        };
        let signs: &[char] = if self.utf8 {
            &[
                '\u{280b}', '\u{2819}', '\u{2838}', '\u{2834}', '\u{2826}', '\u{2807}',
            ]
        } else {
            &['|', '/', '-', '\\']
        };
        let turn = now.saturating_duration_since(self.begun).as_millis() / REDRAW.as_millis();
        // The remainder is below the number of signs.
        let sign = signs[(turn % signs.len() as u128) as usize];
        let elapsed = units::whole(now.saturating_duration_since(since));
        let facts = match self.narrator.log_lines() {
            count if count > 0 && what == "install" => {
                format!("{}, {elapsed}", units::log_lines(count))
            }
            _ => elapsed,
        };
        // How wide a character beyond ASCII is, only its terminal knows.
        let what: String = what
            .chars()
            .map(|sign| if sign.is_ascii() { sign } else { '?' })
            .take(40)
            .collect();
        Some(cut(&format!("{sign} {what} ({facts})"), self.width()))
    }

    /// Prints what waits, and the live line. If it is too early for that, an urgent text is printed without it.
    fn refresh(&mut self, now: Instant, urgent: bool) {
        let due = now >= self.next && !self.finished;
        let has_text = !self.scroll.text.is_empty();
        if !due && !(has_text && (urgent || self.finished)) && self.scroll.text.len() < HELD {
            return;
        }
        let patient = self.busy || now >= self.begun + PATIENCE;
        let live = self.text(now).filter(|_| due && patient);
        if !has_text && live.is_none() && !self.drawn {
            return;
        }
        if std::mem::take(&mut self.drawn) {
            self.sink.push(CLEAR);
        }
        self.sink.push(&self.scroll.text);
        self.scroll.text.clear();
        if let Some(live) = live {
            self.sink.push(&live);
            self.drawn = true;
            self.next = now + REDRAW;
        }
        self.sink.flush();
    }
}

/// How large a payload is, if this event says that it is there.
fn received_bytes(event: &str, data: &str) -> Option<u64> {
    match Event::parse(event, data) {
        Event::Phase(phase) if phase.status == PhaseStatus::Done => {
            phase.facts.get("payload_size")?.as_u64()
        }
        _ => None,
    }
}

impl Bar {
    /// Says what was sent.
    fn sent(&mut self, line: &str, now: Instant) {
        self.scroll.print(line);
        self.live = LiveLine::Waiting {
            what: "waiting for the answer",
            since: now,
        };
        self.refresh(now, false);
    }
}

impl Renderer for Bar {
    fn upload(&mut self, bytes: u64, total: u64, now: Instant) {
        if !matches!(self.live, LiveLine::Upload(_)) {
            self.live = LiveLine::Upload(Sending::new(now));
            self.narrator.begin();
            self.busy = true;
        }
        if let LiveLine::Upload(sending) = &mut self.live {
            sending.set(bytes, total, now);
        }
        self.refresh(now, false);
    }

    fn uploaded(&mut self, bytes: u64, now: Instant) {
        let mut sending = match std::mem::replace(&mut self.live, LiveLine::Nothing) {
            LiveLine::Upload(sending) => sending,
            _ => Sending::new(now),
        };
        let total = if sending.total == 0 {
            bytes
        } else {
            sending.total
        };
        (sending.bytes, sending.total) = (bytes, total);
        let text = sending.line(self.width(), now, true);
        self.sent(&text, now);
    }

    fn uploaded_some(&mut self, _bytes: u64, line: &str, now: Instant) {
        self.sent(line, now);
    }

    fn record(&mut self, _id: Option<&str>, event: &str, data: &str, now: Instant) {
        if let LiveLine::Upload(sending) = &self.live {
            // The server has begun to answer, so it has it all, even if we were not told.
            if sending.total <= sending.bytes {
                self.uploaded(sending.bytes, now);
            }
        }
        self.busy = true;
        if let ("upload", Event::Upload(upload)) = (event, Event::parse(event, data)) {
            return self.received(upload, now);
        }
        let sending = match std::mem::replace(&mut self.live, LiveLine::Nothing) {
            LiveLine::Received(sending) => Some(sending),
            _ => None,
        };
        if let (Some(mut sending), Some(bytes)) = (sending, received_bytes(event, data)) {
            (sending.bytes, sending.total) = (bytes, bytes);
            let text = sending.line(self.width(), now, true);
            self.scroll.print(&text);
        }
        self.narrator.record(event, data, now, &mut self.scroll);
        self.live = if self.narrator.ended() {
            LiveLine::Nothing
        } else {
            LiveLine::Waiting {
                what: "waiting for the server",
                since: now,
            }
        };
        if self.scroll.text.len() >= HELD {
            self.refresh(now, true);
        }
    }

    fn say(&mut self, said: Remark<'_>, message: &str, now: Instant) {
        match said {
            Remark::Note => {
                for line in lines::message(message) {
                    self.scroll.print(&line);
                }
            }
            Remark::Warning => self
                .scroll
                .alarm("warning", YELLOW, &sentence(message, None)),
            Remark::Error(code) => self.scroll.alarm("error", RED, &sentence(message, code)),
        }
        self.refresh(now, true);
    }

    fn waits_for(&mut self, what: &'static str, now: Instant) {
        self.live = LiveLine::Waiting { what, since: now };
        self.refresh(now, false);
    }

    fn gives_way(&mut self) {
        self.live = LiveLine::Nothing;
        if std::mem::take(&mut self.drawn) {
            self.sink.push(CLEAR);
            self.sink.flush();
        }
    }

    fn tick(&mut self, now: Instant) {
        self.refresh(now, false);
    }

    fn flush(&mut self, now: Instant) {
        self.refresh(now, false);
    }

    fn finish(&mut self, now: Instant) {
        if !self.finished {
            self.finished = true;
            self.narrator.finish(&mut self.scroll);
            self.live = LiveLine::Nothing;
            if std::mem::take(&mut self.drawn) {
                self.sink.push(CLEAR);
            }
        }
        self.refresh(now, true);
        self.sink.flush();
    }
}
