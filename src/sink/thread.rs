//! A sink on a thread of its own.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use adtide_dataflows::model::Epoch;
use timely::scheduling::SyncActivator;

use super::{Commit, Committer, Opener, Sink, watch};
use crate::fatal;

/// How often an idle sink is ticked.
const TICK: Duration = Duration::from_secs(1);

/// Gives a sink a thread of its own, so that a slow server never blocks the dataflow.
pub fn on_thread(sink: Box<dyn Sink>) -> Opener {
    Box::new(move |activator| Box::new(SinkThread::start(sink, activator)))
}

struct SinkThread {
    committed: Option<Epoch>,
    thread: Option<JoinHandle<()>>,
    commits: Option<SyncSender<Commit>>,
    done: Receiver<()>,
}

impl SinkThread {
    fn start(mut sink: Box<dyn Sink>, activator: SyncActivator) -> SinkThread {
        let (commits, incoming) = sync_channel::<Commit>(1);
        let (acknowledge, done) = sync_channel(1);
        let name = sink.name();
        watch::opened(&*sink);
        let committed = sink.stored().map(|stored| stored.progress.epoch);
        let run = move || {
            loop {
                let commit = match incoming.recv_timeout(TICK) {
                    Ok(commit) => commit,
                    Err(RecvTimeoutError::Disconnected) => break,
                    Err(RecvTimeoutError::Timeout) => {
                        if let Err(error) = sink.tick() {
                            fatal(&error.context(format!("the sink {name} can't go on")));
                        }
                        continue;
                    }
                };
                if let Err(error) = watch::commit(&mut *sink, commit) {
                    fatal(&error.context(format!("the sink {name} can't go on")));
                }
                // The dataflow may be gone already when the process is ending.
                let _ = acknowledge.send(());
                let _ = activator.activate();
            }
        };
        let thread = std::thread::Builder::new().name(format!("sink:{name}")).spawn(run);
        let thread =
            thread.unwrap_or_else(|error| fatal(&anyhow::Error::new(error).context("can't start a thread")));
        SinkThread { committed, thread: Some(thread), commits: Some(commits), done }
    }
}

impl Committer for SinkThread {
    fn committed(&self) -> Option<Epoch> {
        self.committed
    }

    fn start(&mut self, commit: Commit) {
        if let Some(commits) = &self.commits {
            // The thread is waiting, so this does not block; if it has died, the next look says so.
            let _ = commits.send(commit);
        }
    }

    fn is_done(&mut self) -> bool {
        match self.done.try_recv() {
            Ok(()) => true,
            Err(TryRecvError::Empty) => false,
            Err(TryRecvError::Disconnected) => fatal(&anyhow::anyhow!("a sink's thread has died")),
        }
    }
}

impl Drop for SinkThread {
    /// Waits for the thread, so that the sink is closed in order when the dataflow is done.
    fn drop(&mut self) {
        self.commits = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
