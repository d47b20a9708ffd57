//! The four statements held against the contract: by hand, against the batch recomputation, and against plain
//! differential formulations of themselves.
//!
//! `ADTIDE_TEST_CASES` sets how many random cases each property is tried with, `ADTIDE_TEST_SEED` repeats a
//! failure.

mod bad_input;
mod bounds;
mod checkpoints;
mod contract_attribution;
mod contract_forms;
mod contract_input;
mod contract_performance;
mod contract_rankings;
mod contract_refunds;
mod contract_time;
mod formulations;
mod metamorphic;
mod operators;
mod parser;
mod properties;
mod restart;
mod support;
