//! Connections to the other processes. Each process connects to those before it and is connected to by those
//! behind it, twice: for data and for heartbeats. Both sides say first who they are.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail, ensure};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::Cluster;

/// How long to wait before the next try.
const PAUSE: Duration = Duration::from_millis(50);

/// How long a try may take: an address that does not answer must not keep the others waiting.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often it is said who is missing.
const REPORT: Duration = Duration::from_secs(5);

/// No greeting is longer.
const LIMIT: usize = 1024;

/// Connections to all other processes.
pub struct Sockets {
    /// For data, by process; none to this one.
    pub data: Vec<Option<TcpStream>>,
    /// For heartbeats.
    pub beats: Vec<(usize, TcpStream)>,
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Purpose {
    Data,
    Beats,
}

/// The first line on a connection, in both directions.
#[derive(Debug, Serialize, Deserialize)]
struct Greeting {
    adtide: String,
    process: usize,
    processes: usize,
    workers: usize,
    purpose: Purpose,
}

/// Connections that are not complete yet.
struct Connecting<'a> {
    cluster: &'a Cluster,
    data: Vec<Option<TcpStream>>,
    beats: Vec<Option<TcpStream>>,
    /// Why a process could not be reached last.
    trouble: Vec<String>,
}

/// Waits until all processes are connected, saying now and then which are missing. None if `stop` is set
/// before that.
pub fn connect(cluster: &Cluster, stop: &AtomicBool) -> anyhow::Result<Option<Sockets>> {
    let (process, processes) = (cluster.process, cluster.addresses.len());
    let address = &cluster.addresses[process];
    let cannot = || {
        format!(
            "can't listen at {address}, which is the address of process {process}; check -p and the hostfile"
        )
    };
    let listener = TcpListener::bind(address).with_context(cannot)?;
    listener.set_nonblocking(true).with_context(cannot)?;
    let none = || (0..processes).map(|_| None).collect();
    let mut connecting = Connecting {
        cluster,
        data: none(),
        beats: none(),
        trouble: vec!["it has not connected".to_owned(); processes],
    };
    let mut next_report = Instant::now() + PATIENCE;
    while !connecting.is_complete() {
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        connecting.drop_closed()?;
        let has_accepted = connecting.accept(&listener)?;
        connecting.reach()?;
        if Instant::now() >= next_report {
            next_report = Instant::now() + REPORT;
            connecting.report();
        }
        if !has_accepted {
            std::thread::sleep(PAUSE);
        }
    }
    info!(process, processes, "all processes are connected");
    for stream in connecting.data.iter().flatten() {
        stream.set_read_timeout(None).context("can't set up a connection")?;
    }
    let beats = connecting.beats.into_iter().enumerate();
    let beats = beats.filter_map(|(process, stream)| Some((process, stream?))).collect();
    Ok(Some(Sockets { data: connecting.data, beats }))
}

