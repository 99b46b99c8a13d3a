//! What is asked when a try came to nothing, and when that is given up.

use std::time::Instant;

use crate::api::error::{Code, Exit};
use crate::client::NoResult;
use crate::client::follow::{
    AnswerFollower, Asked, FailedTry, FollowError, FollowHost, FollowNews, LossKind, Repeat,
    Subject,
};

impl AnswerFollower<'_> {
    /// Nothing comes any longer, so that the end has been lost too, and is asked for by itself.
    pub(super) fn over(
        &mut self,
        asked: Asked,
        host: &mut dyn FollowHost,
    ) -> Result<Asked, FollowError> {
        match self.known() {
            Some(id) if !matches!(asked, Asked::End(_)) => Ok(Asked::End(id)),
            _ => {
                let trouble = self.lost("the events are over, and had no end");
                let kind = LossKind::Broken;
                self.again(asked, FailedTry { kind, trouble }, host)
            }
        }
    }

    /// What is asked next, after a while, or the end of all trying.
    pub(super) fn again(
        &mut self,
        asked: Asked,
        loss: FailedTry,
        host: &mut dyn FollowHost,
    ) -> Result<Asked, FollowError> {
        let found = asked != Asked::Request || loss.kind != LossKind::Unreached;
        if self.client.is_harper() && found && self.options.subject != Subject::Reading {
            return self.harper_again(asked, loss, host);
        }
        if !self.may_try(asked, loss.kind) {
            return Err(loss.trouble);
        }
        let Some(wait) = self.window.lost(Instant::now()) else {
            return Err(self.given_up(loss));
        };
        self.say(asked, &loss, host);
        if !host.pause(wait) {
            return Err(self.interrupted());
        }
        Ok(match self.known() {
            Some(id) if self.proven => Asked::Events(id),
            _ => asked,
        })
    }

    fn may_try(&self, asked: Asked, kind: LossKind) -> bool {
        if asked != Asked::Request || (self.proven && self.known().is_some()) {
            return true;
        }
        let given = self.options.retry_for.is_some();
        match self.options.repeat {
            // Whoever begins to tell of a deployment without its name knows no keys either.
            Repeat::Upload => (given || self.options.reached) && !self.nameless,
            Repeat::Freely => given || self.options.reached,
            Repeat::Events => given || self.proven || self.reached_before,
            Repeat::Reading => given,
            Repeat::Unsent => given && kind == LossKind::Unreached,
        }
    }

    fn say(&mut self, asked: Asked, loss: &FailedTry, host: &mut dyn FollowHost) {
        let said = std::mem::replace(&mut self.said, true);
        let reason = &loss.trouble.failed.message;
        let follows = self.proven && self.known().is_some();
        let uploads = self.options.repeat == Repeat::Upload && asked == Asked::Request;
        let remark = match loss.kind {
            _ if follows => format!("connection lost ({reason}); reconnecting"),
            // An upload has shown how far it came, so it is said each time that it begins anew.
            LossKind::Broken if uploads => format!("upload broken ({reason}); trying again"),
            LossKind::Unanswered if uploads => {
                format!("answer lost ({reason}); sending the upload again")
            }
            _ => format!("{reason}; trying again"),
        };
        let anew = uploads && !follows && loss.kind != LossKind::Unreached;
        if anew || !said {
            host.news(FollowNews::Lost(remark));
        }
    }

    /// The time is over.
    pub(super) fn given_up(&mut self, loss: FailedTry) -> FollowError {
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
    pub(super) fn refused(&mut self, failed: NoResult) -> FollowError {
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

    pub(super) fn interrupted(&self) -> FollowError {
        let attempt = &self.attempt;
        let open = self.uploads() && !self.unknown && self.options.id.is_none();
        // A Harper server answers before it has the payload, and deploys nothing of what came in part.
        let begun = attempt.status.is_some_and(|status| status < 300) && !self.client.is_harper();
        if open && !attempt.sent && !begun {
            let message = "interrupted: the upload was stopped, and nothing was deployed";
            let mut trouble = FollowError::from(NoResult::new(Exit::Interrupted, message));
            trouble.watch = false;
            return trouble;
        }
        self.lost_with(Exit::Interrupted, "interrupted".into())
    }
}

/// Whether it is said of the fleet, which the next request would hear as well.
pub(super) fn is_of_fleet(failed: &NoResult) -> bool {
    let code = failed.code.as_deref().and_then(Code::parse);
    matches!(code, Some(Code::FleetUnavailable | Code::OutcomeUnknown))
}
