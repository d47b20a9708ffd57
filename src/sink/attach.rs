//! From the dataflow to a sink and back.

use std::collections::VecDeque;

use adtide_dataflows::RESTORED;
use adtide_dataflows::model::Epoch;
use adtide_dataflows::operators::Stash;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::operator::Operator;
use timely::scheduling::SyncActivator;

use super::{Change, Commit, Progress};

/// Carries out a sink's commits beside the dataflow, one at a time.
pub trait Committer {
    /// The last epoch that the sink had committed when it was opened.
    fn committed(&self) -> Option<Epoch>;

    /// Begins a commit. The one before is done.
    fn start(&mut self, commit: Commit);

    /// Whether the commit that was begun is done.
    fn is_done(&mut self) -> bool;
}

/// Opens a committer, which wakes the dataflow by the activator when a commit is done.
pub type Opener = Box<dyn FnOnce(SyncActivator) -> Box<dyn Committer>>;

/// Sends the changes to worker `owner` and there commits them to the sink, epoch by epoch; epochs that
/// complete while a commit is under way go together into the next.
///
/// A sink that had got somewhere before takes nothing of the epochs up to there: a replay brings them once
/// more. With `rewrites_rankings` it takes the rankings that stand by then, with its first commit.
///
/// The stream that comes back is empty; an epoch is in its frontier until it is committed. `sink` is there on
/// the owner only.
pub fn attach<'scope>(
    changes: StreamVec<'scope, Epoch, Change>,
    owner: usize,
    sink: Option<Opener>,
    rewrites_rankings: bool,
) -> StreamVec<'scope, Epoch, ()> {
    let scope = changes.scope();
    changes.unary_frontier::<CapacityContainerBuilder<Vec<()>>, _, _, _>(
        Exchange::new(move |_| owner as u64),
        "Sink",
        move |_capability, info| {
            let activator = scope.worker().sync_activator_for(info.address.to_vec());
            let mut writer = sink.map(|open| Writer::new(open(activator), rewrites_rankings));
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

/// The dataflow's end of a sink.
struct Writer {
    committer: Box<dyn Committer>,
    waiting: VecDeque<(Capability<Epoch>, Vec<Change>)>,
    /// The epochs of the commit that is under way.
    writing: Vec<Capability<Epoch>>,
    progress: Progress,
    /// The last epoch that the sink had committed when it was opened.
    committed: Option<Epoch>,
    /// Of the epochs up to there: changes of rankings that the sink takes all the same; None if there are
    /// none.
    rankings: Option<Vec<Vec<Change>>>,
}

impl Writer {
    fn new(committer: Box<dyn Committer>, rewrites_rankings: bool) -> Writer {
        // Restored rows are in every sink that has committed anything. Committing them again would store RESTORED
        // as its epoch, and a replay from the start would bring it everything once more. A sink that is new in
        // the middle of a run takes no half of them.
        let committed = committer.committed().map(|committed| committed.max(RESTORED));
        let committed = committed.or(rewrites_rankings.then_some(RESTORED));
        Writer {
            committer,
            waiting: VecDeque::new(),
            writing: Vec::new(),
            progress: Progress::default(),
            committed,
            rankings: rewrites_rankings.then(Vec::new),
        }
    }

    /// Takes note of a finished commit and starts the next.
    fn step(&mut self) {
        if !self.writing.is_empty() {
            if !self.committer.is_done() {
                return;
            }
            self.writing.clear();
        }
        let mut commit = Commit::default();
        for (capability, mut changes) in self.waiting.drain(..) {
            self.progress.epoch = *capability.time();
            changes.retain(|change| !self.progress.note(change));
            if self.committed.is_none_or(|committed| self.progress.epoch > committed) {
                commit.epochs.extend(self.rankings.take().into_iter().flatten());
                commit.epochs.push(changes);
                self.writing.push(capability);
            } else if let Some(rankings) = &mut self.rankings {
                changes.retain(|change| matches!(change, Change::Ranking(..)));
                rankings.push(changes);
            }
        }
        if !self.writing.is_empty() {
            commit.progress = self.progress.clone();
            self.committer.start(commit);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use adtide_dataflows::operators::Watermarks;
    use timely::dataflow::operators::Input;

    use super::*;

    /// Takes every commit at once.
    struct Taken {
        committed: Option<Epoch>,
        commits: Rc<RefCell<Vec<(Epoch, usize)>>>,
    }

    impl Committer for Taken {
        fn committed(&self) -> Option<Epoch> {
            self.committed
        }

        fn start(&mut self, commit: Commit) {
            self.commits.borrow_mut().push((commit.progress.epoch, commit.epochs.len()));
        }

        fn is_done(&mut self) -> bool {
            true
        }
    }

    /// The epochs of the commits of a sink that had committed this before, and how many epochs each is of.
    fn commits(committed: Option<Epoch>, rewrites_rankings: bool) -> Vec<(Epoch, usize)> {
        timely::execute_directly(move |worker| {
            let commits = Rc::default();
            let taken = Taken { committed, commits: Rc::clone(&commits) };
            let opener: Opener = Box::new(move |_| Box::new(taken));
            let mut input = worker.dataflow::<Epoch, _, _>(|scope| {
                let (input, changes) = scope.new_input::<Vec<Change>>();
                attach(changes, 0, Some(opener), rewrites_rankings);
                input
            });
            for epoch in [RESTORED, RESTORED + 7] {
                input.advance_to(epoch);
                input.send(Change::Watermarks(Watermarks::MIN));
                input.advance_to(epoch + 1);
                (0..10).for_each(|_| _ = worker.step());
            }
            commits.take()
        })
    }

    #[test]
    fn what_a_checkpoint_gives_back_is_no_progress_of_a_sink_that_has_some() {
        assert_eq!(commits(Some(0), false), [(RESTORED + 7, 1)], "it was behind in what it stores");
        assert_eq!(commits(Some(RESTORED + 7), false), []);
        assert_eq!(
            commits(None, true),
            [(RESTORED + 7, 2)],
            "with the rankings that a checkpoint gives back"
        );
        assert_eq!(commits(None, false), [(RESTORED, 1), (RESTORED + 7, 1)]);
    }
}
