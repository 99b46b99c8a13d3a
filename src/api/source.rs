//! What is said of a deployment: why it is made, and which commit it is made of.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The longest message in bytes: the text of a commit fits, a log does not.
pub const MESSAGE_LEN_MAX: usize = 4 << 10;
/// The longest commit: a SHA-256 has 64 digits, and a version that a registry gave may be longer.
const COMMIT_LEN_MAX: usize = 128;
/// The longest branch in bytes: a file system takes no longer name, and git keeps branches as files.
const BRANCH_LEN_MAX: usize = 255;

/// What whoever asks for a deployment says of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Provenance {
    /// Why it is made.
    pub message: Option<String>,
    /// What it is made of.
    pub source: Option<SourceRevision>,
}

/// The state of a repository.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceRevision {
    /// The commit, or the version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// The branch or tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// Whether there were changes that the commit does not have; none if nobody looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dirty: Option<bool>,
}

impl Provenance {
    /// What a record of another server says; what is not as it should be is left out.
    pub fn of_record(record: &Value) -> Provenance {
        Provenance {
            message: record["message"]
                .as_str()
                .and_then(|text| message(text).ok().flatten()),
            source: record["source"]
                .as_object()
                .and_then(|members| SourceRevision::read(members).ok().flatten()),
        }
    }

    /// With the source of the release that is made live, where nothing else was said.
    #[must_use]
    pub fn or_source(mut self, release: Option<SourceRevision>) -> Provenance {
        self.source = self.source.or(release);
        self
    }
}

/// A message as it is kept: without white space around it, and without characters that would act on a terminal. None
/// if nothing is left.
///
/// # Errors
/// Why it is refused.
pub fn message(text: &str) -> Result<Option<String>, String> {
    if text.len() > MESSAGE_LEN_MAX {
        return Err(format!(
            "'message' must not be longer than {MESSAGE_LEN_MAX} bytes"
        ));
    }
    let cleaned = text.replace("\r\n", "\n");
    let cleaned: String = cleaned
        .chars()
        .map(|sign| match sign {
            '\n' => '\n',
            sign if acts(sign) => ' ',
            sign => sign,
        })
        .collect();
    let cleaned = cleaned.trim();
    Ok((!cleaned.is_empty()).then(|| cleaned.to_owned()))
}

/// Whether a character does something instead of being seen: controls, ends of lines, and what changes the direction.
fn acts(sign: char) -> bool {
    sign.is_control()
        || matches!(sign, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

impl SourceRevision {
    /// Reads it; none if it says nothing.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn read(members: &Map<String, Value>) -> Result<Option<SourceRevision>, String> {
        let word = |name: &str, longest: usize| match members.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) if is_word(text, longest) => Ok(Some(text.clone())),
            Some(Value::String(text)) if text.is_empty() => Ok(None),
            Some(_) => Err(format!(
                "'source.{name}' must be a string of 1 to {longest} bytes without white space"
            )),
        };
        let found = SourceRevision {
            commit: word("commit", COMMIT_LEN_MAX)?,
            branch: word("branch", BRANCH_LEN_MAX)?,
            dirty: match members.get("dirty") {
                None | Some(Value::Null) => None,
                Some(Value::Bool(dirty)) => Some(*dirty),
                Some(_) => return Err("'source.dirty' must be true or false".to_owned()),
            },
        };
        Ok((found != SourceRevision::default()).then_some(found))
    }

    /// From texts of which nothing is known: what a server would refuse is left out.
    pub fn found(
        commit: Option<String>,
        branch: Option<String>,
        dirty: Option<bool>,
    ) -> Option<SourceRevision> {
        let commit = commit.filter(|text| is_word(text, COMMIT_LEN_MAX))?;
        Some(SourceRevision {
            commit: Some(commit),
            branch: branch.filter(|text| is_word(text, BRANCH_LEN_MAX)),
            dirty,
        })
    }
}

fn is_word(text: &str, longest: usize) -> bool {
    let fits = |sign: char| !sign.is_whitespace() && !acts(sign);
    !text.is_empty() && text.len() <= longest && text.chars().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn messages_are_cleaned() {
        let table = [
            ("", None),
            (" \n\t", None),
            ("fix the door", Some("fix the door")),
            (" fix\r\n\r\nbecause \n", Some("fix\n\nbecause")),
            ("a\x1b[2Jb\x07\tc\u{202e}d\u{9b}", Some("a [2Jb  c d")),
            ("gr\u{fc}n \u{1f600}", Some("gr\u{fc}n \u{1f600}")),
        ];
        for (text, expected) in table {
            assert_eq!(message(text).unwrap().as_deref(), expected, "{text:?}");
        }
        assert!(message(&"x".repeat(MESSAGE_LEN_MAX)).is_ok());
        assert!(message(&"x".repeat(MESSAGE_LEN_MAX + 1)).is_err());
    }

    #[test]
    fn sources_are_read_or_refused() {
        let read = |value: Value| SourceRevision::read(value.as_object().unwrap());
        let good = json!({"commit": "a1", "branch": "f\u{fc}r/x", "dirty": true});
        assert_eq!(json!(read(good.clone()).unwrap()), good);
        assert_eq!(
            json!(read(json!({"commit": "a1", "more": 1})).unwrap()),
            json!({"commit": "a1"})
        );
        for nothing in [json!({}), json!({"commit": "", "branch": null, "x": 1})] {
            assert_eq!(read(nothing.clone()).unwrap(), None, "{nothing}");
        }
        let refused = [
            (json!({"commit": 7}), "'source.commit'"),
            (json!({"commit": "a b"}), "'source.commit'"),
            (json!({"commit": "x".repeat(129)}), "'source.commit'"),
            (json!({"commit": "x\u{1b}[2J"}), "'source.commit'"),
            (json!({"branch": "x\ny"}), "'source.branch'"),
            (json!({"branch": "x".repeat(256)}), "'source.branch'"),
            (json!({"dirty": "true"}), "'source.dirty'"),
        ];
        for (value, why) in refused {
            assert!(read(value.clone()).unwrap_err().contains(why), "{value}");
        }
    }

    #[test]
    fn what_another_server_says_is_left_out_where_it_is_wrong() {
        let record = json!({"message": "m\u{7}", "source": {"commit": 7}});
        let found = Provenance::of_record(&record);
        assert_eq!((found.message.as_deref(), found.source), (Some("m"), None));
        assert_eq!(Provenance::of_record(&json!([])), Provenance::default());
    }
}
