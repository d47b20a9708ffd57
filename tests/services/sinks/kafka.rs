//! Kafka.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use adtide::connect::kafka::KafkaConfig;
use adtide::sink::kafka::{KafkaSink, Transactions, stored};
use adtide::sink::{Change, Progress, Sink, Stored};
use adtide_dataflows::duplicate_detector::Compensation;
use adtide_dataflows::model::{AdId, EventTime, Money, Topic};
use adtide_dataflows::operators::Watermarks;
use adtide_dataflows::{DeadLetter, LateEvent, Statement};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Message, Offset, TopicPartitionList};
use serde_json::{Value, json};

use super::{EIGHT, TEXTS, address, commit, progress, run, says, unique};

const TOPICS: [(&str, i32); 4] =
    [("compensation-events", 3), ("late-events", 2), ("dead-letter", 2), ("adtide-progress", 2)];
const PATIENCE: Duration = Duration::from_secs(30);

/// Topics that go away with the test.
struct Place {
    config: KafkaConfig,
}

impl Place {
    /// None if there is no broker.
    fn new() -> Option<Place> {
        let place = Place::without_topics()?;
        let names: Vec<_> = TOPICS.iter().map(|(name, _)| place.config.topic(name)).collect();
        let topics: Vec<_> = names
            .iter()
            .zip(TOPICS)
            .map(|(name, (_, partitions))| NewTopic::new(name, partitions, TopicReplication::Fixed(1)))
            .collect();
        let created = block_on(place.admin().create_topics(&topics, &AdminOptions::new())).unwrap();
        assert!(created.iter().all(Result::is_ok), "{created:?}");
        Some(place)
    }

    fn without_topics() -> Option<Place> {
        let brokers = address("ADTIDE_TEST_KAFKA_BROKERS")?;
        let prefix = format!("{}-", unique());
        Some(Place {
            config: KafkaConfig { brokers, prefix, connect_timeout: PATIENCE, ..KafkaConfig::default() },
        })
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.config.client().create().unwrap()
    }

    fn open(&self) -> KafkaSink {
        KafkaSink::open(&self.config, "adtide", run()).unwrap()
    }

    /// A producer of the sink's transactional id. From now on no earlier one can commit.
    fn rival(&self) -> BaseProducer {
        let mut client = self.config.client();
        client.set("transactional.id", self.config.topic("adtide-sink"));
        let producer: BaseProducer = client.create().unwrap();
        producer.init_transactions(PATIENCE).unwrap();
        producer
    }

    /// A producer of another deployment, with a record written in a transaction that it has not ended.
    fn other(&self, topic: &str, partition: i32) -> BaseProducer {
        let mut client = self.config.client();
        let other: BaseProducer =
            client.set("transactional.id", self.config.topic("other-sink")).create().unwrap();
        other.init_transactions(PATIENCE).unwrap();
        other.begin_transaction().unwrap();
        let topic = self.config.topic(topic);
        let record = BaseRecord::to(&topic).partition(partition).key("other").payload("{}");
        other.send(record).map_err(|(error, _)| error).unwrap();
        while other.in_flight_count() > 0 {
            other.poll(Duration::from_millis(10));
        }
        other
    }

    fn stored(&self) -> Option<Stored> {
        stored(&self.config, "adtide").unwrap()
    }

    /// Key and value of every committed record of a topic.
    fn read(&self, topic: &str) -> Vec<(String, Value)> {
        let mut client = self.config.client();
        client.set("group.id", "tests").set("isolation.level", "read_committed");
        client.set("enable.partition.eof", "true").set("enable.auto.commit", "false");
        let consumer: BaseConsumer = client.create().unwrap();
        let partitions = TOPICS.iter().find(|(name, _)| *name == topic).unwrap().1;
        let mut assignment = TopicPartitionList::new();
        for partition in 0..partitions {
            assignment.add_partition_offset(&self.config.topic(topic), partition, Offset::Beginning).unwrap();
        }
        consumer.assign(&assignment).unwrap();
        let (mut records, mut ended) = (Vec::new(), 0);
        let deadline = Instant::now() + PATIENCE;
        while ended < partitions {
            assert!(Instant::now() < deadline, "{topic} has no end");
            match consumer.poll(Duration::from_secs(1)) {
                Some(Ok(record)) => {
                    let key = String::from_utf8(record.key().unwrap().to_vec()).unwrap();
                    records.push((key, serde_json::from_slice(record.payload().unwrap()).unwrap()));
                }
                Some(Err(KafkaError::PartitionEOF(_))) => ended += 1,
                Some(Err(error)) => panic!("{error}"),
                None => {}
            }
        }
        records
    }

