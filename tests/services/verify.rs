//! `adtide verify` of results in PostgreSQL, Redis and Kafka: right ones pass at any moment, wrong ones are
//! named.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use adtide::connect::kafka::KafkaConfig;
use adtide::source::generator::{GeneratorConfig, Traffic};
use adtide_dataflows::model::Topic;
use postgres::{Client, NoTls};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Message, Offset, TopicPartitionList};
use serde_json::{Value, json};
use tempfile::TempDir;

const PARTITIONS: i32 = 3;
const OUTPUTS: [&str; 3] = ["compensation-events", "late-events", "dead-letter"];
const DEADLINE: Duration = Duration::from_secs(120);
const ANSWER: Duration = Duration::from_secs(20);

/// Nobody else may have rankings in this database meanwhile.
const REDIS_DATABASE: &str = "13";
static REDIS: Mutex<()> = Mutex::new(());

/// A deployment of its own: a database, topics under a prefix, an empty Redis.
struct Deployment {
    folder: TempDir,
    kafka: KafkaConfig,
    postgres: String,
    redis: String,
    database: String,
    _alone: MutexGuard<'static, ()>,
}

/// A record to be sent: topic, partition, key, value, timestamp.
type Outgoing = (Topic, i32, Option<&'static str>, Option<Vec<u8>>, i64);

impl Deployment {
    /// None without the three servers.
    fn new() -> Option<Deployment> {
        let address = |name: &str| match std::env::var(name) {
            Ok(address) => Some(address),
            Err(_) => {
                eprintln!("SKIPPED: {name} is not set; see scripts/services");
                None
            }
        };
        let postgres = address("ADTIDE_TEST_POSTGRES_URL")?;
        let redis = address("ADTIDE_TEST_REDIS_URL")?;
        let brokers = address("ADTIDE_TEST_KAFKA_BROKERS")?;
        let alone = REDIS.lock().unwrap_or_else(PoisonError::into_inner);
        let database = format!("verify_{}", uuid::Uuid::new_v4().simple());
        Client::connect(&postgres, NoTls)
            .unwrap()
            .batch_execute(&format!("CREATE DATABASE {database}"))
            .unwrap();
        let redis = format!("{}/{REDIS_DATABASE}", redis.rsplit_once('/').unwrap().0);
        let kafka = KafkaConfig {
            brokers,
            prefix: format!("{database}-"),
            connect_timeout: Duration::from_secs(10),
            ..KafkaConfig::default()
        };
        let deployment = Deployment {
            folder: tempfile::tempdir().unwrap(),
            kafka,
            postgres: postgres.rsplit_once('/').unwrap().0.to_owned(),
            redis,
            database,
            _alone: alone,
        };
        redis::cmd("FLUSHDB").exec(&mut deployment.redis()).unwrap();
        deployment.create_topics();
        deployment.write_config(&deployment.database);
        Some(deployment)
    }

    fn write_config(&self, database: &str) {
        let config = format!(
            "name = 'verify'\nepoch_interval = '20ms'\nidle_timeout = '500ms'\n[source]\nkind = 'kafka'\n[sink]\nkind = 'services'\n\
             [kafka]\nbrokers = '{}'\nprefix = '{}'\n[postgres]\nurl = '{}/{database}'\n[redis]\nurl = '{}'\n",
            self.kafka.brokers, self.kafka.prefix, self.postgres, self.redis
        );
        fs::write(self.folder.path().join("adtide.toml"), config).unwrap();
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.kafka.client().create().unwrap()
    }

    fn create_topics(&self) {
        let names: Vec<_> = Topic::ALL.iter().map(|topic| topic.name()).chain(OUTPUTS).collect();
        let names: Vec<_> = names.into_iter().map(|name| self.kafka.topic(name)).collect();
        let progress = self.kafka.topic("adtide-progress");
        let mut topics: Vec<_> =
            names.iter().map(|name| NewTopic::new(name, PARTITIONS, TopicReplication::Fixed(1))).collect();
        topics.push(NewTopic::new(&progress, 1, TopicReplication::Fixed(1)).set("cleanup.policy", "compact"));
        let topics: Vec<_> = topics.into_iter().map(|topic| topic.set("retention.ms", "-1")).collect();
        for created in block_on(self.admin().create_topics(&topics, &AdminOptions::new())).unwrap() {
            created.unwrap();
        }
    }

    /// Sends the records in transactions; after each of them, one that is aborted.
    fn send(&self, records: &[Outgoing]) {
        let mut client = self.kafka.client();
        client.set("transactional.id", format!("{}source", self.kafka.prefix));
        let producer: BaseProducer = client.create().unwrap();
        producer.init_transactions(ANSWER).unwrap();
        let send = |(topic, partition, key, value, timestamp): &Outgoing| {
            let name = self.kafka.topic(topic.name());
            let mut record = BaseRecord::<str, [u8]>::to(&name).partition(*partition).timestamp(*timestamp);
            record.key = *key;
            record.payload = value.as_deref();
            producer.send(record).map_err(|(error, _)| error).unwrap();
        };
        for chunk in records.chunks(700) {
            producer.begin_transaction().unwrap();
            chunk.iter().for_each(send);
            producer.commit_transaction(ANSWER).unwrap();
            producer.begin_transaction().unwrap();
            chunk.iter().take(20).for_each(send);
            producer.flush(ANSWER).unwrap();
            producer.abort_transaction(ANSWER).unwrap();
        }
    }

    fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_adtide"));
        command
            .args(arguments.split_whitespace())
            .args(["--config", "adtide.toml"])
            .current_dir(self.folder.path());
        command
    }

    fn start(&self, arguments: &str) -> Child {
        let log = fs::File::create(self.folder.path().join(format!("{arguments}.stderr"))).unwrap();
        self.command(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap()
    }

    fn succeeds(&self, arguments: &str) {
        let output = self.command(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// What verification prints.
    fn verify(&self) -> String {
        let output = self.command("verify").output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        let stdout = String::from_utf8(output.stdout).unwrap();
        let code = if stdout.starts_with("verified") { 0 } else { 1 };
        assert!(output.status.code() == Some(code) && !stdout.is_empty(), "{stdout}{stderr}");
        stdout
    }

    #[track_caller]
    fn assert_verified(&self) -> String {
        let report = self.verify();
        assert!(report.starts_with("verified"), "{report}");
        report
    }

    fn postgres(&self, database: &str) -> Client {
        Client::connect(&format!("{}/{database}", self.postgres), NoTls).unwrap()
    }

    fn redis(&self) -> redis::Connection {
        redis::Client::open(self.redis.as_str()).unwrap().get_connection().unwrap()
    }

    /// Verifies a copy of the database that a statement has changed.
    fn verify_after(&self, sql: &str) -> String {
        let copy = format!("{}_copy", self.database);
        let mut admin = self.postgres("postgres");
        admin.batch_execute(&format!("CREATE DATABASE {copy} TEMPLATE {}", self.database)).unwrap();
        let changed = self.postgres(&copy).execute(sql, &[]).unwrap();
        assert_eq!(changed, 1, "{sql}");
        self.write_config(&copy);
        let report = self.verify();
        self.write_config(&self.database);
        admin.batch_execute(&format!("DROP DATABASE {copy}")).unwrap();
        report
    }

    /// Verifies with one value in Redis replaced, or none there.
    fn verify_with(&self, key: &str, value: Option<&str>) -> String {
        let mut redis = self.redis();
        let before: Option<String> = redis::cmd("GET").arg(key).query(&mut redis).unwrap();
        let set = |value: Option<&str>, redis: &mut redis::Connection| match value {
            Some(value) => redis::cmd("SET").arg(key).arg(value).exec(redis).unwrap(),
            None => redis::cmd("DEL").arg(key).exec(redis).unwrap(),
        };
        set(value, &mut redis);
        let report = self.verify();
        set(before.as_deref(), &mut redis);
        report
    }

    /// A committed record of a topic.
    fn any_record(&self, topic: &str) -> Vec<u8> {
        let mut client = self.kafka.client();
        client.set("group.id", "test").set("enable.partition.eof", "true").set("enable.auto.commit", "false");
        let consumer: BaseConsumer = client.create().unwrap();
        let mut assignment = TopicPartitionList::new();
        for partition in 0..PARTITIONS {
            assignment.add_partition_offset(&self.kafka.topic(topic), partition, Offset::Beginning).unwrap();
        }
        consumer.assign(&assignment).unwrap();
        loop {
            match consumer.poll(ANSWER).expect("no answer from Kafka") {
                Ok(message) => {
                    let record = message.payload().unwrap().to_vec();
                    // Letters of ledger workers are not the run's.
                    if serde_json::from_slice::<Value>(&record).unwrap()["worker"].is_null() {
                        return record;
                    }
                }
                Err(KafkaError::PartitionEOF(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Adds a record to an output topic.
    fn forge(&self, topic: &str, value: &[u8]) {
        let producer: BaseProducer = self.kafka.client().create().unwrap();
        let name = self.kafka.topic(topic);
        producer.send(BaseRecord::<str, [u8]>::to(&name).payload(value)).map_err(|(error, _)| error).unwrap();
        producer.flush(ANSWER).unwrap();
    }
}

impl Drop for Deployment {
    fn drop(&mut self) {
        let names: Vec<_> =
            Topic::ALL.iter().map(|topic| topic.name()).chain(OUTPUTS).chain(["adtide-progress"]).collect();
        let names: Vec<_> = names.into_iter().map(|name| self.kafka.topic(name)).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let _ = block_on(self.admin().delete_topics(&names, &AdminOptions::new()));
        let _ = redis::cmd("FLUSHDB").exec(&mut self.redis());
        let drop = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.database);
        let _ = self.postgres("postgres").batch_execute(&drop);
    }
}

/// A child that does not outlive its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

/// An hour of traffic, and one of each kind of record that only Kafka has: null values, with and without a
/// product for a key, and an event that is ahead of its own timestamp, though not of the clock.
fn traffic() -> Vec<Outgoing> {
    let config = GeneratorConfig {
        ad_events: 9000,
        campaign_events: 400,
        campaigns: 100,
        products: 60,
        devices: 600,
        malformed: 0.003,
        span_ms: 3_600_000,
        partitions: PARTITIONS as u32,
        ..GeneratorConfig::default()
    };
    let mut traffic = Traffic::new(&config).unwrap();
    let (mut records, mut line) = (Vec::new(), Vec::new());
    while let Some(arrival) = traffic.next(&mut line) {
        records.push((arrival.topic, arrival.partition as i32, None, Some(line.clone()), arrival.at.0));
    }
    let at = config.start.0;
    let early = format!(
        r#"{{"event_type":"IMPRESSION","timestamp_field":{},"campaign_id":1,"product_id":1,"placement":"top"}}"#,
        at + 3_600_001
    );
    let special: [Outgoing; 6] = [
        (Topic::ProductMetrics, 0, Some("3"), None, at),
        (Topic::ProductMeta, 1, Some("5"), None, at),
        (Topic::ProductMeta, 1, Some("five"), None, at),
        (Topic::AdEvents, 2, Some("7"), None, at),
        (Topic::ConversionEvents, 2, None, Some(Vec::new()), at),
        (Topic::AdEvents, 1, None, Some(early.into_bytes()), at),
    ];
    let middle = records.len() / 2;
    records.splice(middle..middle, special);
    records
}

/// The same for `init-demo`.
const GENERATOR: &str = "--set generator.ad_events=9000 --set generator.campaigns=100 --set generator.products=60 \
                         --set generator.devices=600 --set generator.span=1h";

/// Differences by section.
fn differences(report: &str) -> BTreeMap<String, u64> {
    let section = |line: &str| {
        let (name, rest) = line.split_once(" different")?.0.trim_start().split_at(13);
        Some((name.trim().to_owned(), rest.rsplit_once(' ')?.1.parse().ok()?))
    };
    report.lines().filter_map(section).collect()
}

/// It must have found exactly so many differences, in this section, and name them.
#[track_caller]
fn assert_found(report: &str, section: &str, count: u64, words: &str) {
    let found: Vec<_> = differences(report).into_iter().filter(|(_, count)| *count > 0).collect();
    assert_eq!(found, [(section.to_owned(), count)], "{report}");
    assert!(report.contains(words), "{words:?} is not in {report}");
}

#[test]
fn a_run_is_verified_while_it_goes_on_after_a_kill_and_at_its_end_and_whatever_is_changed_is_found() {
    let Some(place) = Deployment::new() else { return };
    let records = traffic();
    let (first, second) = records.split_at(records.len() * 2 / 3);
    place.send(first);
    place.succeeds(&format!("init-demo {GENERATOR}"));
    let mut running = Running(place.start("run -w 2"));
    let mut workers = Running(place.start("worker all"));
    let started = Instant::now();
    let arrived = || !place.redis_keys().is_empty() && place.counts().iter().all(|count| *count > 0);
    while !arrived() {
        let log = || fs::read_to_string(place.folder.path().join("run -w 2.stderr")).unwrap();
        assert!(started.elapsed() < DEADLINE && running.0.try_wait().unwrap().is_none(), "{}", log());
        std::thread::sleep(Duration::from_millis(50));
    }
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| place.send(second));
        while !sending.is_finished() {
            place.assert_verified();
        }
    });
    let report = place.assert_verified();
    assert!(report.contains("postgres as of epoch") && report.contains("windows open"), "{report}");
    for killed in [&mut running, &mut workers] {
        killed.0.kill().unwrap();
        killed.0.wait().unwrap();
    }
    place.assert_verified();
    place.succeeds("run -w 2 --until-end");
    place.succeeds("worker all --until-end");
    let report = place.assert_verified();
    for sink in ["postgres", "redis", "kafka"] {
        let line = report.lines().find(|line| line.contains(&format!("{sink} as of"))).unwrap();
        // What campaign-status has announced since then lies behind.
        assert!(line.contains("the input had ended, everything is closed"), "{report}");
    }
    for (section, _) in differences(&report) {
        let line = report.lines().find(|line| line.trim_start().starts_with(&section)).unwrap();
        assert!(!line.contains(" 0 compared"), "{report}");
    }
    assert_eq!(differences(&report).len(), 10, "{report}");

    changes_are_found(&place);
    changes_of_the_ledger_are_found(&place);
    forgeries_are_found(&place);
}

impl Deployment {
    fn redis_keys(&self) -> Vec<String> {
        redis::cmd("KEYS").arg("rtb:ranking:*").query(&mut self.redis()).unwrap()
    }

    /// Rows of the two tables.
    fn counts(&self) -> [i64; 2] {
        let mut client = self.postgres(&self.database);
        ["ad_performance_metrics_realtime", "conversion_attribution_results"].map(|table| {
            client.query_one(&format!("SELECT count(*) FROM {table}"), &[]).map_or(0, |row| row.get(0))
        })
    }
}

/// Changes what is in PostgreSQL and Redis, one thing at a time.
fn changes_are_found(place: &Deployment) {
    let performance = "ad_performance_metrics_realtime";
    let attributions = "conversion_attribution_results";
    let faults = [
        ("performance", performance, "total_spend = total_spend + 0.01", "total_spend"),
        ("performance", performance, "is_final = false", "is_final=0"),
        ("performance", performance, "ctr = ctr + 0.0001", "ctr"),
        ("performance", performance, "roas = roas + 0.0001", "roas"),
        ("attributions", attributions, "ad_id = NULL", "ad_id=null"),
        ("attributions", attributions, "click_time = click_time - interval '1 ms'", "click_time"),
    ];
    for (section, table, change, words) in faults {
        let one = format!("ctid = (SELECT max(ctid) FROM {table})");
        assert_found(
            &place.verify_after(&format!("UPDATE {table} SET {change} WHERE {one}")),
            section,
            1,
            words,
        );
    }
    for (section, table) in [("performance", performance), ("attributions", attributions)] {
        let delete = format!("DELETE FROM {table} WHERE ctid = (SELECT max(ctid) FROM {table})");
        assert_found(&place.verify_after(&delete), section, 1, "missing: 1");
    }
    let invented = "INSERT INTO conversion_attribution_results VALUES (NULL, NULL, 1, 1, 'o', 0.5, 1, 'LAST_CLICK', \
                    now(), now(), now())";
    assert_found(&place.verify_after(invented), "attributions", 1, "unexpected: 1");

    let keys = place.redis_keys();
    let value: String = redis::cmd("GET").arg(&keys[0]).query(&mut place.redis()).unwrap();
    let mut ranking: Value = serde_json::from_str(&value).unwrap();
    ranking["total_campaigns"] = json!(ranking["total_campaigns"].as_i64().unwrap() + 1);
    assert_found(&place.verify_with(&keys[0], Some(&ranking.to_string())), "rankings", 1, "total_campaigns");
    assert_found(&place.verify_with(&keys[0], None), "rankings", 1, "missing: 1");
    assert_found(
        &place.verify_with("rtb:ranking:roof:toys", Some(&value)),
        "rankings",
        1,
        "rtb:ranking:roof:toys",
    );
    let mut ranking: Value = serde_json::from_str(&value).unwrap();
    ranking["ranking"][0]["bid_price"] = json!("1.00");
    assert_found(&place.verify_with(&keys[0], Some(&ranking.to_string())), "rankings", 1, "[0].bid_price");
    place.assert_verified();
}

/// Changes what the workers wrote.
fn changes_of_the_ledger_are_found(place: &Deployment) {
    assert_found(
        &place.verify_after("UPDATE advertisers SET balance = balance + 0.01 WHERE advertiser_id = 1"),
        "balances",
        1,
        "expected a balance of",
    );
    assert_found(
        &place.verify_after("UPDATE campaigns SET credits = credits + 0.01 WHERE campaign_id = 1"),
        "budgets",
        1,
        "credits",
    );
    for (kind, section) in [("DEBIT", "debits"), ("CREDIT", "credits")] {
        let entry = format!("(SELECT min(entry_id) FROM balance_ledger WHERE entry_type = '{kind}')");
        let report = place.verify_after(&format!("DELETE FROM balance_ledger WHERE entry_id = {entry}"));
        assert_eq!(differences(&report)[section], 1, "{report}");
        let change = format!("UPDATE balance_ledger SET amount = amount + 0.01 WHERE entry_id = {entry}");
        let report = place.verify_after(&change);
        // Of a credit that is too high, the group has got too much as well.
        assert_eq!(differences(&report)[section], if kind == "DEBIT" { 1 } else { 2 }, "{report}");
        assert_eq!(differences(&report)["balances"], 1, "{report}");
    }
    let mut redis = place.redis();
    let spent: String = redis::cmd("HGET").arg("budget:campaign:1").arg("spent").query(&mut redis).unwrap();
    redis::cmd("HSET").arg("budget:campaign:1").arg("spent").arg("0.00").exec(&mut redis).unwrap();
    assert_found(&place.verify(), "budgets", 1, "spent");
    redis::cmd("HSET").arg("budget:campaign:1").arg("spent").arg(spent).exec(&mut redis).unwrap();
    place.assert_verified();
}

/// Adds records to the output topics. They can't be taken back, so each adds to the differences.
fn forgeries_are_found(place: &Deployment) {
    for (topic, section) in
        [("late-events", "late events"), ("dead-letter", "dead letters"), ("compensation-events", "refunds")]
    {
        place.forge(topic, &place.any_record(topic));
        let report = place.verify();
        assert_eq!(differences(&report)[section], 1, "{report}");
        assert!(report.contains("once more"), "{report}");
        place.forge(topic, b"not JSON");
        let report = place.verify();
        assert_eq!(differences(&report)[section], 2, "{report}");
    }
}
