//! When things happen.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use super::GeneratorConfig;

/// How much goes on at each full hour of the day; in between it is interpolated.
const DAY: [u64; 24] =
    [34, 24, 18, 15, 15, 19, 30, 46, 60, 70, 76, 82, 88, 86, 82, 80, 82, 88, 96, 104, 108, 98, 76, 52];

/// Nothing more is due.
pub(super) const NEVER: i64 = i64::MAX;

/// Spreads a number of moments over the span, along the daily curve, in ascending order and exactly as many.
pub(super) struct Schedule {
    end: i64,
    number: u64,
    daily_curve: bool,
    /// The weight of the whole span, and that of the seconds up to and including the current one.
    whole: u64,
    reached: u64,
    /// The current second, and how many of its moments have been taken.
    second: i64,
    quota: u64,
    taken: u64,
}

impl Schedule {
    pub(super) fn new(config: &GeneratorConfig, number: u64) -> Schedule {
        let (start, end) = (config.start.0, config.start.0 + config.span_ms);
        let mut schedule = Schedule {
            end,
            number,
            daily_curve: config.daily_curve,
            whole: 0,
            reached: 0,
            second: start - 1000,
            quota: 0,
            taken: 0,
        };
        schedule.whole = (start..end).step_by(1000).map(|second| schedule.weight(second)).sum();
        schedule.seek();
        schedule
    }

    /// The next moment.
    #[inline]
    pub(super) fn due(&self) -> i64 {
        if self.second >= self.end {
            return NEVER;
        }
        let width = (self.end - self.second).min(1000) as u64;
        self.second + (width * self.taken / self.quota) as i64
    }

    /// Takes the next moment.
    #[inline]
    pub(super) fn advance(&mut self) {
        self.taken += 1;
        if self.taken == self.quota {
            self.seek();
        }
    }

    /// Goes to the next second that has any moments.
    fn seek(&mut self) {
        let before = self.share();
        self.taken = 0;
        self.quota = 0;
        while self.quota == 0 && self.second < self.end {
            self.second += 1000;
            if self.second < self.end {
                self.reached += self.weight(self.second);
                self.quota = self.share() - before;
            }
        }
    }

    fn weight(&self, second: i64) -> u64 {
        if self.daily_curve { weight(second) } else { 1 }
    }

    /// How many moments there are up to the end of the current second.
    fn share(&self) -> u64 {
        (u128::from(self.number) * u128::from(self.reached) / u128::from(self.whole)) as u64
    }
}

fn weight(time: i64) -> u64 {
    let second = (time / 1000).rem_euclid(86_400) as u64;
    let (hour, past) = ((second / 3600) as usize, second % 3600);
    DAY[hour] * (3600 - past) + DAY[(hour + 1) % 24] * past
}

/// What is to happen later, in order of time; what is due at the same time, in order of insertion.
pub(super) struct Agenda<T> {
    entries: BinaryHeap<Reverse<Entry<T>>>,
    inserted: u64,
}

struct Entry<T> {
    due: i64,
    number: u64,
    what: T,
}

impl<T> Agenda<T> {
    pub(super) fn new() -> Self {
        Agenda { entries: BinaryHeap::new(), inserted: 0 }
    }

    pub(super) fn push(&mut self, due: i64, what: T) {
        self.entries.push(Reverse(Entry { due, number: self.inserted, what }));
        self.inserted += 1;
    }

    #[inline]
    pub(super) fn due(&self) -> i64 {
        self.entries.peek().map_or(NEVER, |entry| entry.0.due)
    }

    pub(super) fn pop(&mut self) -> Option<T> {
        self.entries.pop().map(|entry| entry.0.what)
    }
}

impl<T> Ord for Entry<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.due, self.number).cmp(&(other.due, other.number))
    }
}

impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<T> Eq for Entry<T> {}
