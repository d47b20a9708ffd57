//! The binary on the real PostgreSQL, Redis and Kafka of `scripts/services`. Without their addresses in the
//! environment, a test says that it is skipped.

mod checkpoints;
#[path = "../deployment/mod.rs"]
mod deployment;
mod end_to_end;
mod faults;
mod loss;
mod sinks;
mod topics;
mod verify;
mod workers;
