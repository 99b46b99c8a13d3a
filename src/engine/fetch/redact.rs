//! What git and npm print goes to everybody who watches. This takes out of it what is known to be a credential, and what
//! stands in a URL where one would.

use std::borrow::Cow;
use std::ffi::OsString;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::api::package::PackageSpec;
use crate::engine::child_env::value_of;

/// Stands in the place of a credential.
const HIDDEN: &str = "***";
/// The variables that hold credentials for fetching.
const VARIABLES: [&str; 2] = ["GANGPLANK_FETCH_AUTHORIZATION", "NPM_TOKEN"];

/// The credentials that a fetch knows of.
pub(super) struct Redactor(Vec<String>);

impl Redactor {
    pub(super) fn new(package: &PackageSpec, environment: &[(OsString, OsString)]) -> Redactor {
        let mut secrets = Vec::new();
        if let Some(own) = &package.credentials {
            let (username, password) = (own.username.reveal(), own.password.reveal());
            secrets.push(STANDARD.encode(format!("{username}:{password}")));
            // A name that stands alone is a token.
            secrets.push(match password.is_empty() {
                true => username.to_owned(),
                false => password.to_owned(),
            });
        }
        for name in VARIABLES {
            let value = value_of(environment, name).and_then(|value| value.to_str());
            let Some(value) = value else { continue };
            secrets.push(value.to_owned());
            // Behind `Bearer` or `Basic` it may stand alone.
            secrets.extend(value.split_whitespace().nth(1).map(str::to_owned));
        }
        secrets.retain(|secret| !secret.is_empty());
        // The longer before those that are a part of it.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        Redactor(secrets)
    }

    /// A line without them.
    pub(super) fn line(&self, line: String) -> String {
        let mut line = line;
        for secret in &self.0 {
            if line.contains(secret.as_str()) {
                line = line.replace(secret.as_str(), HIDDEN);
            }
        }
        without_userinfo(&line).into_owned()
    }
}

/// A text in which no URL of HTTP says who asks.
fn without_userinfo(text: &str) -> Cow<'_, str> {
    let mut shown = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, behind) = rest.split_at(at + 3);
        let is_http = ["http://", "https://"]
            .iter()
            .any(|scheme| before.ends_with(scheme));
        let end = behind
            .find(|one: char| one == '/' || one.is_whitespace() || "'\"?#".contains(one))
            .unwrap_or(behind.len());
        shown.push_str(before);
        rest = behind;
        if let (true, Some(user)) = (is_http, behind[..end].rfind('@')) {
            shown.push_str(HIDDEN);
            rest = &behind[user..];
        }
    }
    if shown.is_empty() {
        return Cow::Borrowed(text);
    }
    shown.push_str(rest);
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_taken_out_of_lines() {
        let package = PackageSpec::parse("git+https://bob:s3cret%21@h/r").unwrap();
        let environment = [
            ("NPM_TOKEN", "npm_tok"),
            ("GANGPLANK_FETCH_AUTHORIZATION", "Bearer abc"),
        ]
        .map(|(name, value)| (name.into(), value.into()));
        let redactor = Redactor::new(&package, &environment);
        let basic = format!("Authorization: Basic {}", STANDARD.encode("bob:s3cret!"));
        let table = [
            (
                "fatal: unable to access 'https://h/r'",
                "fatal: unable to access 'https://h/r'",
            ),
            ("with s3cret! and npm_tok", "with *** and ***"),
            (&basic, "Authorization: Basic ***"),
            ("Bearer abc", "***"),
            ("just abc", "just ***"),
            (
                "Submodule (https://x:y@z/a.git)",
                "Submodule (https://***@z/a.git)",
            ),
            (
                "http://x@y and https://a:b@c?d=e@f",
                "http://***@y and https://***@c?d=e@f",
            ),
            (
                "'https://a@b' ssh://git@h/r",
                "'https://***@b' ssh://git@h/r",
            ),
            ("https://h/a@b", "https://h/a@b"),
            ("bob", "bob"),
        ];
        for (line, expected) in table {
            assert_eq!(redactor.line(line.to_owned()), expected);
        }
        let package = PackageSpec::parse("https://tok@h/x.tgz").unwrap();
        assert_eq!(Redactor::new(&package, &[]).line("a tok".into()), "a ***");
    }
}
