//! Deploying: what becomes of a payload, what runs of it, and what is kept.

pub mod attempt;
mod checkpoint;
mod child_env;
pub mod command;
pub mod converge;
pub mod deployer;
mod ending;
pub mod env;
mod fetch;
pub mod held_tree;
#[allow(dead_code, reason = "the hosts of a fleet are to come")]
pub mod holders;
pub mod install;
mod lacking;
pub mod manifest;
pub mod metrics;
pub mod notify;
pub mod outcome;
pub mod peers;
pub mod processes;
pub mod recover;
pub mod registry;
pub mod retain;
#[allow(dead_code, reason = "the hosts of a fleet are to come")]
pub mod rollout;
pub mod settings;
mod shared;
mod spare;
pub mod spec;
pub mod stages;
mod trees;
