//! When a partition was idle and became active again, or was found after the others.
//!
//! It follows the watermarks that they have reached: what they have closed is closed for it too. Which these
//! were is not in its records, so it is remembered: a replay follows the same ones from the same record on,
//! and comes to the same.
//!
//! What is remembered is little. A wake by which no record was late has decided nothing, and is forgotten at
//! the next one.

use crate::operators::{Wake, Watermarks};

/// How many wakes are remembered of a partition. The oldest are dropped: only a replay from before them does
/// without.
const MOST: usize = 256;

/// A partition's wakes, and how far it has followed them.
#[derive(Clone, Debug, Default)]
pub struct Wakes {
    /// Those that have made a record late, in order.
    decisive: Vec<Wake>,
    /// How many of them it has followed: in a replay some are ahead.
    followed: usize,
    /// The last one, while no record was late since.
    open: Option<Wake>,
}

impl Wakes {
    /// For a replay of what a run had read that remembered these.
    pub fn again(decisive: &[Wake]) -> Wakes {
        Wakes { decisive: decisive.to_vec(), ..Wakes::default() }
    }

    /// Those that have made a record late, in order.
    pub fn decisive(&self) -> &[Wake] {
        &self.decisive
    }

    /// Takes note of one that is new.
    pub fn add(&mut self, wake: Wake) {
        self.open = Some(wake);
    }

    /// What is to be followed from a record on, of what the run before has followed.
    #[inline]
    pub fn next(&mut self, offset: u64) -> Option<Watermarks> {
        let wake = self.decisive.get(self.followed).filter(|wake| wake.offset <= offset)?;
        self.followed += 1;
        Some(wake.floor)
    }

    /// Takes note that a record was late.
    pub fn decide(&mut self) {
        let Some(wake) = self.open.take() else { return };
        if self.decisive.len() == MOST {
            self.decisive.remove(0);
        }
        self.decisive.push(wake);
        self.followed = self.decisive.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::EventTime;

    fn wake(offset: u64) -> Wake {
        Wake { offset, floor: Watermarks::all(EventTime(offset as i64)) }
    }

    #[test]
    fn those_that_made_a_record_late_are_followed_again_each_at_its_record() {
        let mut wakes = Wakes::default();
        for (offset, is_late) in [(0, true), (3, false), (5, true), (9, false)] {
            wakes.add(wake(offset));
            if is_late {
                wakes.decide();
                wakes.decide();
            }
        }
        assert_eq!(wakes.decisive(), [wake(0), wake(5)]);
        let mut again = Wakes::again(wakes.decisive());
        let followed = [0, 4, 7].map(|offset| again.next(offset).map(|floor| floor.performance.0));
        assert_eq!(followed, [Some(0), None, Some(5)]);
        assert_eq!(again.next(10), None);
    }

    #[test]
    fn they_are_bounded() {
        let mut wakes = Wakes::default();
        for offset in 0..1000 {
            wakes.add(wake(offset));
            wakes.decide();
        }
        assert_eq!(wakes.decisive().len(), MOST);
        assert_eq!(wakes.decisive().last(), Some(&wake(999)));
        assert_eq!(wakes.next(u64::MAX), None, "followed already");
    }
}
