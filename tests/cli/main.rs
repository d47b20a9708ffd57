//! The binary from end to end, as somebody at a terminal uses it: arguments and files in; tables, topics,
//! messages and exit codes out.

#![cfg(unix)]

mod support;

mod attributions;
mod checkpoints;
mod cluster;
mod config;
mod demo;
mod disk;
mod files;
mod follow;
mod generate;
mod help;
mod network;
mod ops;
mod restart;
mod run;
mod silent;
mod stop;
mod verify;
mod workers;
