//! Watermarks. Each test is named after the sentence of the contract that it checks.

use adtide_dataflows::Settings;
use adtide_dataflows::model::{Epoch, EventTime, Topic};
use adtide_dataflows::operators::PartitionState::{Active, Finished, Idle};

use crate::support::{History, MINUTE, NOW, Run, SECOND, click, impression, sale, small, window_end};

/// The watermarks of statements 2, 3 and 4 in effect in an epoch, those that were reached before any came as
/// -1.
fn watermarks(run: &Run, epoch: Epoch) -> [i64; 3] {
    let Some(marks) = run.watermarks_at(epoch) else { return [-1; 3] };
    [marks.performance, marks.conversions, marks.duplicates]
        .map(|time| if time == EventTime::MIN { -1 } else { time.0 })
}

/// The watermarks that an event of this time gives rise to in all statements.
fn of(time: i64) -> [i64; 3] {
    [time - 10 * SECOND, time - 20 * SECOND, time - 30 * SECOND]
}

const END: [i64; 3] = [i64::MAX; 3];

#[test]
fn the_watermark_of_a_partition_is_its_greatest_event_time_less_the_statements_bound() {
    let history = History::new()
        .epoch([impression(MINUTE)])
        .epoch([impression(0)])
        .epoch([impression(2 * MINUTE)])
        .epoch([]);
    let run = history.run(&small());
    assert_eq!(watermarks(&run, 1), of(MINUTE));
    assert_eq!(watermarks(&run, 2), of(MINUTE));
    assert_eq!(watermarks(&run, 3), of(2 * MINUTE));
}

#[test]
fn the_watermark_reached_in_epoch_e_takes_effect_in_the_next() {
    let run = History::new()
        .epoch([impression(0)])
        .epoch([impression(window_end(0) + 10 * SECOND), click(1)])
        .epoch([]);
    let run = run.run(&small());
    assert_eq!(watermarks(&run, 1), of(0));
    // The click, of the same epoch, is counted before its window closes.
    assert!(run.performance.at(1).iter().all(|row| !row.is_final));
    assert_eq!(run.performance.at(2)[0].sums.clicks, 1);
    assert!(run.performance.at(2)[0].is_final);
}

#[test]
fn the_watermark_of_a_source_is_the_least_over_its_partitions() {
    let run = History::new()
        .epoch([impression(5 * MINUTE)])
        .epoch([impression(MINUTE).to(1)])
        .epoch([impression(7 * MINUTE).to(1)])
        .epoch([])
        .run(&small());
    // Partition 1 is there from the start and holds the watermark back until it has a record.
    assert_eq!(watermarks(&run, 1), [-1; 3]);
    assert_eq!(watermarks(&run, 2), of(MINUTE));
    assert_eq!(watermarks(&run, 3), of(5 * MINUTE));
}

#[test]
fn statement_3_goes_by_the_lesser_watermark_of_its_two_sources() {
    let run = History::new()
        .epoch([impression(5 * MINUTE), sale("a", MINUTE)])
        .epoch([sale("b", 9 * MINUTE)])
        .epoch([]);
    let run = run.run(&small());
    let [performance, _, duplicates] = of(5 * MINUTE);
    assert_eq!(watermarks(&run, 1), [performance, of(MINUTE)[1], duplicates]);
    assert_eq!(watermarks(&run, 2), of(5 * MINUTE));
}

#[test]
fn a_partition_that_merely_is_slow_never_is_idle() {
    let mut history = History::new().epoch([impression(0), impression(0).to(1)]);
    for minute in 1..20 {
        history = history.epoch([impression(minute * MINUTE)]);
    }
    let run = history.run(&small());
    assert_eq!(watermarks(&run, 19), of(0));
    assert!(run.performance.at(19).iter().all(|row| !row.is_final));
}

#[test]
fn a_partition_that_is_idle_does_not_count() {
    let run = History::new()
        .epoch([impression(MINUTE), impression(9 * MINUTE).to(1)])
        .state(Topic::AdEvents, 0, Idle(None))
        .epoch([])
        .run(&small());
    assert_eq!(watermarks(&run, 1), of(MINUTE));
    assert_eq!(watermarks(&run, 2), of(9 * MINUTE));
}

