//! What of the future is believed, and how it was judged before.
//!
//! An event time may lead its record's own timestamp by no more than `max_future_skew`, and a timestamp that
//! a producer made up may lead the reader's clock by no more than that. The clock is the one thing here that
//! is not data, so what it decided is remembered: a partition's [`Judgement`]s are the clock as a function of
//! the offset. A replay judges by them again, and comes to the same.
//!
//! They are few. A later clock accepts what an earlier one accepted, so a judgement is extended to the
//! present for as long as everything that it rejected would be rejected still. A new one begins only where
//! something was rejected that would be accepted by now, at most one a second.

use serde::{Deserialize, Serialize};

use crate::model::EventTime;
use crate::record::BadRecord;

/// How much later the clock has to be before it is looked at again for a partition, in milliseconds.
const STEP: i64 = 1000;

/// How many judgements are remembered of a partition. The oldest are dropped: only a replay from before them
/// judges by the next one instead.
const MOST: usize = 256;

/// When a record was made or appended, as its topic has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stamp {
    /// Not known, as in files: the reader's clock counts.
    #[default]
    None,
    /// By the clock of its producer.
    Created(EventTime),
    /// By the clock of the broker that appended it. It is believed.
    Appended(EventTime),
}

impl Stamp {
    /// The timestamp, if there is one.
    pub fn time(self) -> Option<EventTime> {
        match self {
            Stamp::None => None,
            Stamp::Created(time) | Stamp::Appended(time) => Some(time),
        }
    }
}

/// The clock by which a partition's records were judged from an offset on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Judgement {
    /// The first offset that it is about.
    pub from: u64,
    /// The clock.
    pub clock: EventTime,
    /// `max_future_skew`, in milliseconds.
    pub skew: i64,
    /// The least time that the clock rejected: of a timestamp, or of an event without one.
    #[serde(default)]
    pub rejected: Option<EventTime>,
}

impl Judgement {
    /// One that begins with a partition.
    pub fn new(clock: EventTime, skew: i64) -> Judgement {
        Judgement { from: 0, clock, skew, rejected: None }
    }

    /// The greatest event time that is accepted of a record with this stamp; None if the stamp itself is too
    /// far ahead.
    pub fn latest(&self, stamp: Stamp) -> Option<EventTime> {
        let ahead = self.clock.plus(self.skew);
        match stamp {
            Stamp::None => Some(ahead),
            Stamp::Created(time) if time > ahead => None,
            Stamp::Created(time) | Stamp::Appended(time) => Some(time.plus(self.skew)),
        }
    }

    /// The judgement that an offset falls under, of a partition's, in order; None if there is none.
    pub fn at(judgements: &[Judgement], offset: u64) -> Option<&Judgement> {
        let after = judgements.partition_point(|judgement| judgement.from <= offset);
        judgements.get(after.saturating_sub(1))
    }

    /// Accepts an event time, or says what of it is too far ahead.
    ///
    /// # Errors
    /// The time or the stamp lies too far in the future.
    pub fn accept(&self, time: EventTime, stamp: Stamp) -> Result<(), BadRecord> {
        match (self.latest(stamp), stamp.time()) {
            (Some(latest), _) if time <= latest => Ok(()),
            (None, Some(stamped)) => Err(BadRecord::FutureTimestamp(stamped)),
            _ => Err(BadRecord::FutureTime(time)),
        }
    }
}

/// What is held against the clock.
fn held(time: EventTime, stamp: Stamp) -> Option<EventTime> {
    match stamp {
        Stamp::None => Some(time),
        Stamp::Created(time) => Some(time),
        Stamp::Appended(_) => None,
    }
}

/// Judges a partition's records, and remembers how.
#[derive(Clone, Debug, Default)]
pub struct Judge {
    judgements: Vec<Judgement>,
    /// Offsets before this one were judged by an earlier run.
    replayed: u64,
    /// Of an earlier run that remembered no judgements: the greatest event time that it accepted.
    greatest: Option<EventTime>,
}

impl Judge {
    /// For a replay of what a run had read before `replayed`.
    pub fn again(judgements: &[Judgement], replayed: u64, greatest: Option<EventTime>) -> Judge {
        Judge { judgements: judgements.to_vec(), replayed, greatest }
    }

    /// How it has judged so far.
    pub fn judgements(&self) -> &[Judgement] {
        &self.judgements
    }

    /// Judges the record at an offset, by the clock at `now` and `max_future_skew` in milliseconds, or as it
    /// was judged before.
    ///
    /// # Errors
    /// The time or the stamp lies too far in the future.
    #[inline]
    pub fn judge(
        &mut self,
        offset: u64,
        time: EventTime,
        stamp: Stamp,
        now: EventTime,
        skew: i64,
    ) -> Result<(), BadRecord> {
        if offset >= self.replayed
            && let Some(last) = self.judgements.last()
            && last.skew == skew
            && last.latest(stamp).is_some_and(|latest| time <= latest)
        {
            return Ok(());
        }
        self.look(offset, time, stamp, now, skew)
    }

    #[cold]
    fn look(
        &mut self,
        offset: u64,
        time: EventTime,
        stamp: Stamp,
        now: EventTime,
        skew: i64,
    ) -> Result<(), BadRecord> {
        if offset < self.replayed {
            return match Judgement::at(&self.judgements, offset) {
                Some(judgement) => judgement.accept(time, stamp),
                None if self.greatest >= Some(time) => Ok(()),
                None => Err(BadRecord::FutureTime(time)),
            };
        }
        self.proceed(Judgement { from: offset, clock: now, skew, rejected: None });
        let Some(last) = self.judgements.last_mut() else { return Ok(()) };
        let judged = last.accept(time, stamp);
        if let Some(held) = held(time, stamp).filter(|held| *held > last.clock.plus(skew)) {
            last.rejected = Some(last.rejected.map_or(held, |least| least.min(held)));
        }
        judged
    }

