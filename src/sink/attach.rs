//! From the dataflow to a sink's thread and back.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use adtide_dataflows::model::Epoch;
use adtide_dataflows::operators::Stash;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::operator::Operator;
use timely::scheduling::SyncActivator;

use super::{Change, Commit, Progress, Sink, watch};
use crate::fatal;

/// How often an idle sink is ticked.
const TICK: Duration = Duration::from_secs(1);

/// Sends the changes to worker `owner` and there commits them to the sink, epoch by epoch; epochs that complete while
/// a commit is under way go together into the next.
///
/// A sink that had got somewhere before takes nothing of the epochs up to there: a replay brings them once more.
///
/// The stream that comes back is empty; an epoch is in its frontier until it is committed. `sink` is there on the owner
/// only.
pub fn attach<'scope>(
    changes: StreamVec<'scope, Epoch, Change>,
    owner: usize,
    sink: Option<Box<dyn Sink>>,
) -> StreamVec<'scope, Epoch, ()> {
    let scope = changes.scope();
    changes.unary_frontier::<CapacityContainerBuilder<Vec<()>>, _, _, _>(
        Exchange::new(move |_| owner as u64),
        "Sink",
        move |_capability, info| {
            let activator = scope.worker().sync_activator_for(info.address.to_vec());
            let mut writer = sink.map(|sink| Writer::start(sink, activator));
            let mut stash = Stash::default();
            move |(input, frontier), _output| {
                input.for_each(|capability, changes| stash.append(&capability, changes));
                let Some(writer) = &mut writer else { return };
                while let Some((capability, changes)) = stash.next_complete(&[frontier]) {
                    writer.waiting.push_back((capability, changes));
                }
                writer.step();
            }
        },
    )
}

/// The dataflow's end of a sink's thread.
struct Writer {
    waiting: VecDeque<(Capability<Epoch>, Vec<Change>)>,
    /// The epochs of the commit that is under way.
    writing: Vec<Capability<Epoch>>,
    progress: Progress,
    /// The last epoch that the sink had committed when it was opened.
    committed: Option<Epoch>,
    thread: Option<JoinHandle<()>>,
    commits: Option<SyncSender<Commit>>,
    done: Receiver<()>,
}

impl Writer {
    fn start(mut sink: Box<dyn Sink>, activator: SyncActivator) -> Writer {
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
        let thread = thread.unwrap_or_else(|error| fatal(&anyhow::Error::new(error).context("can't start a thread")));
        Writer {
            waiting: VecDeque::new(),
            writing: Vec::new(),
            progress: Progress::default(),
            committed,
            thread: Some(thread),
            commits: Some(commits),
            done,
        }
    }

    /// Takes note of a finished commit and starts the next.
    fn step(&mut self) {
        if !self.writing.is_empty() {
            match self.done.try_recv() {
                Ok(()) => self.writing.clear(),
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => fatal(&anyhow::anyhow!("a sink's thread has died")),
            }
        }
        let mut commit = Commit::default();
        for (capability, mut changes) in self.waiting.drain(..) {
            self.progress.epoch = *capability.time();
            changes.retain(|change| !self.progress.note(change));
            if self.committed.is_none_or(|committed| self.progress.epoch > committed) {
                commit.epochs.push(changes);
                self.writing.push(capability);
            }
        }
        if self.writing.is_empty() {
            return;
        }
        commit.progress = self.progress.clone();
        if let Some(commits) = &self.commits {
            // The thread is waiting, so this does not block; if it has died, the next step says so.
            let _ = commits.send(commit);
        }
    }
}

impl Progress {
    /// Takes in a piece of progress; false for any other change.
    fn note(&mut self, change: &Change) -> bool {
        match change {
            Change::Report(report) => {
                self.partitions.insert((report.topic, report.partition), *report);
            }
            Change::Watermarks(watermarks) => self.watermarks = Some(*watermarks),
            _ => return false,
        }
        true
    }
}

impl Drop for Writer {
    /// Waits for the thread, so that the sink is closed in order when the dataflow is done.
    fn drop(&mut self) {
        self.commits = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
