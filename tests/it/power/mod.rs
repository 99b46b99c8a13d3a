//! What survives a power loss: the order of a deployment's system calls, and what starts from a disk that lost its power.

mod disk;
mod loss;
mod order;
