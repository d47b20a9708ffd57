//! How often an assigned consumer asks its brokers.

use std::time::{Duration, Instant};

use crate::connect::kafka::CATCHING_UP;

/// A consumer that gets nothing for so long may rest.
const QUIET: Duration = Duration::from_secs(10);

/// One that rests is to hurry when a partition has waited for so long for what the brokers have.
const WAITED: Duration = Duration::from_millis(100);

/// How long a new consumer may take to connect and to reach the ends, before a partition counts as waiting.
const START: Duration = Duration::from_secs(2);

/// Whether a consumer hurries, so that partitions with much to read do not wait for empty ones, or rests, as
/// asking costs a process that has nothing to read more than all else it does. librdkafka takes the wait of a
/// fetch when a consumer is made. Either way a record that comes ends the wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rest {
    rests: bool,
    since: Instant,
}

impl Rest {
    /// Of a consumer that hurries.
    pub(super) fn new(now: Instant) -> Rest {
        Rest { rests: false, since: now }
    }

    /// What its consumer is made with.
    pub(super) fn properties(&self) -> &'static [(&'static str, &'static str)] {
        if self.rests { &[] } else { CATCHING_UP }
    }

    /// Whether the consumer should change, after a poll that found nothing: nothing was read for `quiet`, and
    /// since `waits` a partition has got nothing although there is more.
    pub(super) fn is_due(&self, quiet: Duration, waits: Option<Instant>, now: Instant) -> bool {
        let passed = |since: Instant| now.saturating_duration_since(since);
        if self.rests {
            passed(self.since) >= START && waits.is_some_and(|since| passed(since) >= WAITED)
        } else {
            quiet >= QUIET
        }
    }

    /// From `now` on the other way.
    pub(super) fn turn(&mut self, now: Instant) {
        *self = Rest { rests: !self.rests, since: now };
    }

    /// Whether the consumer rests.
    pub(super) fn rests(&self) -> bool {
        self.rests
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_consumer_rests_when_nothing_comes_and_hurries_when_a_partition_waits() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let seconds = Duration::from_secs;
        let mut rest = Rest::new(start);
        assert!(!rest.is_due(seconds(9), None, at(20_000)), "a record");
        assert!(!rest.is_due(seconds(9), Some(at(10_000)), at(20_000)), "it hurries already");
        assert!(rest.is_due(seconds(10), None, at(20_000)));
        rest.turn(at(20_000));
        assert!(!rest.is_due(seconds(11), Some(at(20_000)), at(21_999)), "it may still connect");
        assert!(!rest.is_due(seconds(0), None, at(50_000)), "a record is no rush");
        assert!(!rest.is_due(seconds(0), Some(at(50_000)), at(50_099)));
        assert!(rest.is_due(seconds(0), Some(at(50_000)), at(50_100)));
        rest.turn(at(50_100));
        assert!(!rest.is_due(seconds(0), Some(at(50_000)), at(50_200)));
    }
}