    /// How often each compensation is to be seen.
    fn compensations(&self) -> BTreeMap<String, usize> {
        let mut seen = BTreeMap::new();
        for (key, value) in self.read("compensation-events") {
            assert_eq!(value["compensation_id"], key);
            *seen.entry(key).or_default() += 1;
        }
        seen
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let names: Vec<_> = TOPICS.iter().map(|(name, _)| self.config.topic(name)).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let _ = block_on(self.admin().delete_topics(&names, &AdminOptions::new()));
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn compensation(device: &str) -> Compensation {
    Compensation {
        advertiser_id: 9,
        campaign_id: Some(7),
        ad_id: AdId::Number(4),
        device_id: device.into(),
        actual_price: Money(50),
        window_start: EIGHT,
        clicks: 2,
        click_times: vec![EIGHT, EIGHT.plus(1)],
        is_cut: false,
        refund_amount: Money(50),
    }
}

fn refund(device: &str) -> Vec<Change> {
    vec![Change::Compensation(compensation(device))]
}

fn id(device: &str) -> String {
    compensation(device).id()
}

fn once<const N: usize>(devices: [&str; N]) -> BTreeMap<String, usize> {
    devices.map(|device| (id(device), 1)).into()
}

fn late(value: &[u8]) -> LateEvent {
    let (statement, topic) = (Statement::DuplicateDetector, Topic::AdEvents);
    LateEvent {
        statement,
        topic,
        partition: 3,
        offset: 5,
        event_time: EIGHT,
        watermark: EIGHT,
        is_closed: false,
        key: None,
        timestamp: None,
        value: value.to_vec(),
    }
}

fn dead(value: &[u8]) -> DeadLetter {
    let (reason, detail) = ("json".to_owned(), "not a JSON object".to_owned());
    DeadLetter {
        topic: Topic::ProductMeta,
        partition: 1,
        offset: 6,
        reason,
        detail,
        key: None,
        timestamp: None,
        value: value.to_vec(),
    }
}

#[test]
fn each_kind_of_record_goes_to_its_topic() {
    let Some(place) = Place::new() else { return };
    let mut sink = place.open();
    assert_eq!(sink.stored(), None);
    let records =
        [refund("d"), vec![Change::Late(late(b"late \xE2\x98\x83")), Change::Dead(dead(b"\xFF\x00"))]]
            .concat();
    sink.commit(commit(1, vec![records])).unwrap();
    let compensations = place.read("compensation-events");
    let [(key, value)] = compensations.as_slice() else { panic!("{compensations:?}") };
    assert_eq!(*key, id("d"));
    assert_eq!(value["refund_amount"].to_string(), "0.50");
    assert_eq!(value["duplicate_click_count"].to_string(), "2");
    assert_eq!((value.get("truncated"), value.get("timestamps_cut")), (None, None));
    let late = place.read("late-events");
    let [(key, value)] = late.as_slice() else { panic!("{late:?}") };
    assert_eq!((key.as_str(), &value["value"]), ("ad-events-3-5", &json!("late ☃")));
    let dead = place.read("dead-letter");
    let [(key, value)] = dead.as_slice() else { panic!("{dead:?}") };
    assert_eq!((key.as_str(), &value["value_hex"]), ("product-meta-1-6", &json!("ff00")));
    let progress = place.read("adtide-progress");
    assert!(progress.iter().all(|(key, _)| key == "adtide"));
    assert_eq!(place.stored(), super::stored(1));
}

#[test]
fn what_was_committed_is_read_back() {
    let Some(place) = Place::new() else { return };
    assert_eq!(place.stored(), None);
    let mut sink = place.open();
    assert_eq!(place.stored(), None, "a number only");
    for epoch in [1, 2] {
        sink.commit(commit(epoch, vec![refund(&epoch.to_string())])).unwrap();
        assert_eq!(place.stored(), super::stored(epoch));
    }
    // Many of another deployment, so that the last one is not near the end.
    let mut other = KafkaSink::open(&place.config, "other", run()).unwrap();
    for epoch in 1..=300 {
        other.commit(commit(epoch, vec![refund("same")])).unwrap();
    }
    assert_eq!(stored(&place.config, "other").unwrap(), super::stored(300));
    drop(sink);
    let mut sink = place.open();
    assert_eq!(sink.stored(), super::stored(2));
    sink.commit(commit(3, vec![refund("3")])).unwrap();
    assert_eq!(place.stored(), super::stored(3));
    assert_eq!(stored(&place.config, "nobody").unwrap(), None);
}

#[test]
fn a_later_run_fences_an_earlier_one() {
    let Some(place) = Place::new() else { return };
    let mut first = place.open();
    first.commit(commit(1, vec![refund("a")])).unwrap();
    let mut second = place.open();
    assert_eq!(second.stored(), super::stored(1));
    let error = first.commit(commit(2, vec![refund("b")])).unwrap_err();
    says(&error, &[&"another run named \"adtide\" has taken over", &"(key name)"]);
    assert_eq!(place.stored(), super::stored(1));
    second.commit(commit(2, vec![refund("c")])).unwrap();
    says(&first.commit(commit(2, vec![refund("b")])).unwrap_err(), &[&"has taken over"]);
    assert_eq!(place.compensations(), once(["a", "c"]));
    assert_eq!(place.stored(), super::stored(2));
}

#[test]
fn an_abandoned_transaction_is_never_seen() {
    let Some(place) = Place::new() else { return };
    let mut sink = place.open();
    sink.commit(commit(1, vec![refund("a")])).unwrap();
    drop(sink);
    // A run that dies in the middle of a commit: its records are in the log, and its transaction is open.
    let dying = place.rival();
    dying.begin_transaction().unwrap();
    let topic = place.config.topic("compensation-events");
    let value = json!({ "compensation_id": id("b") }).to_string();
    dying.send(BaseRecord::to(&topic).key(&id("b")).payload(&value)).map_err(|(error, _)| error).unwrap();
    while dying.in_flight_count() > 0 {
        dying.poll(Duration::from_millis(10));
    }
    let mut sink = place.open();
    assert_eq!(sink.stored(), super::stored(1));
    sink.commit(commit(2, vec![refund("b")])).unwrap();
    assert_eq!(place.compensations(), once(["a", "b"]));
    assert!(dying.commit_transaction(PATIENCE).is_err());
    assert_eq!(place.compensations(), once(["a", "b"]));
}

/// Nothing else tells of it: a consumer sees the same as if nothing had been written.
#[test]
fn what_an_open_transaction_hides_is_found() {
    let Some(place) = Place::new() else { return };
    let hidden = || -> Vec<String> {
        Transactions::hidden(&place.config).unwrap().iter().map(ToString::to_string).collect()
    };
    let mut sink = place.open();
    sink.commit(commit(1, vec![refund("a")])).unwrap();
    let other = place.other("late-events", 1);
    // The marks of the first commit may still be on their way.
    let begun = Instant::now();
    while hidden().len() > 1 && begun.elapsed() < PATIENCE {}
    assert_eq!(hidden(), [format!("{} [1] from offset 0 on", place.config.topic("late-events"))]);
    other.commit_transaction(PATIENCE).unwrap();
    while !hidden().is_empty() {
        assert!(begun.elapsed() < PATIENCE);
    }
}

/// The broker ends transactions that take too long in the same way in which another producer does.
#[test]
fn a_producer_that_was_fenced_by_no_run_is_replaced() {
    let Some(place) = Place::new() else { return };
    let mut sink = place.open();
    sink.commit(commit(1, vec![refund("a")])).unwrap();
    drop(place.rival());
    sink.commit(commit(2, vec![refund("b")])).unwrap();
    assert_eq!(place.compensations(), once(["a", "b"]));
    assert_eq!(place.stored(), super::stored(2));
}

#[test]
fn a_commit_whose_answer_was_lost_is_not_done_twice() {
    let Some(place) = Place::new() else { return };
    let mut sink = place.open();
    sink.commit(commit(1, vec![refund("a")])).unwrap();
    // In the end all that is left of such a commit is what it wrote, and a producer that can't go on.
    let rival = place.rival();
    rival.begin_transaction().unwrap();
    let (topic, last) = (place.config.topic("compensation-events"), place.config.topic("adtide-progress"));
    let value = json!({ "compensation_id": id("b") }).to_string();
    rival.send(BaseRecord::to(&topic).key(&id("b")).payload(&value)).map_err(|(error, _)| error).unwrap();
    let value = json!({ "run_number": 1, "stored": super::stored(2) }).to_string();
    rival
        .send(BaseRecord::to(&last).partition(0).key("adtide").payload(&value))
        .map_err(|(error, _)| error)
        .unwrap();
    rival.commit_transaction(PATIENCE).unwrap();
    sink.commit(commit(2, vec![refund("b")])).unwrap();
    assert_eq!(place.compensations(), once(["a", "b"]));
    sink.commit(commit(3, vec![refund("c")])).unwrap();
    assert_eq!(place.compensations(), once(["a", "b", "c"]));
    assert_eq!(place.stored(), super::stored(3));
}

/// What is committed behind an open transaction of another deployment can't be read yet, and must not be
/// taken for absent.
#[test]
fn progress_behind_an_open_transaction_is_waited_for() {
    let Some(place) = Place::new() else { return };
    let mut sink = place.open();
    sink.commit(commit(1, vec![refund("a")])).unwrap();
    let other = place.other("adtide-progress", 0);
    sink.commit(commit(2, vec![refund("b")])).unwrap();
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| place.stored());
        // Time enough for a reader that does not wait.
        std::thread::sleep(Duration::from_secs(1));
        assert!(!reading.is_finished());
        other.commit_transaction(PATIENCE).unwrap();
        assert_eq!(reading.join().unwrap(), super::stored(2));
    });
}