    /// Goes over to another judgement, unless the last one may stay or be extended to the same.
    fn proceed(&mut self, next: Judgement) {
        let Some(last) = self.judgements.last_mut() else { return self.judgements.push(next) };
        let clock = next.clock.max(last.clock);
        if last.skew == next.skew {
            if clock.0.saturating_sub(last.clock.0) < STEP {
                return;
            }
            if last.rejected.is_none_or(|least| least > clock.plus(last.skew)) {
                last.clock = clock;
                return;
            }
        }
        if self.judgements.len() >= MOST {
            self.judgements.remove(0);
        }
        self.judgements.push(Judgement { clock, ..next });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SKEW: i64 = 300_000;
    const MINUTE: i64 = 60_000;

    /// Times count from here.
    fn at(ms: i64) -> EventTime {
        EventTime(1_000_000_000_000 + ms)
    }

    /// What a judge makes of records of one partition, each with its stamp and the clock, and of the same
    /// records in a replay.
    fn judged(records: &[(i64, Stamp, i64)]) -> (Vec<bool>, Judge) {
        let mut judge = Judge::default();
        let live: Vec<bool> = records
            .iter()
            .zip(0..)
            .map(|((time, stamp, now), offset)| {
                judge.judge(offset, at(*time), *stamp, at(*now), SKEW).is_ok()
            })
            .collect();
        let mut again = Judge::again(judge.judgements(), records.len() as u64, None);
        let late = at(1_000_000 * MINUTE);
        let replayed: Vec<bool> = records
            .iter()
            .zip(0..)
            .map(|((time, stamp, _), offset)| again.judge(offset, at(*time), *stamp, late, 7).is_ok())
            .collect();
        assert_eq!(replayed, live, "a replay judges as before, whatever the clock and the skew are by then");
        (live, judge)
    }

    #[test]
    fn an_event_may_lead_its_stamp_and_a_created_stamp_the_clock_by_the_skew() {
        let (created, appended) = (|ms| Stamp::Created(at(ms)), |ms| Stamp::Appended(at(ms)));
        let (judged, _) = judged(&[
            (SKEW, created(0), 0),
            (SKEW + 1, created(0), 0),
            (0, created(SKEW), 0),
            (0, created(SKEW + 1), 0),
            (2 * SKEW, created(SKEW), 0),
            (0, appended(9 * SKEW), 0),
            (10 * SKEW, appended(9 * SKEW), 0),
            (10 * SKEW + 1, appended(9 * SKEW), 0),
            (SKEW, Stamp::None, 0),
            (SKEW + 1, Stamp::None, 0),
        ]);
        assert_eq!(judged, [true, false, true, false, true, true, true, false, true, false]);
    }

    #[test]
    fn what_was_rejected_is_rejected_in_a_replay_though_the_clock_would_accept_it_by_now() {
        let (lead, minutes) = (58 * MINUTE, 0..120);
        let records: Vec<_> = minutes
            .flat_map(|at| {
                [(at * MINUTE, Stamp::None, at * MINUTE), (at * MINUTE + lead, Stamp::None, at * MINUTE)]
            })
            .collect();
        let (judged, judge) = judged(&records);
        assert!(judged.chunks(2).all(|pair| pair == [true, false]), "{judged:?}");
        // One each time that the clock comes within the skew of what was rejected.
        assert_eq!(judge.judgements().len(), 3, "{judge:?}");
    }

    #[test]
    fn good_records_and_a_clock_that_is_centuries_ahead_take_one_judgement() {
        let far = 8000 * 365 * 24 * 60 * MINUTE;
        let records: Vec<_> = (0..100_000)
            .map(|at| (at * 1000 + if at % 3 == 0 { far } else { 0 }, Stamp::None, at * 1000))
            .collect();
        let (judged, judge) = judged(&records);
        assert!(judged.iter().zip(0..).all(|(judged, at)| *judged == (at % 3 != 0)));
        assert_eq!(judge.judgements().len(), 1, "{judge:?}");
    }

    #[test]
    fn the_clock_never_goes_back_and_judgements_are_bounded() {
        let mut judge = Judge::default();
        assert!(judge.judge(0, at(HOUR), Stamp::None, at(HOUR), SKEW).is_ok());
        assert!(judge.judge(1, at(HOUR + SKEW), Stamp::None, at(0), SKEW).is_ok());
        for step in 0..10_000 {
            let now = HOUR + step * 1000;
            let _ = judge.judge(2 + step as u64, at(now + SKEW + 1), Stamp::None, at(now), SKEW);
        }
        assert!(judge.judgements().len() <= MOST);
    }

    const HOUR: i64 = 60 * MINUTE;

    #[test]
    fn a_run_that_remembered_nothing_accepted_up_to_its_greatest_event_time() {
        let mut judge = Judge::again(&[], 10, Some(at(0)));
        assert!(judge.judge(3, at(0), Stamp::None, at(9 * HOUR), SKEW).is_ok());
        assert!(judge.judge(4, at(1), Stamp::None, at(9 * HOUR), SKEW).is_err());
        assert!(judge.judge(10, at(1), Stamp::None, at(9 * HOUR), SKEW).is_ok());
    }
}
