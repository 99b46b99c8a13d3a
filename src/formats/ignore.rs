//! Which paths a list of patterns leaves out, by the rules of gitignore: negation, anchoring, `*`, `?`, `**`, character
//! classes, escapes, and a slash at the end for directories alone.
//!
//! A matcher of our own: the crate `ignore` brings an engine of regular expressions, and the small glob crates know
//! neither gitignore's classes nor its escapes. A pattern becomes states, all of which are followed at once, so that none
//! takes long, whatever its stars.

/// What the last rule that speaks of a path says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IgnoreVerdict {
    /// It is left out.
    Out,
    /// It goes along.
    In {
        /// The rule spells the name, at least in part: `!.env` does, `!*` and `!*/` do not.
        named: bool,
    },
}

/// The rules of one file.
#[derive(Debug)]
pub struct IgnoreRules(Vec<IgnoreRule>);

#[derive(Debug)]
struct IgnoreRule {
    negated: bool,
    directories_only: bool,
    /// There is no slash in it: the last component of a path is matched, at any depth.
    by_name: bool,
    named: bool,
    states: Vec<GlobState>,
}

/// What a pattern does next. All but the last component of a path end with a slash.
#[derive(Debug, PartialEq, Eq)]
enum GlobState {
    Byte(u8),
    /// `?`
    One,
    /// `[...]`, by byte.
    Class(Box<[bool; 256]>),
    /// `*`: any bytes but slashes.
    Many,
    /// `**` at the end: any bytes.
    All,
    /// `**/`: any directories. What follows may begin here, or a component begins, which is [`GlobState::Component`].
    Directories,
    /// Within one of those directories: it leads back once its slash is there.
    Component,
}

impl IgnoreRules {
    /// Reads the rules, a line each. A pattern that makes no sense matches nothing, as with git.
    pub fn parse(text: &[u8]) -> IgnoreRules {
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        let lines = text.split(|byte| *byte == b'\n');
        IgnoreRules(lines.filter_map(rule).collect())
    }

    /// What they say about a path relative to the directory that they stand in; nothing if none matches.
    pub fn verdict(&self, path: &[u8], is_directory: bool) -> Option<IgnoreVerdict> {
        let name = last(path);
        // The last rule that matches decides.
        let rule = self.0.iter().rev().find(|rule| {
            (is_directory || !rule.directories_only)
                && matches(&rule.states, if rule.by_name { name } else { path })
        })?;
        Some(match rule.negated {
            true => IgnoreVerdict::In { named: rule.named },
            false => IgnoreVerdict::Out,
        })
    }
}

fn last(path: &[u8]) -> &[u8] {
    let mut components = path.rsplit(|byte| *byte == b'/');
    components.next().unwrap_or_default()
}

fn rule(line: &[u8]) -> Option<IgnoreRule> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.starts_with(b"#") {
        return None;
    }
    let line = without_spaces_at_the_end(line);
    let (negated, pattern) = match line.strip_prefix(b"!") {
        Some(pattern) => (true, pattern),
        None => (false, line),
    };
    let (directories_only, pattern) = match pattern.strip_suffix(b"/") {
        Some(pattern) => (true, pattern),
        None => (false, pattern),
    };
    if pattern.is_empty() {
        return None;
    }
    Some(IgnoreRule {
        negated,
        directories_only,
        by_name: !pattern.contains(&b'/'),
        named: spells(last(pattern)),
        states: states(pattern.strip_prefix(b"/").unwrap_or(pattern))?,
    })
}

/// Spaces at a line's end do not count, unless a backslash stands before them.
fn without_spaces_at_the_end(line: &[u8]) -> &[u8] {
    let mut end = 0;
    let mut at = 0;
    while at < line.len() {
        let is_space = line[at] == b' ';
        at += if line[at] == b'\\' { 2 } else { 1 };
        if !is_space {
            end = at.min(line.len());
        }
    }
    &line[..end]
}

/// Whether a pattern's last component has a letter or a digit that stands for itself.
fn spells(component: &[u8]) -> bool {
    let mut in_class = false;
    component.iter().any(|byte| {
        match byte {
            b'[' => in_class = true,
            b']' => in_class = false,
            _ => {}
        }
        !in_class && byte.is_ascii_alphanumeric()
    })
}

