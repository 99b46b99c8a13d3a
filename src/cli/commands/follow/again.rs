//! What is asked when a try came to nothing, and when that is given up.

use std::time::Instant;

use crate::api::error::Exit;
use crate::cli::commands::CommandError;
use crate::cli::commands::call::Call;
use crate::cli::commands::follow::{FailedTry, Following, LossKind, Subject};
use crate::client::NoResult;

impl Following<'_, '_> {
    /// Nothing comes any more, so that the end has been lost too, and is asked for by itself.
    pub(super) fn over<'q>(&mut self, ask: Call<'q>) -> Result<Call<'q>, CommandError> {
        match self.known() {
            Some(id) if !matches!(ask, Call::End(..)) => Ok(Call::End(id, self.last)),
            _ => {
                let trouble = self.lost("the events are over, and had no end");
                let kind = LossKind::Broken;
                self.again(ask, FailedTry { kind, trouble })
            }
        }
    }

    /// What is asked next, after a while, or the end of all trying.
    pub(super) fn again<'q>(
        &mut self,
        ask: Call<'q>,
        loss: FailedTry,
    ) -> Result<Call<'q>, CommandError> {
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
            Some(id) if self.proven => Call::Resume(id, self.last),
            _ => ask,
        })
    }

    fn may_try(&self, ask: &Call, kind: LossKind) -> bool {
        let given = self.session.retry_for.is_some();
        match ask {
            Call::Resume(..) | Call::End(..) => true,
            _ if self.proven && self.known().is_some() => true,
            // Whoever begins to tell of a deployment without its name knows no keys either.
            Call::Upload { .. } => (given || self.session.reached) && !self.nameless,
            Call::Watch(_) => given || self.proven,
            Call::Operation { .. } => {
                given && (kind == LossKind::Unreached || self.subject == Subject::Reading)
            }
        }
    }

    fn say(&mut self, ask: &Call, loss: &FailedTry) {
        let said = std::mem::replace(&mut self.said, true);
        let reason = &loss.trouble.failed.message;
        let follows = self.proven && self.known().is_some();
        let remark = match loss.kind {
            _ if follows => format!("connection lost ({reason}); reconnecting"),
            // An upload has shown how far it came, so it is said each time that it begins anew.
            LossKind::Broken if ask.uploads() => format!("upload broken ({reason}); trying again"),
            LossKind::Unanswered if ask.uploads() => {
                format!("answer lost ({reason}); sending the upload again")
            }
            _ => format!("{reason}; trying again"),
        };
        let anew = ask.uploads() && !follows && loss.kind != LossKind::Unreached;
        if anew || !said {
            self.session.screen.remark(&remark);
            self.session.screen.flush();
        }
    }

    /// The time is over.
    fn given_up(&mut self, loss: FailedTry) -> CommandError {
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
    pub(super) fn refused(&mut self, failed: NoResult) -> CommandError {
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
