//! Sessions of the page. One stands for the token that began it, or for somebody on this machine, for half a day.
//!
//! They are in a file, so that a page goes on after a restart of the server; only the hash of a session's secret is kept.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use crate::api::error::{Doing, Error};
use crate::store::tokens::{Identity, Token, replace};
use crate::system::files::if_there;
use crate::system::log;
use crate::system::time::now_ms;

/// How long a session lasts: a day's work.
const SESSION_TIME: Duration = Duration::from_secs(12 * 3600);
/// How many a token may have; its oldest give way. A person has a few, and nobody takes another one's away by beginning many.
const SESSIONS_MAX: usize = 16;

fn session_ms() -> u64 {
    u64::try_from(SESSION_TIME.as_millis()).unwrap_or(u64::MAX)
}

/// A session of the page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageSession {
    sha256: String,
    /// The token that began it; none: somebody on this machine.
    pub(super) issuer: Option<Issuer>,
    /// When it ends, in ms since the epoch.
    pub expires_at: u64,
}

/// Which token began a session. One that was revoked and made again under its name is another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Issuer {
    pub(super) name: String,
    pub(super) sha256: String,
}

impl Issuer {
    /// Whether it is this token.
    pub(super) fn is(&self, token: &Token) -> bool {
        token.name == self.name && token.sha256 == self.sha256
    }
}

/// The sessions of a root.
#[derive(Debug)]
pub(super) struct Sessions {
    file: PathBuf,
}

impl Sessions {
    pub(super) fn of(root: &Path) -> Sessions {
        Sessions {
            file: root.join("run/sessions.json"),
        }
    }

    pub(super) fn file(&self) -> &PathBuf {
        &self.file
    }

    /// The session whose secret has this hash, unless it has ended.
    pub(super) fn find(&self, shown: &str) -> Result<Option<PageSession>, Error> {
        let mut found = None;
        for session in self.read()? {
            if bool::from(shown.as_bytes().ct_eq(session.sha256.as_bytes())) {
                found = Some(session);
            }
        }
        Ok(found)
    }

    pub(super) fn add(&self, issuer: Option<Issuer>, sha256: String) -> Result<PageSession, Error> {
        let session = PageSession {
            sha256,
            issuer,
            expires_at: now_ms().saturating_add(session_ms()),
        };
        let mut all = self.read()?;
        let same = |one: &PageSession| one.issuer == session.issuer;
        let mut too_many = all.iter().filter(|one| same(one)).count() + 1;
        all.retain(|one| {
            let goes = same(one) && too_many > SESSIONS_MAX;
            too_many -= usize::from(goes);
            !goes
        });
        all.push(session.clone());
        self.write(&all)?;
        Ok(session)
    }

    /// Ends the session that is shown, or all that its token began, or all. Says how many ended.
    pub(super) fn end(&self, which: Option<&Identity>) -> Result<usize, Error> {
        let all = self.read()?;
        let goes = |one: &PageSession| match which {
            None => true,
            Some(identity) => match &identity.session {
                Some(shown) => one.sha256 == shown.sha256,
                None => one
                    .issuer
                    .as_ref()
                    .is_some_and(|issuer| issuer.name == identity.name),
            },
        };
        let stay: Vec<PageSession> = all.iter().filter(|one| !goes(one)).cloned().collect();
        let ended = all.len() - stay.len();
        if ended > 0 {
            self.write(&stay)?;
        }
        Ok(ended)
    }

    fn write(&self, sessions: &[PageSession]) -> Result<(), Error> {
        let what = || format!("writing the sessions to {}", self.file.display());
        let mut text = serde_json::to_vec_pretty(sessions).doing(what)?;
        text.push(b'\n');
        replace(&self.file, &text)
    }