/// The states of a pattern; none if it is malformed.
fn states(pattern: &[u8]) -> Option<Vec<GlobState>> {
    let mut states = Vec::new();
    let mut at = 0;
    while let Some(byte) = pattern.get(at) {
        at += 1;
        match byte {
            b'?' => states.push(GlobState::One),
            b'\\' => {
                states.push(GlobState::Byte(*pattern.get(at)?));
                at += 1;
            }
            b'[' => {
                let (class, end) = class(pattern, at)?;
                states.push(GlobState::Class(class));
                at = end;
            }
            b'*' => {
                let begins = at == 1 || pattern[at - 2] == b'/';
                let more = pattern[at..].iter().take_while(|byte| **byte == b'*');
                let more = more.count();
                at += more;
                match pattern.get(at) {
                    None if begins && more > 0 => states.push(GlobState::All),
                    Some(b'/') if begins && more > 0 => {
                        states.extend([GlobState::Directories, GlobState::Component]);
                        at += 1;
                    }
                    _ => states.push(GlobState::Many),
                }
            }
            _ => states.push(GlobState::Byte(*byte)),
        }
    }
    Some(states)
}

/// Reads a class from behind its bracket, and gives where it ends; none if it is malformed.
fn class(pattern: &[u8], mut at: usize) -> Option<(Box<[bool; 256]>, usize)> {
    let negated = matches!(pattern.get(at), Some(b'!' | b'^'));
    at += usize::from(negated);
    let first = at;
    let mut set = Box::new([negated; 256]);
    let mut add = |byte: u8| set[usize::from(byte)] = !negated;
    // Where a range may begin.
    let mut before = None;
    loop {
        let mut byte = *pattern.get(at)?;
        if byte == b']' && at > first {
            break;
        }
        let rest = &pattern[at..];
        if let Some((name, len)) = named_class(rest) {
            (0..=255).filter(of_class(name)?).for_each(&mut add);
            before = None;
            at += len;
            continue;
        }
        let range = match (before, rest) {
            (Some(from), [b'-', to, ..]) if *to != b']' => Some(from),
            _ => None,
        };
        at += usize::from(range.is_some());
        byte = if range.is_some() { pattern[at] } else { byte };
        if byte == b'\\' {
            at += 1;
            byte = *pattern.get(at)?;
        }
        (range.unwrap_or(byte)..=byte).for_each(&mut add);
        before = range.is_none().then_some(byte);
        at += 1;
    }
    // No class takes a slash.
    set[usize::from(b'/')] = false;
    Some((set, at + 1))
}

/// The name of a `[:name:]` that a text begins with, and the length of all of it.
fn named_class(text: &[u8]) -> Option<(&[u8], usize)> {
    let inside = text.strip_prefix(b"[:")?;
    let end = inside.iter().position(|byte| *byte == b']')?;
    let name = inside[..end].strip_suffix(b":")?;
    Some((name, end + 3))
}

fn of_class(name: &[u8]) -> Option<fn(&u8) -> bool> {
    Some(match name {
        b"alnum" => u8::is_ascii_alphanumeric,
        b"alpha" => u8::is_ascii_alphabetic,
        b"blank" => |byte| matches!(byte, b' ' | b'\t'),
        b"cntrl" => u8::is_ascii_control,
        b"digit" => u8::is_ascii_digit,
        b"graph" => u8::is_ascii_graphic,
        b"lower" => u8::is_ascii_lowercase,
        b"print" => |byte| matches!(byte, b' '..=b'~'),
        b"punct" => u8::is_ascii_punctuation,
        b"space" => |byte| matches!(byte, b' ' | b'\t'..=b'\r'),
        b"upper" => u8::is_ascii_uppercase,
        b"xdigit" => u8::is_ascii_hexdigit,
        _ => return None,
    })
}

