//! Time, as the engine measures it: names from the wall clock, pace from the monotonic one.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use adtide_dataflows::model::EventTime;

/// A moment on both of the machine's clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The wall clock, in milliseconds since 1970. It may be set, forward or back.
    pub wall: u64,
    /// The monotonic clock.
    pub instant: Instant,
}

impl Moment {
    /// Now.
    pub fn now() -> Moment {
        Moment { wall: u64::try_from(crate::now().0).unwrap_or(0), instant: Instant::now() }
    }

    /// The milliseconds since 1970 that a steady clock which showed this moment shows now.
    pub fn since(self) -> u64 {
        self.at(Instant::now())
    }

    fn at(self, instant: Instant) -> u64 {
        let passed = instant.saturating_duration_since(self.instant).as_millis();
        self.wall.saturating_add(u64::try_from(passed).unwrap_or(u64::MAX))
    }
}

/// A wall clock that never stops or goes back: where the machine's clock is set back, this one proceeds from
/// where it was at the pace of the monotonic clock, until the wall clock has caught up with it.
#[derive(Clone, Copy, Debug)]
pub struct SteadyClock {
    base: Moment,
}

impl SteadyClock {
    /// A clock that shows `now`, or `least` (milliseconds since 1970) if that is later.
    pub fn new(now: Moment, least: u64) -> SteadyClock {
        SteadyClock { base: Moment { wall: now.wall.max(least), ..now } }
    }

    /// What it shows, in milliseconds since 1970.
    pub fn read(&mut self, now: Moment) -> u64 {
        let proceeded = self.base.at(now.instant);
        if now.wall > proceeded {
            self.base = now;
        }
        now.wall.max(proceeded)
    }

    /// What it shows, as a moment from which [`Moment::since`] proceeds.
    pub fn moment(&mut self, now: Moment) -> Moment {
        Moment { wall: self.read(now), ..now }
    }
}

/// The steady clock of this process.
pub fn steady_now() -> EventTime {
    static CLOCK: Mutex<Option<SteadyClock>> = Mutex::new(None);
    let now = Moment::now();
    let mut clock = CLOCK.lock().unwrap_or_else(PoisonError::into_inner);
    let shown = clock.get_or_insert_with(|| SteadyClock::new(now, 0)).read(now);
    EventTime(i64::try_from(shown).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn it_follows_the_wall_clock_forward_and_proceeds_by_itself_when_that_is_set_back() {
        let start = Instant::now();
        let at = |wall, ms| Moment { wall, instant: start + Duration::from_millis(ms) };
        let mut clock = SteadyClock::new(at(10_000, 0), 0);
        assert_eq!(clock.read(at(10_100, 100)), 10_100);
        assert_eq!(clock.read(at(4_200, 200)), 10_200);
        assert_eq!(clock.read(at(4_201, 201)), 10_201);
        assert_eq!(clock.read(at(70_000, 300)), 70_000);
        assert_eq!(clock.read(at(70_099, 400)), 70_100);
    }

    #[test]
    fn it_starts_no_earlier_than_it_is_asked_to() {
        let start = Instant::now();
        let mut clock = SteadyClock::new(Moment { wall: 10_000, instant: start }, 50_000);
        let later = Moment { wall: 10_500, instant: start + Duration::from_millis(500) };
        assert_eq!(clock.read(later), 50_500);
        assert_eq!(clock.moment(later).wall, 50_500);
    }
}