    /// Those that have not ended.
    fn read(&self) -> Result<Vec<PageSession>, Error> {
        let what = || format!("reading the sessions in {}", self.file.display());
        let Some(text) = if_there(fs::read(&self.file)).doing(what)? else {
            return Ok(Vec::new());
        };
        // What is damaged holds no session: whoever had one signs in again.
        let mut all: Vec<PageSession> = serde_json::from_slice(&text).unwrap_or_else(|error| {
            log::warn(&format!("{}: {error}; all sessions have ended", what()));
            Vec::new()
        });
        let now = now_ms();
        // One that would last longer was begun while the clock was wrong.
        let lasts = now + 1..=now.saturating_add(session_ms());
        all.retain(|session| lasts.contains(&session.expires_at));
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tokens::{Credentials, Role, Tokens};
    use std::sync::Arc;

    #[test]
    fn a_session_stands_for_its_token_and_ends_with_it() {
        let dir = std::env::temp_dir().join(format!("gangplank-sessions-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(dir.join("run")).unwrap();
        let tokens = Arc::new(Tokens::of(&dir));
        tokens.add("ci", Role::Read, &[]).unwrap();
        tokens.add("ops", Role::Deploy, &[]).unwrap();
        let begin = |name: Option<&str>| {
            let mut all = tokens.list().unwrap().into_iter();
            let issuer = name.and_then(|name| all.find(|one| one.name == name));
            let (secret, session) = tokens.open_session(issuer.as_ref()).unwrap();
            assert!(session.expires_at > now_ms() + 11 * 3_600_000);
            Credentials::Bearer(secret)
        };
        let who = |shown: &Credentials| tokens.check(shown).unwrap();
        let (ci, other, ops, local) = (
            begin(Some("ci")),
            begin(Some("ci")),
            begin(Some("ops")),
            begin(None),
        );
        let names = |shown| who(shown).map(|identity| (identity.name, identity.role));
        assert_eq!(names(&ci), Some(("ci".into(), Role::Read)));
        assert_eq!(names(&ops), Some(("ops".into(), Role::Deploy)));
        assert_eq!(names(&local), Some(("this machine".into(), Role::Admin)));
        // One that is shown ends alone; a token ends its own.
        assert_eq!(tokens.end_sessions(who(&ci).as_ref()).unwrap(), 1);
        assert!(who(&ci).is_none() && who(&other).is_some());
        let mut watch = tokens.watch(other);
        assert!(watch.holds(watch.stamps()) && watch.holds(watch.stamps()));
        // Who takes the token away takes its sessions with it, also if another one gets its name.
        tokens.revoke("ci").unwrap();
        tokens.add("ci", Role::Admin, &[]).unwrap();
        assert!(!watch.holds(watch.stamps()));
        let issuer = Identity {
            session: None,
            ..who(&ops).unwrap()
        };
        assert_eq!(tokens.end_sessions(Some(&issuer)).unwrap(), 1);
        assert!(who(&ops).is_none() && who(&local).is_some());
        assert_eq!(tokens.end_sessions(None).unwrap(), 2);
        assert!(who(&local).is_none());
        // The oldest give way to others of the same token alone.
        let (first, ops) = (begin(None), begin(Some("ops")));
        for _ in 0..SESSIONS_MAX {
            begin(None);
        }
        assert!(who(&first).is_none() && who(&ops).is_some());
        let _ = fs::remove_dir_all(&dir);
    }

    #[test]
    fn a_session_ends_by_the_clock_also_if_that_was_wrong_when_it_began() {
        let dir = std::env::temp_dir().join(format!("gangplank-clock-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(dir.join("run")).unwrap();
        let tokens = Tokens::of(&dir);
        let secret = tokens.add("ci", Role::Read, &[]).unwrap();
        let ci = tokens.check(&Credentials::Bearer(secret.clone())).unwrap();
        let (shown, session) = tokens.open_session(ci.as_ref()).unwrap();
        let shown = Credentials::Bearer(shown);
        let file = dir.join("run/sessions.json");
        let day = 24 * 3_600_000;
        for (expires_at, holds) in [
            (session.expires_at, true),
            (now_ms(), false),
            (now_ms() + day, false),
            (u64::MAX, false),
        ] {
            let one = PageSession {
                expires_at,
                ..session.clone()
            };
            fs::write(&file, serde_json::to_vec(&[one]).unwrap()).unwrap();
            assert_eq!(tokens.check(&shown).unwrap().is_some(), holds);
        }
        // What is damaged keeps no token out, and the next session begins anew.
        fs::write(&file, "half").unwrap();
        assert_eq!(tokens.check(&shown).unwrap(), None);
        let token = Credentials::Bearer(secret);
        let ci = tokens.check(&token).unwrap();
        assert!(ci.is_some());
        let (shown, _) = tokens.open_session(ci.as_ref()).unwrap();
        let shown = Credentials::Bearer(shown);
        assert!(tokens.check(&shown).unwrap().is_some());
        // A code of a token that was changed for another one of its name begins no session.
        tokens.revoke("ci").unwrap();
        tokens.add("ci", Role::Admin, &[]).unwrap();
        assert!(tokens.open_session(ci.as_ref()).is_err());
        let _ = fs::remove_dir_all(&dir);
    }
}
