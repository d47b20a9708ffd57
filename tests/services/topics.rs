//! `adtide topics`, and generated traffic in Kafka.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Output};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use adtide::connect::kafka::KafkaConfig;
use adtide::engine::loss::Extents;
use adtide::source::kafka::Watch;
use adtide_dataflows::model::Topic;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Message, Offset, TopicPartitionList};
use serde_json::Value;

/// All topics of the system, and how many partitions each has where three are asked for.
const TOPICS: [(&str, i32); 9] = [
    ("campaign-events", 3),
    ("ad-events", 3),
    ("conversion-events", 3),
    ("product-metrics", 3),
    ("product-meta", 3),
    ("compensation-events", 3),
    ("late-events", 3),
    ("dead-letter", 3),
    ("adtide-progress", 1),
];

/// Small, and without records that can't be read.
const SMALL: &str =
    "--campaign-events 300 --campaigns 100 --set generator.products=80 --set generator.malformed=0";

/// Topics with a prefix of their own, deleted with the test.
struct Place {
    kafka: KafkaConfig,
}

/// A message, as far as it matters here.
struct Record {
    key: Option<String>,
    value: Option<Value>,
    partition: i32,
    timestamp: i64,
}

impl Place {
    /// None without Kafka.
    fn new(test: &str) -> Option<Place> {
        let Ok(brokers) = std::env::var("ADTIDE_TEST_KAFKA_BROKERS") else {
            eprintln!("SKIPPED: {test}: ADTIDE_TEST_KAFKA_BROKERS is not set; see scripts/services");
            return None;
        };
        let prefix = format!("test-{test}-{}-", now());
        let connect_timeout = Duration::from_secs(10);
        Some(Place { kafka: KafkaConfig { brokers, prefix, connect_timeout, ..KafkaConfig::default() } })
    }

    fn run(&self, arguments: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_adtide"));
        command.args(arguments.split_whitespace());
        command.args(["--set", &format!("kafka.brokers={}", self.kafka.brokers)]);
        command.args(["--set", &format!("kafka.prefix={}", self.kafka.prefix)]);
        command.output().unwrap()
    }

    #[track_caller]
    fn succeeds(&self, arguments: &str) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn consumer(&self) -> BaseConsumer {
        let mut client = self.kafka.client();
        client.set("group.id", &self.kafka.prefix).set("enable.auto.commit", "false");
        client.set("enable.partition.eof", "true").create().unwrap()
    }

    fn partitions(&self, topic: &str) -> i32 {
        let name = self.kafka.topic(topic);
        let metadata = self.consumer().fetch_metadata(None, Duration::from_secs(10)).unwrap();
        let found = metadata.topics().iter().find(|topic| topic.name() == name);
        found.map_or(0, |topic| topic.partitions().len() as i32)
    }

    /// Everything in a topic of three partitions.
    fn records(&self, topic: &str) -> Vec<Record> {
        let consumer = self.consumer();
        let mut assignment = TopicPartitionList::new();
        for partition in 0..3 {
            assignment.add_partition_offset(&self.kafka.topic(topic), partition, Offset::Beginning).unwrap();
        }
        consumer.assign(&assignment).unwrap();
        let (mut records, mut ended) = (Vec::new(), BTreeSet::new());
        while ended.len() < 3 {
            match consumer.poll(Duration::from_secs(20)).expect("no answer from Kafka") {
                Ok(message) => records.push(Record {
                    key: message.key().map(|key| String::from_utf8(key.to_vec()).unwrap()),
                    value: message.payload().map(|value| serde_json::from_slice(value).unwrap()),
                    partition: message.partition(),
                    timestamp: message.timestamp().to_millis().unwrap(),
                }),
                Err(KafkaError::PartitionEOF(partition)) => {
                    ended.insert(partition);
                }
                Err(error) => panic!("{error}"),
            }
        }
        records
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let admin: AdminClient<DefaultClientContext> = self.kafka.client().create().unwrap();
        let names: Vec<_> = TOPICS.iter().map(|(topic, _)| self.kafka.topic(topic)).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let _ = runtime.block_on(admin.delete_topics(&names, &AdminOptions::new()));
    }
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64
}

