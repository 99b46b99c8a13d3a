//! Deploying: what becomes of a payload, what runs of it, and what is kept.

pub mod attempt;
pub mod deployer;
pub mod install;
pub mod manifest;
pub mod peers;
pub mod processes;
pub mod recover;
pub mod retain;
pub mod settings;
pub mod stages;
