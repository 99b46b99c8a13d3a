//! What came of a deployment, as a value: the terminal event and the record are made of it in one place
//! ([`crate::engine::attempt`]).

use serde_json::{Map, Value};

use crate::api::error::{Error, Refusal};
use crate::api::event::InstallOutput;
use crate::engine::install::InstallFailure;

/// How a deployment ends.
pub type Outcome<'a> = Result<Success<'a>, Box<Failed>>;

/// A deployment that went well, up to the moment when its end is on disk.
pub struct Success<'a> {
    /// What it made. Dropping it undoes that; it is settled once the terminal event is on disk.
    pub made: Box<dyn Made + 'a>,
    /// The release is kept and is not live.
    pub staged: bool,
    /// The processes were restarted.
    pub restarted: bool,
    /// How the peers did.
    pub peer_results: Vec<Value>,
    /// It was published to the fleet, or was not: the answer to that was lost.
    pub published_unknown: bool,
}

/// What a deployment made: dropping it undoes it.
pub trait Made {
    /// Leaves it as it is: the end of the deployment is on disk.
    fn settle(self: Box<Self>);

    /// Undoes it and adds what came of that to the failure.
    fn undo(self: Box<Self>, failed: &mut Failed);
}

/// Nothing is made by a deployment that only restarts what is live.
impl Made for () {
    fn settle(self: Box<Self>) {}

    fn undo(self: Box<Self>, _: &mut Failed) {}
}

/// A deployment that failed.
#[derive(Debug)]
pub struct Failed {
    /// Why.
    pub refusal: Refusal,
    /// What the installation printed last.
    pub install_output: Option<InstallOutput>,
    /// What else the `error` event says.
    pub more: Map<String, Value>,
}

impl Failed {
    /// Adds a fact to the `error` event.
    pub fn add(&mut self, name: &str, value: Value) {
        self.more.insert(name.to_owned(), value);
    }
}

impl From<Refusal> for Box<Failed> {
    fn from(refusal: Refusal) -> Box<Failed> {
        Box::new(Failed {
            refusal,
            install_output: None,
            more: Map::new(),
        })
    }
}

impl From<Error> for Box<Failed> {
    fn from(error: Error) -> Box<Failed> {
        Refusal::from(error).into()
    }
}

impl From<InstallFailure> for Box<Failed> {
    fn from(failure: InstallFailure) -> Box<Failed> {
        let output = failure.output;
        Box::new(Failed {
            refusal: failure.refusal,
            install_output: (!output.lines.is_empty()).then_some(output),
            more: Map::new(),
        })
    }
}
