use super::*;

const MINUTE: i64 = 60_000;

/// What the partition followed before a record, and when that happened; all in minutes.
type Step = (Option<i64>, i64);

const STEPS: [Step; 8] = [
    (None, 20),
    (Some(30), 1),
    (None, 2),
    (Some(60), 59),
    (Some(90), 31),
    (Some(91), 95),
    (Some(120), 61),
    (None, 121),
];

struct Reader {
    ingest: Ingest,
    partition: PartitionHandle,
}

impl Reader {
    fn new() -> Reader {
        let mut ingest = Ingest::new(&Settings::default());
        let partition = ingest.add_partition(Topic::AdEvents, 0, 0);
        ingest.set_clock(EventTime(200 * MINUTE));
        Reader { ingest, partition }
    }

    /// Which of these steps, from an offset on, brings a record that is late for statement 3.
    fn read(&mut self, offsets: std::ops::Range<usize>, follows: bool) -> Vec<usize> {
        let late =
            |ingest: &Ingest| ingest.counts().late.get(&Statement::ConversionMatcher).copied().unwrap_or(0);
        let mut found = Vec::new();
        for offset in offsets {
            let (floor, minute) = STEPS[offset];
            if let Some(floor) = floor.filter(|_| follows) {
                self.ingest.follow(self.partition, Watermarks::all(EventTime(floor * MINUTE)));
            }
            let before = late(&self.ingest);
            let time = EventTime(minute * MINUTE);
            let click = format!(
                r#"{{"event_type":"CLICK","timestamp_field":"{time}","campaign_id":1,"product_id":1,"advertiser_id":1,
                    "placement":"top","device_id":"d","ad_id":"a","actual_price":"1.00"}}"#
            );
            self.ingest.record(self.partition, offset as u64, click.as_bytes());
            if late(&self.ingest) > before {
                found.push(offset);
            }
        }
        assert_eq!(self.ingest.counts().bad.len(), 0, "{:?}", self.ingest.counts());
        found
    }

    fn report(&mut self) -> PartitionReport {
        self.ingest.report(self.partition, PartitionState::Active);
        self.ingest.batch().reports.pop().expect("it was reported")
    }
}

#[test]
fn a_replay_follows_at_every_wake_what_was_followed_then() {
    let mut first = Reader::new();
    let mut reports = vec![first.report()];
    let mut late = Vec::new();
    for offset in 0..STEPS.len() {
        late.extend(first.read(offset..offset + 1, true));
        reports.push(first.report());
    }
    assert_eq!(late, [1, 2, 4, 6], "its own records alone make the second and the third late");
    let last = reports.last().expect("there are some");
    assert_eq!(
        last.wakes.iter().map(|wake| wake.offset).collect::<Vec<_>>(),
        [1, 4, 6],
        "others decided nothing"
    );

    for cut in 0..STEPS.len() {
        let mut again = Reader::new();
        let mut found = Vec::new();
        for (from, to) in [(0, cut), (cut, STEPS.len())] {
            again.ingest.replay_as(&reports[to]);
            found.extend(again.read(from..to, false));
        }
        assert_eq!(found, late, "from the start, through a cut at {cut}");
        assert_eq!(again.report().wakes, last.wakes);

        let mut restored = Reader::new();
        restored.ingest.restore(restored.partition, &reports[cut]);
        restored.ingest.replay_as(last);
        let behind: Vec<_> = late.iter().copied().filter(|offset| *offset >= cut).collect();
        assert_eq!(restored.read(cut..STEPS.len(), false), behind, "from a checkpoint at {cut}");
    }
}

#[test]
fn what_was_followed_of_several_is_the_latest_of_each() {
    let mut first = Reader::new();
    let minute = |minute: i64| EventTime(minute * MINUTE);
    let of_one = Watermarks { conversions: minute(60), ..Watermarks::MIN };
    for floor in [of_one, Watermarks { performance: minute(90), ..Watermarks::MIN }] {
        first.ingest.follow(first.partition, floor);
    }
    assert_eq!(first.read(0..1, false), [0]);
    let report = first.report();
    let mut again = Reader::new();
    again.ingest.replay_as(&report);
    assert_eq!(again.read(0..1, false), [0]);
}
