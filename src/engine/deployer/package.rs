//! A package is fetched and built.

use std::sync::Arc;

use crate::api::error::Refusal;
use crate::engine::attempt::Attempt;
use crate::engine::deployer::Deployer;
use crate::engine::deployer::joining::Started;
use crate::engine::deployer::keyed::KeyedRequest;
use crate::engine::outcome::Failed;
use crate::engine::spec::DeploySpec;
use crate::engine::stages::{Staged, Work};
use crate::store::journal::Follower;

impl Deployer {
    /// Fetches the spec's package and deploys it as the spec says. The payload that comes of it must have the SHA-256, if there
    /// is one. The follower shows the deployment from its beginning; it is that of an earlier request if this one has the same
    /// key.
    ///
    /// # Errors
    /// Why no deployment has begun.
    pub fn build_package(
        self: &Arc<Self>,
        spec: DeploySpec,
        sha256: Option<String>,
    ) -> Result<Follower, Refusal> {
        let request = KeyedRequest::build(&spec, sha256.as_deref());
        if let Some(earlier) = self.earlier(&request)? {
            return Ok(earlier);
        }
        self.has_peers(&spec)?;
        // It has a byte or more.
        self.make_room(&spec.project, 1)?;
        self.has_room(spec.project.as_str(), 1)?;
        let attempt = match self.begin_once(&spec, &request)? {
            Started::New(attempt) => *attempt,
            Started::Earlier(follower) => return Ok(follower),
        };
        // From its beginning whoever asked sees what comes.
        let follower = self.follow(attempt.record().deployment_id, 0)?;
        self.hand_over(
            (spec, sha256, attempt),
            |deployer, spec, sha256, mut attempt| match deployer.fetched(
                &spec,
                sha256.as_deref(),
                &mut attempt,
            ) {
                Ok(staged) => deployer.run(&spec, Work::Unpacked(staged), attempt),
                Err(failed) => deployer.end(attempt, Err(failed)),
            },
        );
        Ok(follower)
    }

    fn fetched(
        &self,
        spec: &DeploySpec,
        sha256: Option<&str>,
        attempt: &mut Attempt,
    ) -> Result<Staged, Box<Failed>> {
        self.intake().fetch(attempt, sha256, &mut |attempt, file| {
            self.builder.fetch(spec, &self.limits, attempt, file)
        })
    }
}
