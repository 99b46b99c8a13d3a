//! What is asked when a try came to nothing, and when that is given up.

use std::time::Instant;

use crate::client::Failed;
use crate::error::Exit;
use crate::user::Trouble;
use crate::user::ask::Ask;
use crate::user::follow::{Following, Kind, Loss, Subject};

impl Following<'_, '_> {
    /// Nothing comes any more, so that the end has been lost too, and is asked for by itself.
    pub(super) fn over<'q>(&mut self, ask: Ask<'q>) -> Result<Ask<'q>, Trouble> {
        match self.known() {
            Some(id) if !matches!(ask, Ask::End(..)) => Ok(Ask::End(id, self.last)),
            _ => {
                let trouble = self.lost("the events are over, and had no end");
                let kind = Kind::Broken;
                self.again(ask, Loss { kind, trouble })
            }
        }
    }

    /// What is asked next, after a while, or the end of all trying.
    pub(super) fn again<'q>(&mut self, ask: Ask<'q>, loss: Loss) -> Result<Ask<'q>, Trouble> {
        if !self.may_try(&ask, loss.kind) {
            return Err(loss.trouble);
        }
        let Some(wait) = self.patience.lost(Instant::now()) else {
            return Err(self.given_up(loss));
        };
        self.say(&ask, &loss);
        if !self.session.pause(wait) {
            return Err(self.interrupted());
        }
        Ok(match self.known() {
            Some(id) if self.proven => Ask::Resume(id, self.last),
            _ => ask,
        })
    }

    fn may_try(&self, ask: &Ask, kind: Kind) -> bool {
        let given = self.session.retry_for.is_some();
        match ask {
            Ask::Resume(..) | Ask::End(..) => true,
            _ if self.proven && self.known().is_some() => true,
            // Whoever begins to tell of a deployment without its name knows no keys either.
            Ask::Upload { .. } => (given || self.session.reached) && !self.nameless,
            Ask::Watch(_) => given || self.proven,
            Ask::Call { .. } => {
                given && (kind == Kind::Unreached || self.subject == Subject::Reading)
            }
        }
    }

    fn say(&mut self, ask: &Ask, loss: &Loss) {
        let said = std::mem::replace(&mut self.said, true);
        let reason = &loss.trouble.failed.message;
        let follows = self.proven && self.known().is_some();
        let remark = match loss.kind {
            _ if follows => format!("connection lost ({reason}); reconnecting"),
            // An upload has shown how far it came, so it is said each time that it begins anew.
            Kind::Broken if ask.uploads() => format!("upload broken ({reason}); trying again"),
            Kind::Unanswered if ask.uploads() => {
                format!("answer lost ({reason}); sending the upload again")
            }
            _ => format!("{reason}; trying again"),
        };
        let anew = ask.uploads() && !follows && loss.kind != Kind::Unreached;
        if anew || !said {
            self.session.screen.remark(&remark);
            self.session.screen.flush();
        }
    }

    /// The time is over.
    fn given_up(&mut self, loss: Loss) -> Trouble {
        let followed = self.proven && self.follows();
        if !followed && !self.unknown {
            return loss.trouble;
        }
        let message = format!(
            "the answer was lost, and could not be picked up again: {}",
            loss.trouble.failed.message
        );
        self.lost_with(Exit::Unknown, message)
    }

    /// The server does not give the events that are missing.
    pub(super) fn refused(&mut self, failed: Failed) -> Trouble {
        let exit = match failed.exit {
            Exit::Unauthorized => Exit::Unauthorized,
            _ => Exit::Unknown,
        };
        let message = format!(
            "the answer was lost, and could not be picked up again: {}",
            failed.message
        );
        let mut trouble = self.lost_with(exit, message);
        trouble.failed.code = failed.code;
        trouble.watch = true;
        trouble
    }
}
