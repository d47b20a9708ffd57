use super::*;
use crate::engine::Plan;
use crate::sink::{Progress, Run};
use adtide_dataflows::operators::{PartitionReport, PartitionState};

const MINUTE: i64 = 60_000;

fn settings() -> Settings {
    Settings {
        allowed_lateness: 10 * MINUTE,
        max_future_skew: 5 * MINUTE,
        lookback: 60 * MINUTE,
        ..Settings::default()
    }
}

fn gap(topic: Topic, to: u64, committed: u64) -> Gap {
    Gap { topic, partition: 0, from: 0, to, committed, greatest: Some(EventTime(1000 * MINUTE)) }
}

fn head(minute: i64, is_append_time: bool) -> Head {
    let first = EventTime(minute * MINUTE);
    Head { first, latest: first.plus(MINUTE), is_append_time }
}

#[test]
fn what_is_lost_is_no_later_than_what_was_committed_and_what_the_timestamps_allow() {
    let minutes = |gap: &Gap, head: Option<Head>| gap.latest(head.as_ref(), &settings()).unwrap().0 / MINUTE;
    let within = gap(Topic::AdEvents, 50, 100);
    assert_eq!(minutes(&within, None), 1000);
    assert_eq!(minutes(&within, Some(head(500, true))), 506);
    assert_eq!(minutes(&within, Some(head(500, false))), 516, "a producer's clock may be out of order");
    assert_eq!(minutes(&within, Some(head(2000, true))), 1000);
    let beyond = gap(Topic::AdEvents, 150, 100);
    assert_eq!(minutes(&beyond, Some(head(500, true))), 1000, "the committed part is lost too");
    assert_eq!(
        minutes(&beyond, Some(head(2000, true))),
        2006,
        "what was never read may be later than all that was"
    );
    assert!(beyond.latest(None, &settings()).unwrap() > crate::now());
    let bad = Gap { greatest: None, ..within };
    assert_eq!(bad.latest(None, &settings()), None, "none of it was good");
}

#[test]
fn each_topic_closes_what_its_records_belong_to() {
    let closed = |topic| gap(topic, 1, 2).closed(EventTime(7 * MINUTE), &settings());
    let clicks = closed(Topic::AdEvents);
    // The window that ends at 00:10 is closed with them, the next one is not.
    assert_eq!((clicks.performance, clicks.duplicates), (EventTime(10 * MINUTE), EventTime(10 * MINUTE)));
    assert_eq!(clicks.conversions, EventTime(7 * MINUTE + 1));
    let orders = closed(Topic::ConversionEvents);
    assert_eq!(orders, Watermarks { conversions: EventTime(67 * MINUTE + 1), ..Watermarks::MIN });
    assert_eq!(closed(Topic::CampaignEvents), Watermarks::MIN);
}

fn report(topic: Topic, first_offset: u64, next_offset: u64) -> PartitionReport {
    PartitionReport {
        topic,
        partition: 0,
        next_offset,
        first_offset,
        greatest: Some(EventTime(1000 * MINUTE)),
        watermarks: Watermarks::MIN,
        state: PartitionState::Active,
        wakes: Vec::new(),
        file: None,
        last: None,
        judgements: Vec::new(),
    }
}

/// The gaps of a run that continues results which began at `first` and have read to 100, where the log begins
/// at `start`.
fn found(topic: Topic, first: u64, start: u64) -> Vec<(u64, u64)> {
    let partitions = [((topic, 0), report(topic, first, 100))].into();
    let progress = Progress { epoch: 1 << 30, watermarks: None, partitions };
    let run = Run { settings: settings(), source: String::new() };
    let plan = Plan::continuing(run, vec![progress], None);
    let extents = [((topic, 0), Extent { start, end: 200 })].into();
    gaps(&plan, &extents).unwrap().iter().map(|gap| (gap.from, gap.to)).collect()
}

#[test]
fn a_log_that_begins_where_the_results_did_or_earlier_lacks_nothing() {
    assert_eq!(found(Topic::AdEvents, 0, 0), []);
    assert_eq!(found(Topic::AdEvents, 40, 40), []);
    assert_eq!(found(Topic::AdEvents, 40, 41), [(40, 41)]);
    assert_eq!(found(Topic::AdEvents, 0, 150), [(0, 150)]);
    assert_eq!(found(Topic::CampaignEvents, 0, 5), [(0, 5)]);
    assert_eq!(found(Topic::ProductMeta, 0, 5), [], "the newest value of each product is all that counts");
}

#[test]
fn a_loss_is_refused_unless_it_is_accepted() {
    let gaps = [gap(Topic::AdEvents, 50, 100)];
    let heads = [((Topic::AdEvents, 0), head(500, true))].into();
    let refused = close(&gaps, &heads, &settings(), false).unwrap_err().to_string();
    for words in
        ["ad-events [0]: offsets 0 to 49", "up to 1970-01-01 08:26", "of 1970-01-01 08:20", "--accept-loss"]
    {
        assert!(refused.contains(words), "{words}: {refused}");
    }
    assert_eq!(close(&gaps, &heads, &settings(), true).unwrap().performance, EventTime(510 * MINUTE));
    assert_eq!(close(&[], &heads, &settings(), false).unwrap(), Watermarks::MIN);
}
