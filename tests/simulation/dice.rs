//! Chance: all of a history comes from its seed.

use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

pub struct Dice(Xoshiro256PlusPlus);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(Xoshiro256PlusPlus::seed_from_u64(seed))
    }

    /// Dice that fall otherwise than these, for somebody else.
    pub fn split(&mut self) -> Dice {
        Dice::new(self.0.next_u64())
    }

    /// From 0 to below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        ((u128::from(self.0.next_u64()) * limit as u128) >> 64) as usize
    }

    /// Milliseconds, from `least` to below `limit`.
    pub fn ms(&mut self, least: i64, limit: i64) -> i64 {
        least + self.below((limit - least) as usize) as i64
    }

    pub fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub fn one_of<T: Clone>(&mut self, values: &[T]) -> T {
        values[self.below(values.len())].clone()
    }

    /// One of the values, the first more often than all others.
    pub fn mostly_first<T: Clone>(&mut self, values: &[T]) -> T {
        if self.percent(60) { values[0].clone() } else { self.one_of(values) }
    }

    pub fn shuffle<T>(&mut self, values: &mut [T]) {
        for at in (1..values.len()).rev() {
            values.swap(at, self.below(at + 1));
        }
    }
}
