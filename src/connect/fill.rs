//! A way around a fault of librdkafka (issue 5280 there; in 2.5 to 2.15.0 at least).
//!
//! When a broker answers a fetch with new leaders, librdkafka makes room for as many partitions as are named,
//! but fills in only those that have a leader. While a broker comes back some have none, so the rest is
//! whatever the memory held before. A partition number from there that is negative is read from before the
//! start of an array, and the process dies.
//!
//! The C library can fill memory before it hands it out. With bytes of 0x7f such a number is greater than
//! that of any partition, and librdkafka passes over it with a line in its log. Rust's own memory comes from
//! another allocator and is not filled.

/// Fills with the complement of 128, and keeps no memory aside that is not filled.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const TUNABLES: &str = "glibc.malloc.perturb=128:glibc.malloc.tcache_count=0";

/// Starts this program anew, in the same process, with an environment by which the C library fills memory.
/// Does nothing if GLIBC_TUNABLES is set already, or where there is no such library. To be called while there
/// is one thread.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn fill_fresh_memory() {
    use std::os::unix::process::CommandExt;

    const VARIABLE: &str = "GLIBC_TUNABLES";
    let mut arguments = std::env::args_os();
    let (Some(name), Ok(program), None) =
        (arguments.next(), std::env::current_exe(), std::env::var_os(VARIABLE))
    else {
        return;
    };
    // It comes back only if that can't be done; then the fault may strike, and the supervisor starts the
    // process again.
    let error = std::process::Command::new(program).arg0(name).args(arguments).env(VARIABLE, TUNABLES).exec();
    tracing::debug!(%error, "memory of the C library is not filled");
}

/// Nothing, as there is no such library.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn fill_fresh_memory() {}
