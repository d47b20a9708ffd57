//! Chance.

use std::ops::Range;

use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

/// The one source of chance. It draws from the raw bits: the ready-made distributions of `rand` may give
/// other values in another version, and these files must not change with it.
pub(super) struct Dice(Xoshiro256PlusPlus);

impl Dice {
    pub(super) fn new(seed: u64) -> Dice {
        Dice(Xoshiro256PlusPlus::seed_from_u64(seed))
    }

    #[inline]
    pub(super) fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// From 0 to below `limit`, all alike.
    #[inline]
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(limit)) >> 64) as u64
    }

    /// One of the range, all alike.
    #[inline]
    pub(super) fn within(&mut self, range: Range<i64>) -> i64 {
        range.start + self.below((range.end - range.start) as u64) as i64
    }

    /// One of the range, small ones more often: on average at a quarter of it.
    #[inline]
    pub(super) fn skewed(&mut self, range: Range<i64>) -> i64 {
        let reach = 1 + self.below((range.end - range.start) as u64);
        range.start + self.below(reach) as i64
    }

    #[inline]
    pub(super) fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    #[inline]
    pub(super) fn per_million(&mut self, parts: u64) -> bool {
        self.below(1_000_000) < parts
    }
}

/// Draws from a Zipf-like distribution in constant time (Walker's alias method): the weight of the n-th is
/// 1 / (n + flatness), in integers.
pub(super) struct Zipf(Vec<Cell>);

/// Keeps its own index for `own` of 2^32 draws and gives the others to `other`.
#[derive(Clone, Copy)]
struct Cell {
    own: u32,
    other: u32,
}

impl Zipf {
    pub(super) fn new(number: usize, flatness: usize) -> Zipf {
        let weights: Vec<u128> = (1..=number).map(|rank| (1 << 40) / (rank + flatness) as u128).collect();
        let total: u128 = weights.iter().sum();
        // Scaled, so that `total` is an average one.
        let mut rest: Vec<u128> = weights.iter().map(|weight| weight * number as u128).collect();
        let mut cells: Vec<Cell> =
            (0..number as u32).map(|index| Cell { own: u32::MAX, other: index }).collect();
        let (mut poor, mut rich): (Vec<usize>, Vec<usize>) =
            (0..number).partition(|index| rest[*index] < total);
        while let (Some(low), Some(high)) = (poor.pop(), rich.pop()) {
            cells[low] = Cell { own: ((rest[low] << 32) / total) as u32, other: high as u32 };
            rest[high] -= total - rest[low];
            if rest[high] < total { poor.push(high) } else { rich.push(high) }
        }
        Zipf(cells)
    }

    #[inline]
    pub(super) fn draw(&self, dice: &mut Dice) -> u32 {
        let bits = dice.bits();
        let index = (((bits >> 32) * self.0.len() as u64) >> 32) as usize;
        let cell = self.0[index];
        if (bits as u32) < cell.own { index as u32 } else { cell.other }
    }
}
