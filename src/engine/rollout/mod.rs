//! Rollouts: what is wanted of a component on all hosts of a fleet, published once and gone in waves.
//!
//! All that is true of a rollout stands in etcd ([`crate::api::fleet`]), so every host can publish one, lead one and show one.
//! Nothing here waits for a clock on the wall: generations are counted, leases end, and times are counted from when something
//! was seen here.
//!
//! | file | what for |
//! | --- | --- |
//! | `seat` | the fleet as this host sees it |
//! | `view` | how a component stands on all hosts, read at once |
//! | `claim` | the right to publish a component |
//! | `publish` | what is wanted from now on |
//! | `ticket` | a deployment that is to be published |
//! | `plan` | how it goes in waves |
//! | `step` | what a leader does next, as a value |
//! | `known` | which rollouts nobody leads, from what is heard |
//! | `lead` | leading: one host at a time, for as long as its lease holds |
//! | `members` | who and what belongs to the fleet |
//! | `trust` | signatures over what is wanted |

mod claim;
mod known;
pub mod lead;
pub mod members;
pub mod plan;
pub mod publish;
mod seat;
mod step;
pub mod ticket;
pub mod trust;
pub mod view;

#[cfg(test)]
mod tests;

pub use crate::engine::rollout::seat::FleetSeat;