fn matches(states: &[GlobState], text: &[u8]) -> bool {
    // Nearly all pairs differ in their first or their last byte already.
    for (state, byte) in [(states.first(), text.first()), (states.last(), text.last())] {
        if matches!(state, Some(GlobState::Byte(wanted)) if Some(wanted) != byte) {
            return false;
        }
    }
    // Which states may take the next byte; behind the last one the whole pattern has matched.
    let mut now = vec![false; states.len() + 1];
    enter(states, &mut now, 0);
    for byte in text {
        let mut next = vec![false; states.len() + 1];
        let mut any = false;
        for at in (0..states.len()).filter(|at| now[*at]) {
            let to = match &states[at] {
                GlobState::Byte(wanted) => (wanted == byte).then_some(at + 1),
                GlobState::One => (*byte != b'/').then_some(at + 1),
                GlobState::Class(set) => set[usize::from(*byte)].then_some(at + 1),
                GlobState::Many => (*byte != b'/').then_some(at),
                GlobState::All => Some(at),
                GlobState::Component if *byte == b'/' => Some(at - 1),
                GlobState::Component => Some(at),
                // It only leads on.
                GlobState::Directories => None,
            };
            if let Some(to) = to {
                enter(states, &mut next, to);
                any = true;
            }
        }
        if !any {
            return false;
        }
        now = next;
    }
    now[states.len()]
}

/// Is in a state, and in those behind it that are reached without a byte.
fn enter(states: &[GlobState], on: &mut [bool], at: usize) {
    if std::mem::replace(&mut on[at], true) {
        return;
    }
    match states.get(at) {
        Some(GlobState::Many | GlobState::All) => enter(states, on, at + 1),
        Some(GlobState::Directories) => {
            enter(states, on, at + 1);
            enter(states, on, at + 2);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lists of rules, with paths that they leave out and paths that they do not. A slash at a path's end says that it is
    /// a directory. The integration tests ask git about the same.
    fn cases() -> Vec<(String, Vec<String>)> {
        include_str!("ignore/cases.txt")
            .split("\n\n")
            .map(|case| {
                let lines = case.lines().filter(|line| !line.starts_with("//"));
                let (paths, rules): (Vec<_>, Vec<_>) =
                    lines.partition(|line| line.starts_with("  "));
                (
                    rules.join("\n"),
                    paths.iter().map(|path| path[2..].to_owned()).collect(),
                )
            })
            .collect()
    }

    #[test]
    fn gitignores_documented_rules_hold() {
        let mut judged = 0;
        for (rules, paths) in cases() {
            let parsed = IgnoreRules::parse(rules.as_bytes());
            for line in paths {
                let (expected, path) = line.split_once(' ').unwrap();
                let name = path.strip_suffix('/').unwrap_or(path);
                let verdict = parsed.verdict(name.as_bytes(), path != name);
                let found = match verdict {
                    Some(IgnoreVerdict::Out) => "out",
                    Some(IgnoreVerdict::In { .. }) => "in",
                    None => "-",
                };
                assert_eq!(found, expected, "{rules:?}: {path}");
                judged += 1;
            }
        }
        assert!(judged > 100, "{judged}");
    }

    #[test]
    fn lines_are_read_whatever_their_ends() {
        let rules = IgnoreRules::parse(b"\xef\xbb\xbfa\r\n\r\nb  \n# c\nd\\ \n");
        for (path, out) in [
            ("a", true),
            ("b", true),
            ("c", false),
            ("# c", false),
            ("d ", true),
            ("d", false),
        ] {
            let verdict = rules.verdict(path.as_bytes(), false);
            assert_eq!(verdict.is_some(), out, "{path}");
        }
    }

    #[test]
    fn a_rule_knows_whether_it_spells_a_name() {
        for (rule, named) in [
            ("!.env", true),
            ("!*.pem", true),
            ("!/a/.env.*", true),
            ("!*", false),
            ("!.*", false),
            ("!*.*", false),
            ("!a/**", false),
            ("!.[a-z]*", false),
        ] {
            let parsed = IgnoreRules::parse(rule.as_bytes());
            assert_eq!(parsed.0[0].named, named, "{rule}");
        }
    }

    #[test]
    fn many_stars_take_no_long_time() {
        let rules = IgnoreRules::parse(
            format!("{}b\n{}b", "a*".repeat(200), "**/a/".repeat(200)).as_bytes(),
        );
        assert_eq!(rules.verdict("a".repeat(4000).as_bytes(), false), None);
        assert_eq!(rules.verdict("a/".repeat(500).as_bytes(), false), None);
    }
}
