//! Several processes as one cluster: how they find each other, and how each notices that another is gone.
//!
//! The connections are made here and not by timely, which would wait in silence, print to standard output,
//! and take whoever connects for a peer. Beside the connection for data every two processes keep one for
//! heartbeats, at the same port.

mod connect;
mod peers;

use std::any::Any;
use std::panic;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context, anyhow};
use timely::communication::allocator::zero_copy::initialize::initialize_networking_from_sockets;
use timely::communication::allocator::{AllocatorBuilder, ProcessBuilder};
use timely::communication::{Config, Hooks};

pub use peers::{PEER_LOST, Peers};

/// The workers and processes that run as one.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// How many workers each process has.
    pub workers: usize,
    /// Which of the processes this one is.
    pub process: usize,
    /// Where each process is reached, host:port; at most one if there are no others.
    pub addresses: Vec<String>,
    /// A process that says nothing for so long is taken for dead.
    pub heartbeat_timeout: Duration,
}

/// What timely's workers of this process are built of.
pub struct Joined {
    /// One for each worker.
    pub builders: Vec<AllocatorBuilder>,
    /// Holds the threads that send and receive.
    pub threads: Box<dyn Any + Send>,
    /// The other processes; None if there are none.
    pub peers: Option<Arc<Peers>>,
}

impl Cluster {
    /// Waits for the other processes, if there are any, and watches them from then on. None if `stop` is set
    /// before all are there.
    ///
    /// # Errors
    /// It can't listen at its address, or another process was started with other arguments.
    pub fn join(&self, stop: &AtomicBool) -> anyhow::Result<Option<Joined>> {
        if self.addresses.len() <= 1 {
            let config = if self.workers == 1 { Config::Thread } else { Config::Process(self.workers) };
            let (builders, threads) =
                config.try_build().map_err(|error| anyhow!("can't start timely: {error}"))?;
            return Ok(Some(Joined { builders, threads, peers: None }));
        }
        let Some(sockets) = connect::connect(self, stop)? else { return Ok(None) };
        let peers = Peers::watch(self, sockets.beats)?;
        report_lost_peers(&peers);
        let hooks = Hooks::default();
        let workers =
            ProcessBuilder::new_typed_vector(self.workers, hooks.refill.clone(), hooks.spill.clone());
        let (builders, threads) =
            initialize_networking_from_sockets(workers, sockets.data, self.process, self.workers, hooks)
                .context("can't start the threads that send and receive")?;
        let builders = builders.into_iter().map(AllocatorBuilder::Tcp).collect();
        Ok(Some(Joined { builders, threads: Box::new(threads), peers: Some(peers) }))
    }
}

/// A thread of timely's that can't send or receive panics. That is no fault of this process: it ends as with
/// any other sign that a peer is gone.
fn report_lost_peers(peers: &Arc<Peers>) {
    let (peers, report) = (Arc::clone(peers), panic::take_hook());
    panic::set_hook(Box::new(move |panic| match lost_peer(panic) {
        Some((process, cause)) => peers.broken(process, &cause),
        None => report(panic),
    }));
}

/// Whom the panic of a thread of timely's is about, by the thread's name, and what it says.
fn lost_peer(panic: &panic::PanicHookInfo<'_>) -> Option<(usize, String)> {
    let thread = std::thread::current();
    let name = thread.name()?;
    let process =
        name.strip_prefix("timely:recv-").or_else(|| name.strip_prefix("timely:send-"))?.parse().ok()?;
    let said = panic.payload();
    let said =
        said.downcast_ref::<String>().map(String::as_str).or_else(|| said.downcast_ref::<&str>().copied());
    Some((process, said.unwrap_or("the thread of its connection has ended").to_owned()))
}