#[test]
fn progress_alone_is_written_once_a_second_and_at_the_end() {
    let Some(place) = Place::new() else { return };
    let count = || place.read("adtide-progress").len();
    let mut sink = place.open();
    sink.commit(commit(1, vec![refund("a")])).unwrap();
    assert_eq!(count(), 2, "the number and the commit");
    // Reading took its time, so the first of these may be written.
    sink.commit(commit(2, vec![])).unwrap();
    let written = count();
    sink.tick().unwrap();
    sink.commit(commit(3, vec![refund("b")])).unwrap();
    for epoch in 4..14 {
        sink.commit(commit(epoch, vec![])).unwrap();
    }
    assert!(count() <= written + 3, "{} after {written}", count());
    std::thread::sleep(Duration::from_millis(1100));
    sink.commit(commit(14, vec![])).unwrap();
    assert_eq!(place.stored(), super::stored(14));
    sink.commit(commit(15, vec![refund("c")])).unwrap();
    sink.commit(commit(16, vec![])).unwrap();
    sink.tick().unwrap();
    assert_eq!(place.stored(), super::stored(16));
    sink.commit(commit(17, vec![refund("d")])).unwrap();
    sink.commit(commit(18, vec![])).unwrap();
    drop(sink);
    assert_eq!(place.stored(), super::stored(18));
    let mut sink = place.open();
    let watermarks =
        Watermarks { performance: EventTime::MAX, conversions: EventTime::MAX, duplicates: EventTime::MAX };
    let end = Progress { watermarks: Some(watermarks), ..progress(19) };
    sink.commit(adtide::sink::Commit { epochs: vec![], progress: end.clone() }).unwrap();
    assert_eq!(place.stored().map(|stored| stored.progress), Some(end));
}