impl Connecting<'_> {
    fn is_complete(&self) -> bool {
        self.missing().next().is_none()
    }

    fn missing(&self) -> impl Iterator<Item = usize> {
        let is_there = |process: &usize| self.data[*process].is_some() && self.beats[*process].is_some();
        (0..self.data.len()).filter(move |process| *process != self.cluster.process && !is_there(process))
    }

    fn report(&self) {
        for process in self.missing() {
            warn!(
                "waiting for process {process} ({}): {}",
                self.cluster.addresses[process], self.trouble[process]
            );
        }
    }

    /// Forgets connections to processes that have ended while others are still missing: they may be started
    /// again.
    fn drop_closed(&mut self) -> anyhow::Result<()> {
        for place in self.data.iter_mut().chain(&mut self.beats) {
            if let Some(stream) = place
                && is_closed(stream).context("can't look at a connection")?
            {
                *place = None;
            }
        }
        Ok(())
    }

    /// Takes a connection that another process has opened; false if there is none.
    fn accept(&mut self, listener: &TcpListener) -> anyhow::Result<bool> {
        let (stream, from) = match listener.accept() {
            Ok(accepted) => accepted,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => {
                // The connection was gone before it was taken, or there are too many open files; both may
                // pass.
                warn!("can't take a connection: {error}");
                return Ok(false);
            }
        };
        match self.answer(&stream) {
            Ok(greeting) => {
                self.check(&greeting)?;
                ensure!(
                    greeting.process > self.cluster.process && greeting.process < self.data.len(),
                    "{from} says that it is process {} and connects to process {}; check its -p and hostfile",
                    greeting.process,
                    self.cluster.process
                );
                self.keep(greeting.process, greeting.purpose, stream);
            }
            Err(error) => warn!("{from} has connected and is no process of this cluster: {error:#}"),
        }
        Ok(true)
    }

    fn answer(&self, stream: &TcpStream) -> anyhow::Result<Greeting> {
        prepare(stream)?;
        let greeting = read(stream)?;
        write(stream, &self.greeting(greeting.purpose))?;
        Ok(greeting)
    }

    /// Tries once to connect to each process that is before this one and not connected yet.
    fn reach(&mut self) -> anyhow::Result<()> {
        let missing: Vec<_> = self.missing().take_while(|process| *process < self.cluster.process).collect();
        for process in missing {
            for purpose in [Purpose::Data, Purpose::Beats] {
                if self.place(process, purpose).is_some() {
                    continue;
                }
                match self.open(process, purpose) {
                    Ok((stream, greeting)) => {
                        self.check(&greeting)?;
                        let address = &self.cluster.addresses[process];
                        ensure!(
                            greeting.process == process,
                            "process {} is at {address}, and not process {process}; check -p and the hostfiles",
                            greeting.process
                        );
                        self.keep(process, purpose, stream);
                    }
                    Err(error) => {
                        self.trouble[process] = format!("{error:#}");
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    fn open(&self, process: usize, purpose: Purpose) -> anyhow::Result<(TcpStream, Greeting)> {
        let stream = connect_to(&self.cluster.addresses[process])?;
        prepare(&stream)?;
        write(&stream, &self.greeting(purpose))?;
        let greeting = read(&stream)?;
        Ok((stream, greeting))
    }

    /// A later connection replaces an earlier one, which is then of a process that was cut off and started
    /// again.
    fn keep(&mut self, process: usize, purpose: Purpose, stream: TcpStream) {
        if self.place(process, purpose).replace(stream).is_some() {
            warn!(
                "process {process} has connected again: it was started again, or two were started with -p {process}"
            );
        }
    }

    fn place(&mut self, process: usize, purpose: Purpose) -> &mut Option<TcpStream> {
        match purpose {
            Purpose::Data => &mut self.data[process],
            Purpose::Beats => &mut self.beats[process],
        }
    }

    fn greeting(&self, purpose: Purpose) -> Greeting {
        let Cluster { process, workers, addresses, .. } = self.cluster;
        let adtide = env!("CARGO_PKG_VERSION").to_owned();
        Greeting { adtide, process: *process, processes: addresses.len(), workers: *workers, purpose }
    }

    /// All must be alike.
    fn check(&self, other: &Greeting) -> anyhow::Result<()> {
        let own = self.greeting(other.purpose);
        let pairs = [
            ("adtide", &own.adtide, &other.adtide),
            ("-n", &own.processes.to_string(), &other.processes.to_string()),
            ("-w", &own.workers.to_string(), &other.workers.to_string()),
        ];
        for (what, own, others) in pairs {
            ensure!(
                own == others,
                "process {} runs with {what} {others}, and this one with {what} {own}; start all processes alike",
                other.process
            );
        }
        Ok(())
    }
}

fn connect_to(address: &str) -> anyhow::Result<TcpStream> {
    let mut last = anyhow!("the name has no address");
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error.into(),
        }
    }
    Err(last)
}

fn is_closed(stream: &TcpStream) -> std::io::Result<bool> {
    stream.set_nonblocking(true)?;
    let closed = match stream.peek(&mut [0]) {
        Ok(length) => length == 0,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    };
    stream.set_nonblocking(false)?;
    Ok(closed)
}

fn prepare(stream: &TcpStream) -> anyhow::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(())
}

fn write(mut stream: &TcpStream, greeting: &Greeting) -> anyhow::Result<()> {
    let mut line = serde_json::to_vec(greeting)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    Ok(())
}

/// Reads one line, and nothing of what comes behind it.
fn read(mut stream: &TcpStream) -> anyhow::Result<Greeting> {
    let mut line = Vec::new();
    let mut byte = [0];
    while line.len() < LIMIT {
        match stream.read(&mut byte) {
            Ok(0) => bail!("it has closed the connection"),
            Ok(_) if byte[0] == b'\n' => {
                return serde_json::from_slice(&line).context("it does not greet as adtide does");
            }
            Ok(_) => line.push(byte[0]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => bail!("it does not answer"),
            Err(error) => return Err(error.into()),
        }
    }
    bail!("it does not greet as adtide does")
}
