//! Whatever bytes come in, nothing stops: a record is good, or it is one dead letter.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use adtide_dataflows::model::{Epoch, Topic};
use adtide_dataflows::record::MAX_RECORD_BYTES;
use adtide_dataflows::{Ingest, dataflow};
use timely::dataflow::operators::{Inspect, Probe};

use crate::support::{
    Dice, History, Line, MINUTE, NOW, Run, Step, campaign, click, impression, metrics, mutated, price, sale,
    small, sold,
};

/// A good record of every kind.
fn good_records() -> Vec<(Topic, Vec<u8>)> {
    let lines: [Line; 9] = [
        impression(MINUTE),
        click(2 * MINUTE).with("timestamp_field", "2001-09-09 01:40:00.123").with("session_id", "s"),
        click(3 * MINUTE)
            .with("timestamp_field", 1_000_000_000_000_i64)
            .with("ad_id", "n/a")
            .with("actual_price", "1e-1"),
        sold(MINUTE).with("user_id", "üser"),
        sale("order-1", MINUTE).with("session_id", "s"),
        campaign(1, MINUTE),
        campaign(2, MINUTE).with("event_type", "CAMPAIGN_DELETE"),
        metrics(7, 0.25, 0.5),
        price(7, "19.99"),
    ];
    lines.into_iter().map(|line| (line.topic, line.json().into_bytes())).collect()
}

/// How many records are thrown at the ingest.
const RECORDS: usize = 1_000_000;

/// How many of them make an epoch.
const EPOCH: usize = 20_000;

/// What the dead letters must be: the bytes by topic and offset.
type Expected = BTreeMap<(Topic, u64), Vec<u8>>;

#[test]
fn a_flood_of_bad_records_stops_nothing() {
    timely::execute_directly(|worker| {
        let expected: Rc<RefCell<Expected>> = Rc::default();
        let due = Rc::clone(&expected);
        let (mut inputs, probe) = worker.dataflow::<Epoch, _, _>(|scope| {
            let (inputs, outputs, _) = dataflow(scope, &small());
            let dead = outputs.dead.inspect(move |dead| {
                let bytes = due.borrow_mut().remove(&(dead.topic, dead.offset));
                assert_eq!(bytes.as_ref(), Some(&dead.value), "a dead letter has the bytes of its record");
                assert!(!dead.reason.is_empty() && !dead.detail.is_empty());
            });
            (inputs, dead.probe().0)
        });
        let mut flood = Flood::new();
        for epoch in 1..=(RECORDS / EPOCH) as Epoch {
            for _ in 0..EPOCH {
                flood.next(&mut expected.borrow_mut());
            }
            inputs.send(flood.ingest.batch());
            inputs.advance_to(epoch);
            worker.step_while(|| probe.less_than(&epoch));
            assert!(
                expected.borrow().is_empty(),
                "every bad record is a dead letter: {:?}",
                expected.borrow()
            );
        }
        let bad: u64 = flood.ingest.counts().bad.values().sum();
        assert!(bad > RECORDS as u64 / 4, "most of them are bad: {:?}", flood.ingest.counts());
        assert!(flood.ingest.counts().bad.len() >= 9, "for many reasons: {:?}", flood.ingest.counts().bad);
    });
}

struct Flood {
    ingest: Ingest,
    partitions: Vec<(Topic, adtide_dataflows::PartitionHandle, u64)>,
    records: Vec<(Topic, Vec<u8>)>,
    huge: Vec<u8>,
    dice: Dice,
}

impl Flood {
    fn new() -> Flood {
        let mut ingest = Ingest::new(&small());
        ingest.set_clock(NOW);
        let partitions = Topic::ALL.map(|topic| (topic, ingest.add_partition(topic, 0, 0), 0)).to_vec();
        let huge = vec![b'['; MAX_RECORD_BYTES];
        Flood { ingest, partitions, records: good_records(), huge, dice: Dice::new(1) }
    }

    /// Sends a record: one in four good, the others mutated, some huge. Notes it if it turns out to be bad.
    fn next(&mut self, expected: &mut Expected) {
        let (topic, good) = self.dice.pick(&self.records).clone();
        let (is_good, bytes) = match self.dice.below(20_000) {
            0 => (false, self.huge.clone()),
            1 => (false, self.huge.repeat(2)),
            n if n % 4 == 0 => (true, good),
            _ => (false, mutated(&good, &mut self.dice)),
        };
        let (_, handle, offset) = &mut self.partitions[topic as usize];
        let at = *offset;
        *offset += 1;
        let counted = |ingest: &Ingest| {
            (ingest.counts().good[topic as usize], ingest.counts().bad.values().sum::<u64>())
        };
        let before = counted(&self.ingest);
        self.ingest.record(*handle, at, &bytes);
        let after = counted(&self.ingest);
        if after == (before.0 + 1, before.1) {
            return;
        }
        assert_eq!(after, (before.0, before.1 + 1), "a record is good or bad");
        assert!(!is_good, "a good record counts, whatever is beside it");
        expected.insert((topic, at), bytes);
    }
}

#[test]
fn the_batch_recomputation_finds_the_same_records_bad() {
    let (records, mut dice) = (good_records(), Dice::new(2));
    let mut history = History::new();
    for _ in 0..15_000 {
        let (topic, good) = dice.pick(&records);
        history.steps.push(Step::Record((*topic, 0), mutated(good, &mut dice)));
    }
    let run = Run::of(&history, &small(), 1, false);
    run.check_bad_records(&history, &small());
    assert!(run.dead.len() > 5_000);
}