/// How many records of a topic the generator says it has sent.
fn told(output: &str, topic: &str) -> usize {
    let line = output
        .lines()
        .find(|line| line.starts_with(topic))
        .unwrap_or_else(|| panic!("no {topic} in {output}"));
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn topics_are_created_once_and_listed() {
    let Some(place) = Place::new("create") else { return };
    let listed = place.succeeds("topics list");
    assert_eq!(
        listed.matches("missing: create it with `adtide topics create`").count(),
        TOPICS.len(),
        "{listed}"
    );
    let created = place.succeeds("topics create --partitions 3");
    assert_eq!(
        created.lines().filter(|line| line.starts_with("created ")).count(),
        TOPICS.len(),
        "{created}"
    );
    for (topic, partitions) in TOPICS {
        assert_eq!(place.partitions(topic), partitions, "{topic}");
    }
    assert_eq!(created.matches(" 3 partitions").count(), TOPICS.len() - 1, "{created}");
    // Again it changes nothing, and says what is less than asked for; more is no fault.
    let again = place.succeeds("topics create --partitions 5");
    assert_eq!(again.lines().filter(|line| line.starts_with("there ")).count(), TOPICS.len(), "{again}");
    assert_eq!(again.matches("fewer than the 5 asked for").count(), TOPICS.len() - 1, "{again}");
    assert!(!place.succeeds("topics create --partitions 2").contains("fewer"));
    assert_eq!(place.partitions("ad-events"), 3);
    let listed = place.succeeds("topics list");
    let line = |topic: &str| listed.lines().find(|line| line.starts_with(&place.kafka.topic(topic))).unwrap();
    assert!(line("product-meta").contains("3 partitions, compacted"), "{listed}");
    assert!(line("adtide-progress").contains("1 partition, compacted"), "{listed}");
    assert!(
        line("late-events").contains("3 partitions ") && line("late-events").contains(" 0 offsets"),
        "{listed}"
    );
    for topic in ["ad-events", "conversion-events", "campaign-events"] {
        assert!(line(topic).contains("3 partitions, timestamps up to 5m ahead"), "{listed}");
    }
    assert!(!listed.contains("max_future_skew"), "{listed}");
    // Such a topic takes no record that is further ahead, and a smaller skew finds it too wide.
    let listed = place.succeeds("topics list --set max_future_skew=1m");
    let warnings: Vec<_> = listed.lines().filter(|line| line.contains("max_future_skew (1m)")).collect();
    assert_eq!(warnings.len(), 3, "{listed}");
    assert!(warnings[0].contains("set message.timestamp.after.max.ms=60000"), "{listed}");
}

#[test]
fn settings_of_topics_that_would_lose_data_are_named() {
    let Some(place) = Place::new("retention") else { return };
    let admin: AdminClient<DefaultClientContext> = place.kafka.client().create().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let names = ["ad-events", "campaign-events", "product-meta", "conversion-events"]
        .map(|topic| place.kafka.topic(topic));
    let new = |name| rdkafka::admin::NewTopic::new(name, 1, rdkafka::admin::TopicReplication::Fixed(1));
    let topics = [
        new(&names[0]).set("retention.ms", "3600000").set("message.timestamp.type", "LogAppendTime"),
        new(&names[1]).set("retention.ms", "3600000"),
        new(&names[2]).set("cleanup.policy", "delete"),
        new(&names[3]).set("retention.ms", "604800000").set("message.timestamp.after.max.ms", "300000"),
    ];
    for result in runtime.block_on(admin.create_topics(&topics, &AdminOptions::new())).unwrap() {
        result.unwrap();
    }
    let listed = place.succeeds("topics create --set conversion.lookback=2h --set allowed_lateness=10m");
    let warnings: Vec<_> = listed.lines().filter(|line| line.starts_with("warning: ")).collect();
    assert_eq!(warnings.len(), 4, "{listed}");
    let warned =
        |name: &str, words: &str| warnings.iter().any(|line| line.contains(name) && line.contains(words));
    assert!(warned(&names[0], "keeps records for 1h, less than") && warned(&names[0], "2h 10m"), "{listed}");
    assert!(warned(&names[1], "unknown to a run without a checkpoint"), "{listed}");
    assert!(warned(&names[2], "set cleanup.policy=compact"), "{listed}");
    // The broker's own default is an hour.
    assert!(warned(&names[1], "takes timestamps that are ahead of the broker's clock by 1h"), "{listed}");
    assert!(listed.contains("timestamps by the broker"), "{listed}");
    let listed = place.succeeds("topics list --set conversion.lookback=30m --set allowed_lateness=10m");
    assert!(!listed.contains(&format!("warning: {}", names[0])), "{listed}");
}

#[test]
fn traffic_arrives_as_it_was_made() {
    let Some(place) = Place::new("traffic") else { return };
    place.succeeds("topics create --partitions 3");
    let before = now();
    let output = place.succeeds(&format!("generate --to-kafka --ad-events 20000 --span 4h {SMALL}"));
    let mut found = BTreeMap::new();
    for topic in ["campaign-events", "ad-events", "conversion-events", "product-metrics", "product-meta"] {
        let records = place.records(topic);
        assert_eq!(records.len(), told(&output, topic), "{topic}");
        assert!(records.iter().all(|record| (before..=now()).contains(&record.timestamp)), "{topic}");
        found.insert(topic, records);
    }
    assert_eq!(found["ad-events"].len(), 20_000);
    assert_eq!(found["campaign-events"].len(), 300);
    assert!(!found["conversion-events"].is_empty());
    // Keys are ids, and all records of a key are in one partition.
    for (topic, field) in [
        ("campaign-events", "campaign_id"),
        ("product-metrics", "product_id"),
        ("product-meta", "product_id"),
    ] {
        let mut homes = BTreeMap::new();
        for record in &found[topic] {
            let key = record.key.clone().unwrap();
            if let Some(value) = &record.value {
                assert_eq!(value[field].to_string().trim_matches('"'), key);
            }
            assert_eq!(*homes.entry(key).or_insert(record.partition), record.partition);
        }
        assert!(homes.values().collect::<BTreeSet<_>>().len() == 3, "{topic}");
    }
    assert!(found["ad-events"].iter().chain(&found["conversion-events"]).all(|record| record.key.is_none()));
    // A deletion is a null value, and only that.
    let deleted = |topic: &str| found[topic].iter().filter(|record| record.value.is_none()).count();
    assert!(deleted("product-metrics") > 0 && deleted("product-meta") > 0);
    assert_eq!(deleted("campaign-events") + deleted("ad-events") + deleted("conversion-events"), 0);
    let values = found["product-meta"].iter().filter_map(|record| record.value.as_ref());
    assert!(values.into_iter().all(|value| value.get("product_price").is_some()));
}

#[test]
fn live_traffic_happens_now_at_the_rate_that_is_asked_for() {
    let Some(place) = Place::new("live") else { return };
    place.succeeds("topics create --partitions 3");
    let before = now();
    let output = place.succeeds(&format!("generate --to-kafka --rate 1000 --for 2s {SMALL}"));
    let took = now() - before;
    assert!((1_900..30_000).contains(&took), "{took} ms");
    let records = place.records("ad-events");
    assert_eq!((records.len(), told(&output, "ad-events")), (2000, 2000));
    for record in records {
        let time = record.value.unwrap()["timestamp_field"].clone();
        let Some(text) = time.as_str().filter(|text| text.contains(' ')) else { continue };
        let time = adtide_dataflows::model::EventTime::parse(text).unwrap().0;
        // It happened up to half a minute before it arrived, and never after that.
        assert!((-30_000..=0).contains(&(time - record.timestamp)), "{text} at {}", record.timestamp);
    }
}

#[test]
fn what_is_committed_after_the_first_look_is_within_the_next_one() {
    let Some(place) = Place::new("watch") else { return };
    place.succeeds("topics create --partitions 3");
    let watch = Watch::start(&place.kafka, &[Topic::AdEvents]).unwrap();
    let size = |extents: Extents| -> u64 { extents.values().map(|extent| extent.end - extent.start).sum() };
    assert_eq!((watch.extents().len(), size(watch.extents())), (3, 0));
    // Ever more, at whatever moment between the looks of the watch's own.
    let producer: BaseProducer = place.kafka.client().create().unwrap();
    for expected in 1..=200 {
        let topic = place.kafka.topic("ad-events");
        producer.send(BaseRecord::<(), _>::to(&topic).payload("{}")).unwrap();
        producer.flush(Duration::from_secs(20)).unwrap();
        assert_eq!(size(watch.look_again().unwrap()), expected);
        assert_eq!(size(watch.extents()), expected);
    }
}

#[test]
fn topics_that_are_not_there_are_named() {
    let Some(place) = Place::new("missing") else { return };
    let output = place.run(&format!("generate --to-kafka --ad-events 10 {SMALL}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains(&place.kafka.topic("ad-events")), "{stderr}");
    assert!(stderr.contains("create the topics with `adtide topics create`"), "{stderr}");
}
