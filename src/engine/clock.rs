//! The cutting of epochs.

use std::time::Duration;

use adtide_dataflows::model::Epoch;

use super::EpochConfig;

/// Says when an epoch ends and what the next one is called.
///
/// Epochs are named by the wall clock, in milliseconds, at multiples of their interval, so that workers which
/// keep the same pace cut at the same names and an operator sees one epoch instead of one a worker. The
/// moments that it is given are those of a [`SteadyClock`](crate::clock::SteadyClock): epochs end at their
/// pace while the machine's clock is set.
pub struct EpochClock {
    interval: u64,
    quiet_interval: u64,
    catch_up_interval: u64,
    max_bytes: u64,
}

impl EpochClock {
    /// A clock by the config's intervals.
    pub fn new(config: &EpochConfig) -> EpochClock {
        let ms = |duration: Duration| (duration.as_millis() as u64).max(1);
        EpochClock {
            interval: ms(config.interval),
            quiet_interval: ms(config.quiet_interval.max(config.interval)),
            catch_up_interval: ms(config.catch_up_interval.max(config.interval)),
            max_bytes: config.max_bytes,
        }
    }

    /// The epoch that follows `epoch`, if that one ends at `now` (ms): `busy` while all its reads found more,
    /// having read `bytes`; no worker has read anything `quiet_for` so long.
    pub fn next(&self, epoch: Epoch, now: u64, busy: bool, bytes: u64, quiet_for: Duration) -> Option<Epoch> {
        let is_quiet = quiet_for.as_millis() >= u128::from(self.quiet_interval);
        let grid = match (busy, is_quiet) {
            (true, _) => self.catch_up_interval,
            (false, false) => self.interval,
            (false, true) => self.quiet_interval,
        };
        let tick = now / grid * grid;
        if tick > epoch {
            return Some(tick);
        }
        (bytes >= self.max_bytes).then_some(epoch + 1)
    }

    /// How long after `now` (ms) an epoch ends if something was read in it: a worker that has nothing to do
    /// looks for records at this pace.
    pub fn until_tick(&self, now: u64) -> Duration {
        Duration::from_millis(self.interval - now % self.interval)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::clock::{Moment, SteadyClock};

    fn clock() -> EpochClock {
        let config = EpochConfig {
            interval: Duration::from_millis(100),
            quiet_interval: Duration::from_millis(1000),
            catch_up_interval: Duration::from_millis(500),
            max_bytes: 1000,
            max_in_flight: 8,
        };
        EpochClock::new(&config)
    }

    #[test]
    fn epochs_end_at_each_interval_and_busy_or_quiet_ones_at_longer_ones() {
        let next = |now, busy, quiet_for| clock().next(1000, now, busy, 0, Duration::from_millis(quiet_for));
        assert_eq!((next(1099, false, 999), next(1101, false, 999)), (None, Some(1100)));
        assert_eq!((next(1499, true, 0), next(1502, true, 0)), (None, Some(1500)));
        assert_eq!((next(1999, false, 1000), next(2001, false, 1000)), (None, Some(2000)));
        // What was quiet ends with the next look that finds something.
        assert_eq!(next(1601, false, 0), Some(1600));
    }

    #[test]
    fn an_epoch_that_read_much_ends_early() {
        assert_eq!(clock().next(1000, 1010, true, 1000, Duration::ZERO), Some(1001));
    }

    /// The epoch that follows one in which something was read, of a clock that is set.
    fn fresh(steady: &mut SteadyClock, epoch: Epoch, now: Moment) -> Option<Epoch> {
        clock().next(epoch, steady.read(now), false, 0, Duration::ZERO)
    }

    #[test]
    fn epochs_end_when_the_clock_is_set_back() {
        let start = Instant::now();
        let at = |wall, ms| Moment { wall, instant: start + Duration::from_millis(ms) };
        let mut steady = SteadyClock::new(at(3_600_000, 0), 0);
        assert_eq!(fresh(&mut steady, 3_600_000, at(50, 50)), None);
        assert_eq!(fresh(&mut steady, 3_600_000, at(100, 100)), Some(3_600_100));
    }

    #[test]
    fn new_epochs_come_after_committed_ones_whatever_the_clock_says() {
        let start = Instant::now();
        let at = |ms| Moment { wall: 1000 + ms, instant: start + Duration::from_millis(ms) };
        let mut steady = SteadyClock::new(at(0), 5000);
        assert_eq!(fresh(&mut steady, 5001, at(50)), None);
        assert_eq!(fresh(&mut steady, 5001, at(100)), Some(5100));
    }
}
