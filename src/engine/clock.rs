//! The cutting of epochs.

use std::time::Duration;

use adtide_dataflows::model::Epoch;

use super::EpochConfig;

/// Says when an epoch ends and what the next one is called.
///
/// Epochs are named by the wall clock, in milliseconds, at multiples of their interval, so that workers which keep the
/// same pace cut at the same names and an operator sees one epoch instead of one a worker.
pub struct EpochClock {
    interval: u64,
    catch_up_interval: u64,
    max_bytes: u64,
    /// How far epochs are ahead of the clock.
    ahead: u64,
}

impl EpochClock {
    /// A clock by the config's intervals, for epochs after `last` at `now` (ms): if the clock has been set back since
    /// then, they go on from there at its pace.
    pub fn new(config: &EpochConfig, last: Epoch, now: u64) -> EpochClock {
        let ms = |duration: Duration| (duration.as_millis() as u64).max(1);
        EpochClock {
            interval: ms(config.interval),
            catch_up_interval: ms(config.catch_up_interval.max(config.interval)),
            max_bytes: config.max_bytes,
            ahead: last.saturating_sub(now),
        }
    }

    /// The epoch that follows `epoch`, if that one ends at `now` (ms): `busy` while all its reads found more,
    /// having read `bytes`.
    pub fn next(&self, epoch: Epoch, now: u64, busy: bool, bytes: u64) -> Option<Epoch> {
        let grid = if busy { self.catch_up_interval } else { self.interval };
        let tick = (now + self.ahead) / grid * grid;
        if tick > epoch {
            return Some(tick);
        }
        (bytes >= self.max_bytes).then_some(epoch + 1)
    }

    /// How long after `now` (ms) a quiet epoch ends.
    pub fn until_tick(&self, now: u64) -> Duration {
        Duration::from_millis(self.interval - (now + self.ahead) % self.interval)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock() -> EpochClock {
        clock_after(0)
    }

    fn clock_after(last: Epoch) -> EpochClock {
        let config = EpochConfig {
            interval: Duration::from_millis(100),
            catch_up_interval: Duration::from_millis(500),
            max_bytes: 1000,
            max_in_flight: 8,
        };
        EpochClock::new(&config, last, 1000)
    }

    #[test]
    fn quiet_epochs_end_at_each_interval_and_busy_ones_at_the_longer_one() {
        assert_eq!(clock().next(1000, 1099, false, 0), None);
        assert_eq!(clock().next(1000, 1101, false, 0), Some(1100));
        assert_eq!(clock().next(1000, 1499, true, 0), None);
        assert_eq!(clock().next(1000, 1502, true, 0), Some(1500));
    }

    #[test]
    fn an_epoch_that_read_much_ends_early() {
        assert_eq!(clock().next(1000, 1010, true, 1000), Some(1001));
    }

    #[test]
    fn epochs_go_on_when_the_clock_is_set_back() {
        assert_eq!(clock().next(1000, 500, false, 2000), Some(1001));
        assert_eq!(clock().next(1000, 500, false, 0), None);
    }

    #[test]
    fn new_epochs_come_after_committed_ones_whatever_the_clock_says() {
        assert_eq!(clock_after(5000).next(5001, 1050, false, 0), None);
        assert_eq!(clock_after(5000).next(5001, 1100, false, 0), Some(5100));
    }
}
