//! Access tokens: who may do what.
//!
//! A token is 32 random bytes as 64 hex digits. Only its SHA-256 is kept, in `tokens.json`, and compared in constant time.
//! The file is read at each use, so that a change holds at once.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use crate::error::{Doing, Error};
use crate::event::now_ms;
use crate::name::Secret;

/// What a token allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Everything.
    Admin,
    /// All but payload downloads and tokens.
    Deploy,
    /// Looking only.
    Read,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Token {
    name: String,
    role: Role,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    projects: Vec<String>,
    sha256: String,
    created_at: u64,
}

/// Whoever showed a valid token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The token's name.
    pub name: String,
    /// What it allows.
    pub role: Role,
}

/// What an `Authorization` header shows.
#[derive(Debug)]
pub enum Credentials {
    /// A token.
    Bearer(Secret),
    /// A token's name and the token.
    Basic(String, Secret),
}

impl Credentials {
    /// Reads an `Authorization` header; none if it is neither `Bearer` nor `Basic`, or broken.
    pub fn parse(header: &str) -> Option<Credentials> {
        let (scheme, rest) = header.trim().split_once(' ')?;
        let rest = rest.trim();
        if scheme.eq_ignore_ascii_case("bearer") {
            return Some(Credentials::Bearer(Secret::new(rest)));
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let text = String::from_utf8(STANDARD.decode(rest).ok()?).ok()?;
        let (name, token) = text.split_once(':')?;
        Some(Credentials::Basic(name.to_owned(), Secret::new(token)))
    }
}

/// The tokens of a root.
#[derive(Debug)]
pub struct Tokens {
    file: PathBuf,
    admin_file: PathBuf,
}

impl Tokens {
    /// The tokens of the root in `root`; nothing is read yet.
    pub fn of(root: &Path) -> Tokens {
        Tokens {
            file: root.join("tokens.json"),
            admin_file: root.join("admin.token"),
        }
    }

    /// Makes an `admin` token if there is no token at all, and says in which file it is.
    ///
    /// # Errors
    /// When the files cannot be read or written.
    pub fn ensure_admin(&self) -> Result<Option<&Path>, Error> {
        if !self.read()?.is_empty() {
            return Ok(None);
        }
        let secret = fresh()?;
        // The token's own file first: a crash between the two leaves a root that makes both again.
        replace(
            &self.admin_file,
            format!("{}\n", secret.reveal()).as_bytes(),
        )?;
        let token = Token {
            name: "admin".to_owned(),
            role: Role::Admin,
            projects: Vec::new(),
            sha256: hash(secret.reveal()),
            created_at: now_ms(),
        };
        let mut text =
            serde_json::to_vec_pretty(&[token]).doing(|| "writing down the admin token".into())?;
        text.push(b'\n');
        replace(&self.file, &text)?;
        Ok(Some(&self.admin_file))
    }

    /// Whose credentials these are; none if they are nobody's.
    ///
    /// # Errors
    /// When the file cannot be read: nobody gets in then.
    pub fn check(&self, credentials: &Credentials) -> Result<Option<Identity>, Error> {
        let (name, secret) = match credentials {
            Credentials::Bearer(secret) => (None, secret),
            Credentials::Basic(name, secret) => (Some(name), secret),
        };
        let shown = hash(secret.reveal());
        let mut found = None;
        // Every token is compared, so that the time tells nothing of where in the list a match stands.
        for token in self.read()? {
            let same = shown.as_bytes().ct_eq(token.sha256.as_bytes());
            let named = Choice::from(u8::from(name.is_none_or(|name| *name == token.name)));
            if bool::from(same & named) {
                found = Some(Identity {
                    name: token.name,
                    role: token.role,
                });
            }
        }
        Ok(found)
    }

    fn read(&self) -> Result<Vec<Token>, Error> {
        let what = || format!("reading the tokens in {}", self.file.display());
        match fs::read(&self.file) {
            Ok(text) => serde_json::from_slice(&text).doing(what),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error).doing(what),
        }
    }
}

fn fresh() -> Result<Secret, Error> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).doing(|| "making a token".into())?;
    Ok(Secret::new(hex(&bytes)))
}

fn hash(token: &str) -> String {
    hex(&Sha256::digest(token.as_bytes()))
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |text, byte| {
            text + &format!("{byte:02x}")
        })
}

/// Writes a file that only we may read, whole or not at all.
fn replace(path: &Path, content: &[u8]) -> Result<(), Error> {
    let what = || format!("writing {}", path.display());
    let fresh = path.with_extension("new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&fresh)
        .doing(what)?;
    file.write_all(content)
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&fresh, path))
        .doing(what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_first_start_makes_an_admin_and_the_second_does_not() {
        let dir = std::env::temp_dir().join(format!("gangplank-tokens-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        let tokens = Tokens::of(&dir);
        let file = tokens.ensure_admin().unwrap().unwrap().to_owned();
        assert_eq!(tokens.ensure_admin().unwrap(), None);
        let token = fs::read_to_string(&file).unwrap().trim().to_owned();
        assert_eq!(token.len(), 64);
        for name in ["admin.token", "tokens.json"] {
            assert_eq!(
                fs::metadata(dir.join(name)).unwrap().permissions().mode() & 0o777,
                0o600,
                "{name}"
            );
        }
        assert!(
            !fs::read_to_string(dir.join("tokens.json"))
                .unwrap()
                .contains(&token)
        );
        let basic = |text: &str| format!("Basic {}", STANDARD.encode(text));
        let table = [
            (format!("Bearer {token}"), true),
            (format!("bearer   {token} "), true),
            (basic(&format!("admin:{token}")), true),
            (basic(&format!("other:{token}")), false),
            (basic("admin:"), false),
            (
                format!("Bearer {}", token.to_uppercase()),
                token.to_uppercase() == token,
            ),
            ("Bearer x".to_owned(), false),
        ];
        for (header, right) in table {
            let credentials = Credentials::parse(&header).unwrap();
            assert_eq!(
                tokens.check(&credentials).unwrap().is_some(),
                right,
                "{header}"
            );
        }
        for broken in ["", "Bearer", "Digest x", "Basic !", "Basic YWI="] {
            assert!(Credentials::parse(broken).is_none(), "{broken}");
        }
        fs::write(dir.join("tokens.json"), "half").unwrap();
        assert!(
            tokens
                .check(&Credentials::Bearer(Secret::new(token)))
                .is_err()
        );
        let _ = fs::remove_dir_all(&dir);
    }
}