#[test]
fn a_partition_that_is_idle_follows_the_global_watermark() {
    let woken = [click(0), click(MINUTE), click(2 * MINUTE), click(9 * MINUTE)];
    let run = History::new()
        .epoch([impression(0), impression(9 * MINUTE).to(1)])
        .state(Topic::AdEvents, 0, Idle(None))
        .epoch([])
        .state(Topic::AdEvents, 0, Active)
        .epoch(woken)
        .epoch([])
        .run(&small());
    assert_eq!(watermarks(&run, 3), of(9 * MINUTE));
    // What the others have closed is closed for it too: by its own events alone, nothing would be late.
    let offsets = |run: &Run| {
        run.late.iter().map(|(late, _)| (late.statement as usize, late.offset)).collect::<Vec<_>>()
    };
    assert_eq!(offsets(&run), [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3), (3, 1), (3, 2), (3, 3)]);
    assert_eq!(watermarks(&run, 5), of(9 * MINUTE));
}

#[test]
fn a_partition_that_wakes_up_holds_the_watermark_where_it_stood() {
    let run = History::new()
        .epoch([impression(0), impression(2 * MINUTE).to(1)])
        .state(Topic::AdEvents, 0, Idle(None))
        .epoch([])
        .state(Topic::AdEvents, 0, Active)
        .epoch([impression(30 * MINUTE).to(1)])
        .epoch([impression(3 * MINUTE)])
        .epoch([])
        .run(&small());
    assert_eq!(watermarks(&run, 5), of(2 * MINUTE));
    assert_eq!(watermarks(&run, 6), of(3 * MINUTE));
}

#[test]
fn a_partition_that_appears_late_does_not_set_the_watermark_back() {
    let run = History::new()
        .epoch([impression(9 * MINUTE)])
        .state(Topic::AdEvents, 1, Active)
        .epoch([impression(0).to(1), impression(20 * MINUTE)])
        .epoch([impression(15 * MINUTE).to(1)])
        .epoch([])
        .run(&small());
    assert_eq!(watermarks(&run, 1), of(9 * MINUTE));
    assert_eq!(watermarks(&run, 3), of(9 * MINUTE));
    assert_eq!(run.late.iter().map(|(late, _)| (late.partition, late.offset)).collect::<Vec<_>>(), [(1, 0)]);
    assert_eq!(watermarks(&run, 4), of(15 * MINUTE));
}

#[test]
fn a_source_whose_partitions_are_all_idle_does_not_hold_the_other_back() {
    let run = History::new()
        .epoch([impression(9 * MINUTE), sale("a", MINUTE)])
        .state(Topic::ConversionEvents, 0, Idle(None))
        .epoch([])
        .run(&small());
    assert_eq!(watermarks(&run, 1)[1], of(MINUTE)[1]);
    assert_eq!(watermarks(&run, 2), of(9 * MINUTE));
}

#[test]
fn where_all_is_idle_the_watermark_stays() {
    let run = History::new()
        .epoch([impression(9 * MINUTE)])
        .state(Topic::AdEvents, 0, Idle(None))
        .epoch([])
        .run(&small());
    assert_eq!(watermarks(&run, 2), of(9 * MINUTE));
}

#[test]
fn with_idle_advance_a_system_that_is_idle_everywhere_lets_the_watermark_follow_the_clock() {
    let clock = |minutes| Idle(Some(EventTime(minutes * MINUTE)));
    let run = History::new()
        .epoch([impression(MINUTE), sale("a", MINUTE)])
        .state(Topic::AdEvents, 0, clock(20))
        .state(Topic::ConversionEvents, 0, clock(30))
        .epoch([])
        .run(&small());
    // As long as one partition is awake, nothing follows the clock.
    assert_eq!(watermarks(&run, 2)[1], of(MINUTE)[1]);
    assert_eq!(watermarks(&run, 3), of(20 * MINUTE));
    assert!(run.performance.at(3).iter().all(|row| row.is_final));
}