#[test]
fn every_record_fits() {
    let Some(place) = Place::new() else { return };
    let mut sink = place.open();
    let mut changes: Vec<_> = TEXTS.iter().chain(&["a\0b"]).flat_map(|text| refund(text)).collect();
    let mut clicks = compensation("clicks");
    clicks.clicks = 60_000;
    clicks.click_times = (0..1000).map(|ms| EIGHT.plus(ms)).collect();
    clicks.is_cut = true;
    clicks.refund_amount = Money(59_999 * 50);
    let mut texts = compensation(&"\u{1}".repeat(1_000_000));
    texts.ad_id = AdId::Text("☃".repeat(400_000).into());
    let ids = [clicks.id(), texts.id()];
    changes.extend([Change::Compensation(clicks), Change::Compensation(texts)]);
    let mut cursed = dead(&b"\x01".repeat(1_000_000));
    cursed.detail = "\u{1}".repeat(1_000_000);
    changes.extend([Change::Late(late("☃".repeat(400_000).as_bytes())), Change::Dead(cursed)]);
    changes.push(Change::Dead(dead(&b"\xFF".repeat(600_000))));
    sink.commit(commit(1, vec![changes])).unwrap();
    let records: BTreeMap<_, _> = place.read("compensation-events").into_iter().collect();
    assert_eq!(records.len(), TEXTS.len() + 3);
    for text in TEXTS {
        assert_eq!(records[&id(text)]["device_id"], text);
    }
    let [clicks, texts] = ids.map(|id| &records[&id]);
    assert_eq!((clicks.get("truncated"), &clicks["timestamps_cut"]), (None, &json!(true)));
    assert_eq!(clicks["duplicate_click_count"].to_string(), "60000");
    assert_eq!(clicks["refund_amount"].to_string(), "29999.50");
    assert_eq!(clicks["original_click_timestamps"].as_array().unwrap().len(), 1000);
    assert_eq!(texts["truncated"], true);
    let late = place.read("late-events");
    assert_eq!(late[0].1["value_truncated"], true);
    assert!(late[0].1["value"].as_str().unwrap().starts_with("☃☃☃"));
    let dead = place.read("dead-letter");
    assert!(dead.len() == 2 && dead.iter().all(|(_, value)| value["value_truncated"] == true));
}

#[test]
fn a_large_commit_is_one_transaction() {
    let Some(place) = Place::new() else { return };
    let mut sink = place.open();
    let devices: Vec<_> = (0..150_000).map(|device| device.to_string()).collect();
    sink.commit(commit(1, vec![devices.iter().flat_map(|device| refund(device)).collect()])).unwrap();
    assert_eq!(place.compensations(), devices.iter().map(|device| (id(device), 1)).collect());
}

#[test]
fn what_does_not_pass_by_itself_is_said_at_once() {
    let Some(place) = Place::without_topics() else { return };
    let error = KafkaSink::open(&place.config, "adtide", run()).err().unwrap();
    let topic = place.config.topic("compensation-events");
    says(&error, &[&format!("has no topic {topic}"), &"adtide topics create"]);
    let error = stored(&place.config, "adtide").unwrap_err();
    says(&error, &[&"adtide topics create"]);
    let mut config = place.config.clone();
    config.properties.insert("sasl.pasword".to_owned(), "s3cret".to_owned());
    let error = KafkaSink::open(&config, "adtide", run()).err().unwrap();
    says(&error, &[&"sasl.pasword", &"check the keys under kafka.properties"]);
    assert!(!format!("{error:#}").contains("s3cret"));
}
