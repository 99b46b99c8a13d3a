//! An access token out of a file, of stdin or of a variable.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::Path;

use crate::api::error::{Doing, Error};
use crate::api::name::Secret;
use crate::cli::screen::Screen;
use crate::system::files::read_up_to;

/// A token is 64 digits, and one of Harper's some hundred characters; a file that is longer than this is another one.
const TOKEN_LEN_MAX: u64 = 4096;

/// The token in a file, or on stdin if that is `-`.
///
/// # Errors
/// When it cannot be read, or holds anything but one token.
pub(crate) fn from_file(file: &Path) -> Result<Secret, Error> {
    if file == Path::new("-") {
        return from_stdin();
    }
    let shown = file.display().to_string();
    let opened = File::open(file).doing(|| format!("reading the token in {shown}"))?;
    from_reader(opened, &shown)
}

/// The token on stdin.
///
/// # Errors
/// As of [`from_file`].
pub(crate) fn from_stdin() -> Result<Secret, Error> {
    from_reader(io::stdin(), "stdin")
}

/// Says that a token is read, where somebody at a terminal would wait for what goes on.
pub(crate) fn announce(screen: &mut Screen) {
    if io::stdin().is_terminal() {
        screen.remark("Reading the token from the terminal; Enter and Ctrl-D end it");
        screen.flush();
    }
}

/// The token in a text, such as that of a variable.
///
/// # Errors
/// When it is anything but one token; `shown` says where it stood.
pub(crate) fn from_text(text: &str, shown: &str) -> Result<Secret, Error> {
    let wrong = |why: &str| Error::new(format!("reading the token in {shown}"), why);
    let token = bare(text);
    match token.lines().count() {
        0 => Err(wrong("it is empty")),
        1 if token.bytes().all(|byte| byte.is_ascii_graphic()) => Ok(Secret::new(token)),
        1 => Err(wrong(
            "it holds blanks or odd characters, which no token has",
        )),
        lines => Err(wrong(&format!("it has {lines} lines, and a token is one"))),
    }
}

fn from_reader(from: impl Read, shown: &str) -> Result<Secret, Error> {
    let doing = || format!("reading the token in {shown}");
    let bytes = read_up_to(from, TOKEN_LEN_MAX).doing(doing)?;
    let why = format!("it is longer than {TOKEN_LEN_MAX} bytes, which no token is");
    let bytes = bytes.ok_or_else(|| Error::new(doing(), why))?;
    let text = String::from_utf8(bytes).map_err(|_| Error::new(doing(), "it is not a text"))?;
    from_text(&text, shown)
}

/// A token without what editors and shells put around it: white space, a byte order mark, quotes.
fn bare(text: &str) -> &str {
    let text = text.trim_start_matches('\u{feff}').trim();
    let quoted = ['"', '\''].into_iter().find_map(|quote| {
        let text = text.strip_prefix(quote)?;
        text.strip_suffix(quote)
    });
    quoted.unwrap_or(text).trim()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_token_from_a_file() {
        let dir = std::env::temp_dir().join(format!("gangplank-token-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let file = dir.join("token");
        let long = "x".repeat(5000);
        let table: [(&[u8], Result<&str, &str>); 12] = [
            (b"abc\n", Ok("abc")),
            (b"abc", Ok("abc")),
            (b"\n\nabc\r\n\r\n", Ok("abc")),
            ("\u{feff}abc\r\n".as_bytes(), Ok("abc")),
            (b"\"abc\"\n", Ok("abc")),
            (b"'abc'", Ok("abc")),
            (b" abc ", Ok("abc")),
            (b"", Err("it is empty")),
            (b" \n\"\"\n", Err("it is empty")),
            (
                b"abc\ndef\nghi\n",
                Err("it has 3 lines, and a token is one"),
            ),
            (b"TOKEN = abc\n", Err("it holds blanks")),
            (long.as_bytes(), Err("it is longer than 4096 bytes")),
        ];
        for (content, expected) in table {
            fs::write(&file, content).unwrap();
            match (from_file(&file), expected) {
                (Ok(token), Ok(expected)) => assert_eq!(token.reveal(), expected),
                (Err(error), Err(why)) => {
                    let said = error.to_string();
                    let shown = file.display().to_string();
                    assert!(said.contains(why) && said.contains(&shown), "{said}");
                    // What it holds may be a secret all the same.
                    assert!(!said.contains("abc"), "{said}");
                }
                (read, _) => panic!("{content:?}: {read:?}"),
            }
        }
        fs::write(&file, b"\xff\xfe").unwrap();
        assert!(
            from_file(&file)
                .unwrap_err()
                .to_string()
                .contains("not a text")
        );
        for (path, why) in [
            (dir.clone(), "directory"),
            (dir.join("none"), "No such file"),
        ] {
            let said = from_file(&path).unwrap_err().to_string();
            assert!(said.contains(why), "{said}");
        }
        fs::remove_dir_all(&dir).unwrap();
    }
}
