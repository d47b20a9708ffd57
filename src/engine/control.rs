//! What the workers tell each other beside the data: a small dataflow of its own over all workers of all
//! processes.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use adtide_dataflows::model::Epoch;
use serde::{Deserialize, Serialize};
use timely::dataflow::operators::Input;
use timely::dataflow::operators::probe::{Handle, Probe};
use timely::dataflow::operators::vec::{Broadcast, Map};
use timely::worker::Worker;

use crate::checkpoint::Segment;

/// What a worker has written: all that entered its state since the boundary before.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Saved {
    /// The worker.
    pub worker: usize,
    /// The boundary up to which it is; [`LAST`](adtide_dataflows::LAST) after the last epoch.
    pub boundary: Epoch,
    /// Where it is.
    pub segments: Vec<Segment>,
}

/// What a worker tells all workers, itself among them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Word {
    /// All are to end in order.
    Stop,
    /// All are to end as they are: the sender was asked to stop before it had replayed everything, so no
    /// epoch will complete any more.
    Abandon,
    /// All are to write what entered their state up to this epoch, for a checkpoint.
    Checkpoint(Epoch),
    /// The sender has written what entered its state.
    Saved(Saved),
    /// The sender could not write what entered its state up to this epoch.
    NotSaved(Epoch),
}

/// A worker's mouth and ear. Words are heard a step or two after they were said: they need no frontier to
/// move, so their timestamps stand still. All words of one worker are heard in the order in which it said
/// them.
pub struct Control {
    /// None when this worker has nothing more to say.
    input: Option<timely::dataflow::InputHandle<u64, timely::container::CapacityContainerBuilder<Vec<Word>>>>,
    heard: Rc<RefCell<VecDeque<Word>>>,
    probe: Handle<u64>,
    has_said_stop: bool,
    is_stopping: bool,
    is_abandoning: bool,
}

impl Control {
    /// Builds the dataflow. Every worker has to, at the same point of its life.
    pub fn new(worker: &mut Worker) -> Control {
        let heard = Rc::new(RefCell::new(VecDeque::new()));
        let queue = Rc::clone(&heard);
        let (input, probe) = worker.dataflow::<u64, _, _>(|scope| {
            let (input, words) = scope.new_input::<Vec<Word>>();
            let heard = words.broadcast().map(move |word| queue.borrow_mut().push_back(word));
            (input, heard.probe().0)
        });
        Control {
            input: Some(input),
            heard,
            probe,
            has_said_stop: false,
            is_stopping: false,
            is_abandoning: false,
        }
    }

    /// Tells all workers. After [`Control::close`] nobody listens.
    pub fn say(&mut self, word: Word) {
        if let Some(input) = &mut self.input {
            input.send(word);
            input.flush();
        }
    }

    /// Tells all workers to stop, once.
    pub fn stop(&mut self) {
        if !std::mem::replace(&mut self.has_said_stop, true) {
            self.say(Word::Stop);
        }
    }

    /// The next word that was said.
    pub fn hear(&mut self) -> Option<Word> {
        let word = self.heard.borrow_mut().pop_front();
        self.is_stopping |= matches!(word, Some(Word::Stop));
        self.is_abandoning |= matches!(word, Some(Word::Abandon));
        word
    }

    /// Whether a word to stop has been heard.
    pub fn is_stopping(&self) -> bool {
        self.is_stopping
    }

    /// Whether a worker ends without completing its epochs.
    pub fn is_abandoning(&self) -> bool {
        self.is_abandoning
    }

    /// Says that this worker has nothing more to say. A worker that does not close keeps all from ending.
    pub fn close(&mut self) {
        self.input = None;
    }

    /// Whether all workers have closed, and every word has been delivered here.
    pub fn is_closed(&self) -> bool {
        self.probe.done()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// What each of `workers` hears when each says to stop, some of them more than once.
    fn heard_by(workers: usize) -> Vec<usize> {
        let config = timely::Config::process(workers);
        let guards = timely::execute(config, |worker| {
            let mut control = Control::new(worker);
            (0..=worker.index()).for_each(|_| control.stop());
            let mut heard = Vec::new();
            // Words are heard while everybody may still speak.
            while heard.len() < worker.peers() {
                worker.step_or_park(Some(Duration::from_millis(10)));
                heard.extend(std::iter::from_fn(|| control.hear()));
            }
            assert!(control.is_stopping());
            control.close();
            while !control.is_closed() {
                worker.step_or_park(Some(Duration::from_millis(10)));
            }
            assert!(control.hear().is_none());
            heard.len()
        });
        guards.unwrap().join().into_iter().map(Result::unwrap).collect()
    }

    #[test]
    fn everybody_hears_what_everybody_says_once() {
        for workers in [1, 3] {
            assert_eq!(heard_by(workers), vec![workers; workers]);
        }
    }
}
