//! The other processes: heartbeats to and from them, and the end of this one when one of them is gone.
//!
//! Heartbeats have connections and threads of their own. In a dataflow only workers could send them, and a
//! worker is silent for seconds while it restores a large state or does a large epoch. So a beat says that a
//! process and the network to it are alive; whether its workers get anywhere is for the watchdog to find.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, anyhow};

use super::Cluster;
use crate::engine::waits::waits_outside;

/// The exit code of a process that has lost another: EX_TEMPFAIL, which asks for a new try. The supervisor
/// starts all processes again.
pub const PEER_LOST: i32 = 75;

/// How often there is a beat, unless the timeout is so short that there has to be one more often.
const INTERVAL: Duration = Duration::from_millis(500);

/// What is said on a connection for heartbeats, in lines: that a process lives,
const BEAT: &str = "alive";
/// that it lives and waits for somebody outside of the cluster, so that no frontier may move,
const WAITS: &str = "waits";
/// that it ends in order,
const BYE: &str = "bye";
/// or that it ends because it has lost another: `lost PROCESS HOW`. So each names the first that went, and
/// not the one that went because of it.
const LOST: &str = "lost ";

/// How long a broken connection for data waits for what the heartbeat's has to say of the same end.
const GRACE: Duration = Duration::from_millis(500);

/// The other processes of the cluster.
#[derive(Debug)]
pub struct Peers {
    process: usize,
    addresses: Vec<String>,
    timeout: Duration,
    beats: Vec<TcpStream>,
    /// Those that have ended in order.
    have_left: Vec<AtomicBool>,
    /// Those that wait for somebody outside of the cluster.
    are_waiting: Vec<AtomicBool>,
    /// Whether this one ends in order.
    is_leaving: AtomicBool,
    /// Whether a loss has been told.
    is_told: AtomicBool,
}

impl Peers {
    /// Sends heartbeats on these connections, one for each other process, and listens to theirs.
    pub fn watch(cluster: &Cluster, beats: Vec<(usize, TcpStream)>) -> anyhow::Result<Arc<Peers>> {
        let streams = beats.iter().map(|(_, stream)| stream.try_clone()).collect::<Result<_, _>>();
        let peers = Arc::new(Peers {
            process: cluster.process,
            addresses: cluster.addresses.clone(),
            timeout: cluster.heartbeat_timeout,
            beats: streams.context("can't share a connection")?,
            have_left: cluster.addresses.iter().map(|_| AtomicBool::new(false)).collect(),
            are_waiting: cluster.addresses.iter().map(|_| AtomicBool::new(false)).collect(),
            is_leaving: AtomicBool::new(false),
            is_told: AtomicBool::new(false),
        });
        let this = Arc::clone(&peers);
        spawn("heartbeat", move || this.beat())?;
        for (process, stream) in beats {
            stream.set_read_timeout(Some(peers.timeout)).context("can't set up a connection")?;
            let this = Arc::clone(&peers);
            spawn(&format!("heartbeat-{process}"), move || this.listen(process, stream))?;
        }
        Ok(peers)
    }

    fn beat(&self) {
        let interval = INTERVAL.min(self.timeout / 4);
        while !self.is_leaving.load(Ordering::Relaxed) {
            self.send(if waits_outside() { WAITS } else { BEAT });
            std::thread::sleep(interval);
        }
    }

    fn send(&self, word: &str) {
        let line = format!("{word}\n");
        for mut stream in &self.beats {
            // Who listens to the same peer finds out what is wrong. It can't block: a peer is dead long
            // before the buffer is full.
            let _ = stream.write_all(line.as_bytes());
        }
    }

    fn listen(&self, process: usize, stream: TcpStream) {
        let mut lines = BufReader::new(stream);
        let mut line = String::new();
        loop {
            line.clear();
            match lines.read_line(&mut line) {
                Ok(0) => return self.lost(process, "has ended"),
                Ok(_) => match line.trim_end() {
                    word @ (BEAT | WAITS) => {
                        self.are_waiting[process].store(word == WAITS, Ordering::Relaxed)
                    }
                    BYE => return self.have_left[process].store(true, Ordering::Relaxed),
                    word => return self.heard_of_a_loss(process, word),
                },
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    let timeout = self.timeout;
                    let silence = format!(
                        "has been silent for {timeout:?}, so it hangs or the network is cut (the key is cluster.heartbeat_timeout)"
                    );
                    return self.lost(process, &silence);
                }
                Err(error) => return self.lost(process, &format!("has ended or is cut off: {error}")),
            }
        }
    }

    /// Whether another process waits for somebody outside of the cluster, such as a server that takes
    /// results.
    pub fn is_any_waiting(&self) -> bool {
        self.are_waiting.iter().any(|waits| waits.load(Ordering::Relaxed))
    }

    /// `process` ends, for a reason of its own.
    fn heard_of_a_loss(&self, process: usize, word: &str) {
        let of = word.strip_prefix(LOST).and_then(|loss| loss.split_once(' '));
        match of.and_then(|(lost, how)| Some((lost.parse::<usize>().ok()?, how))) {
            Some((lost, _)) if lost == self.process => self.lost(process, "has taken this one for dead"),
            Some((lost, how)) => self.lost(lost, how),
            None => self.lost(process, &format!("says what this one does not understand, {word:?}")),
        }
    }

    /// Says to the others that this process ends in order.
    pub fn leave(&self) {
        self.is_leaving.store(true, Ordering::Relaxed);
        self.send(BYE);
    }

    /// The connection for data to a process is broken. If that one has ended in order, everybody has been
    /// told to stop before anything new was read, and so does this one.
    pub fn broken(&self, process: usize, cause: &str) -> ! {
        std::thread::sleep(GRACE);
        if self.have_left.get(process).is_some_and(|left| left.load(Ordering::Relaxed)) {
            exit(0);
        }
        self.lost(process, &format!("has ended or is cut off: {cause}"));
        // Another thread is ending this process. The panic must not go on.
        loop {
            std::thread::park();
        }
    }

    /// Ends this process, with one message however many threads notice.
    fn lost(&self, process: usize, how: &str) {
        if self.is_leaving.load(Ordering::Relaxed) || self.is_told.swap(true, Ordering::Relaxed) {
            return;
        }
        let address = self.addresses.get(process).map_or("an unknown address", String::as_str);
        self.send(&format!("{LOST}{process} {how}"));
        crate::complain(&anyhow!(
            "process {process} ({address}) {how}; all processes have to be started again, as their supervisor does on exit \
             code {PEER_LOST}"
        ));
        exit(PEER_LOST);
    }
}

/// Ends the process at once. The destructors that `std::process::exit` runs would meet threads of librdkafka
/// and OpenSSL that go on; nothing is left to them, as every sink may be cut off anywhere.
fn exit(code: i32) -> ! {
    signal_hook::low_level::exit(code)
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> anyhow::Result<()> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work).context("can't start a thread")?;
    Ok(())
}