#[test]
fn with_idle_advance_one_idle_partition_without_a_clock_keeps_the_watermark() {
    let run = History::new()
        .epoch([impression(MINUTE), impression(MINUTE).to(1)])
        .state(Topic::AdEvents, 0, Idle(Some(EventTime(20 * MINUTE))))
        .state(Topic::AdEvents, 1, Idle(None))
        .epoch([])
        .run(&small());
    assert_eq!(watermarks(&run, 3), of(MINUTE));
}

#[test]
fn the_end_of_a_bounded_input_closes_every_window() {
    let run = History::new().epoch([click(0), click(0), sale("a", 1)]).run(&small());
    assert!(run.performance.at(0).iter().all(|row| !row.is_final));
    // All partitions end in epoch 1.
    assert_eq!(watermarks(&run, 2), END);
    assert!(run.performance.last().iter().all(|row| row.is_final));
    assert_eq!(run.compensations.last().len(), 1);
}

#[test]
fn a_partition_that_has_ended_does_not_hold_the_others_back() {
    let run = History::new()
        .epoch([impression(0), impression(9 * MINUTE).to(1)])
        .state(Topic::AdEvents, 0, Finished)
        .epoch([])
        .run(&small());
    assert_eq!(watermarks(&run, 2), of(9 * MINUTE));
}

#[test]
fn a_record_is_late_by_its_own_partitions_watermark() {
    let ahead = impression(30 * MINUTE).to(1);
    let run = History::new().epoch([impression(0), ahead]).epoch([]).epoch([click(1)]).run(&small());
    assert!(run.late.is_empty());
}

#[test]
fn results_never_depend_on_the_epochs() {
    let lines = [click(0), click(1), impression(window_end(0) + 40 * SECOND), click(2), sale("a", 3)];
    let whole = History::new().epoch(lines.clone());
    let single = lines.into_iter().fold(History::new(), |history, line| history.epoch([line]));
    let (whole, single) = (whole.run(&small()), single.run(&small()));
    assert_eq!(whole.performance.last(), single.performance.last());
    assert_eq!(whole.attributions.last(), single.attributions.last());
    assert_eq!(whole.late.len(), single.late.len());
}

#[test]
fn an_event_later_than_the_clock_by_more_than_max_future_skew_is_bad_and_moves_no_watermark() {
    let settings = Settings { max_future_skew: MINUTE, ..small() };
    let latest = NOW.0 + MINUTE;
    let run =
        History::new().epoch([impression(latest + 1), impression(0)]).epoch([impression(latest)]).epoch([]);
    let run = run.run(&settings);
    assert_eq!(run.counts.bad["time_in_future"], 1);
    assert_eq!(watermarks(&run, 1), of(0));
    assert_eq!(watermarks(&run, 2), of(latest));
}

/// One click so many milliseconds ahead, and then a thousand that are on time, each with a duplicate, in many
/// epochs.
fn one_clock_ahead(lead: i64) -> Run {
    let on_time = |at: i64| click(NOW.0 - 1_000_000 + at * 1000).with("device_id", format!("d-{}", at / 2));
    let ahead = History::new().epoch([click(NOW.0 + lead).with("device_id", "ahead")]);
    let epochs = (0..1000).step_by(100);
    epochs
        .fold(ahead, |history, from| history.epoch((from..from + 100).map(on_time)))
        .run(&Settings::default())
}

fn refunded(run: &Run) -> i64 {
    run.compensations.last().iter().map(|row| row.refund_amount.0).sum()
}

#[test]
fn one_clock_that_is_58_minutes_ahead_makes_nothing_late_and_costs_no_refund() {
    let run = one_clock_ahead(58 * MINUTE);
    assert_eq!((run.late.len(), run.counts.bad["time_in_future"]), (0, 1));
    assert_eq!(refunded(&run), 500 * 150);
}

#[test]
fn what_is_ahead_by_the_skew_leaves_room_for_corrections() {
    let run = one_clock_ahead(5 * MINUTE);
    // The first windows are older than the lateness, as of the event that is ahead.
    let in_time = |late: &i64| NOW.0 + 5 * MINUTE - late < 10 * MINUTE;
    let late: Vec<i64> = run.late.iter().map(|(late, _)| late.event_time.0).collect();
    assert!(!late.iter().any(in_time), "{late:?}");
    assert!(run.counts.bad.is_empty(), "{:?}", run.counts.bad);
}
