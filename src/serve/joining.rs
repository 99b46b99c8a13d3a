//! A request that comes twice: by its idempotency key it joins the deployment that the first one began.

use std::thread;
use std::time::Duration;

use crate::attempt::Attempt;
use crate::error::{Code, Refusal};
use crate::journal::Follower;
use crate::name::Project;
use crate::record::key_of;
use crate::serve::desk::Desk;
use crate::serve::operations::Wanted;
use crate::worker::Wish;

/// Between the claim of a component and what is known of its deployment lies the making of a directory.
const JOIN_EVERY: Duration = Duration::from_millis(10);
/// How often that is waited for.
const JOINS_MAX: usize = 500;

/// What was asked for before with the same key.
pub(super) fn earlier(
    desk: &Desk,
    project: &Project,
    wanted: &Wanted,
) -> Result<Option<Follower>, Refusal> {
    let Some(key) = &wanted.key else {
        return Ok(None);
    };
    match desk.workers.earlier(project, key)? {
        Some(id) => desk.workers.follow(id, 0).map(Some),
        None => Ok(None),
    }
}

/// What a request has begun, or joins.
pub(super) enum Begun {
    New(Box<Attempt>),
    Earlier(Follower),
}

/// Begins a deployment, or joins the one that a request with the same key began at the same moment.
pub(super) fn begin(desk: &Desk, wish: &Wish, wanted: &Wanted) -> Result<Begun, Refusal> {
    for _ in 0..JOINS_MAX {
        let busy = match desk.workers.begin(wish.clone()) {
            Ok(attempt) => return Ok(Begun::New(Box::new(attempt))),
            Err(refusal) => refusal,
        };
        let (Some(_), Code::Busy, Some(id)) = (&wanted.key, busy.code, busy.deployment_id) else {
            return Err(busy);
        };
        if let Some(earlier) = earlier(desk, &wish.project, wanted)? {
            return Ok(Begun::Earlier(earlier));
        }
        // Not one of the same key that began just now, nor one of which not even the key is known yet.
        let key = wanted.key.as_deref().and_then(key_of);
        let other = desk
            .known
            .index
            .look(|all| all.get(&id).is_some_and(|one| one.key != key));
        if other && desk.workers.is_running(id) {
            return Err(busy);
        }
        thread::sleep(JOIN_EVERY);
    }
    let why = format!("deploying {}: too many requests at once", wish.project);
    Err(Refusal::new(Code::Busy, why))
}
