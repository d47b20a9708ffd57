//! A database, topics and a Redis database of a test's own, and the binary run on them.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use postgres::{Client, NoTls, SimpleQueryMessage};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};
use redis::Commands;
use serde_json::Value;
use tempfile::TempDir;

use crate::deployment::eventually;

/// How long anything may take before a test gives up.
const DEADLINE: Duration = Duration::from_secs(90);

/// Redis has few databases, and keys of budgets have no prefix: one test at a time.
static REDIS: Mutex<()> = Mutex::new(());

/// The database in Redis.
const REDIS_DATABASE: i64 = 11;

const TOPICS: [&str; 3] = ["ad-events", "campaign-events", "compensation-events"];

pub struct Place {
    folder: TempDir,
    brokers: String,
    server: String,
    pub postgres: String,
    pub redis: String,
    name: String,
    partitions: i32,
    _redis: MutexGuard<'static, ()>,
}

/// A process in the background; killed when the test ends before it does.
pub struct Running {
    child: Child,
    log: PathBuf,
}

impl Place {
    /// With as many partitions a topic. None, and a word about it, without servers.
    pub fn new(partitions: i32) -> Option<Place> {
        let variable = |name: &str| {
            let value = std::env::var(name).ok().filter(|value| !value.is_empty());
            if value.is_none() {
                eprintln!("SKIPPED: {name} is not set; see scripts/services");
            }
            value
        };
        let server = variable("ADTIDE_TEST_POSTGRES_URL")?;
        let redis = variable("ADTIDE_TEST_REDIS_URL")?;
        let brokers = variable("ADTIDE_TEST_KAFKA_BROKERS")?;
        let name = format!("workers_{}", uuid::Uuid::new_v4().simple());
        let postgres = format!("{}/{name}", server.rsplit_once('/').unwrap().0);
        let redis = format!("{}/{REDIS_DATABASE}", redis.rsplit_once('/').unwrap().0);
        let lock = REDIS.lock().unwrap_or_else(PoisonError::into_inner);
        Client::connect(&server, NoTls).unwrap().batch_execute(&format!("CREATE DATABASE {name}")).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let place = Place { folder, brokers, server, postgres, redis, name, partitions, _redis: lock };
        let config = format!(
            "source.kind = \"kafka\"\nsink.kind = \"services\"\n[kafka]\nbrokers = \"{}\"\nprefix = \"{}-\"\n\
             [postgres]\nurl = \"{}\"\n[redis]\nurl = \"{}\"\n",
            place.brokers, place.name, place.postgres, place.redis
        );
        fs::write(place.folder.path().join("adtide.toml"), config).unwrap();
        place.run("migrate");
        place.flush();
        place.create_topics();
        Some(place)
    }

    /// Starts over: empty tables, topics and budgets.
    pub fn reset(&self) {
        self.execute(
            "TRUNCATE advertisers, campaigns, balance_ledger, worker_offsets, campaign_outbox RESTART IDENTITY",
        );
        self.flush();
        self.make_topics_anew();
    }

    /// Deletes the topics, and creates them again.
    pub fn make_topics_anew(&self) {
        self.delete_topics();
        assert!(eventually(|| self.topics_there() == 0), "topics are not deleted");
        self.create_topics();
    }

    fn flush(&self) {
        let mut redis = redis::Client::open(&*self.redis).unwrap().get_connection().unwrap();
        redis::cmd("FLUSHDB").exec(&mut redis).unwrap();
    }

    fn client(&self) -> ClientConfig {
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", &self.brokers);
        client
    }

    fn topic(&self, topic: &str) -> String {
        format!("{}-{topic}", self.name)
    }

    fn create_topics(&self) {
        self.run(&format!("topics create --partitions {}", self.partitions));
    }

    fn delete_topics(&self) {
        let admin: AdminClient<DefaultClientContext> = self.client().create().unwrap();
        let metadata = admin.inner().fetch_metadata(None, Duration::from_secs(10)).unwrap();
        let names: Vec<&str> = metadata
            .topics()
            .iter()
            .map(|topic| topic.name())
            .filter(|name| name.starts_with(&self.name))
            .collect();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let _ = runtime.block_on(admin.delete_topics(&names, &Default::default()));
    }

    fn topics_there(&self) -> usize {
        let admin: AdminClient<DefaultClientContext> = self.client().create().unwrap();
        let metadata = admin.inner().fetch_metadata(None, Duration::from_secs(10)).unwrap();
        metadata.topics().iter().filter(|topic| topic.name().starts_with(&self.name)).count()
    }

    /// Appends records, dealt over the partitions.
    pub fn produce(&self, topic: &str, records: &[String]) {
        let producer: BaseProducer = self.client().set("linger.ms", "20").create().unwrap();
        let topic = self.topic(topic);
        for (number, record) in records.iter().enumerate() {
            let partition = (number % self.partitions as usize) as i32;
            let send = |record| producer.send(record).err();
            let mut failed = send(BaseRecord::<(), str>::to(&topic).partition(partition).payload(record));
            while let Some((_, again)) = failed {
                producer.poll(Duration::from_millis(10));
                failed = send(again);
            }
        }
        producer.flush(DEADLINE).unwrap();
    }

    /// Adds partitions to a topic.
    pub fn set_partitions(&mut self, topic: &str, partitions: i32) {
        let admin: AdminClient<DefaultClientContext> = self.client().create().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (name, count) = (self.topic(topic), usize::try_from(partitions).unwrap());
        let new = NewPartitions::new(&name, count);
        runtime.block_on(admin.create_partitions(&[new], &AdminOptions::new())).unwrap().remove(0).unwrap();
        self.partitions = partitions;
    }

    /// What is in `campaign-events` and was written by adtide, by partition and offset.
    pub fn own_campaign_events(&self) -> Vec<Value> {
        self.own_campaign_records().into_iter().map(|(_, event)| event).collect()
    }

    /// The same, with the partition.
    pub fn own_campaign_records(&self) -> Vec<(i32, Value)> {
        let (mut own, topic) = (Vec::new(), TOPICS[1]);
        self.each_record(topic, &mut |partition, key, event| {
            if event["source"] == "adtide-campaign-status" {
                assert_eq!(key, event["campaign_id"].to_string());
                own.push((partition, event));
            }
        });
        own
    }

    /// All records of a topic: key and value.
    pub fn records(&self, topic: &str) -> Vec<(String, Value)> {
        let mut records = Vec::new();
        self.each_record(topic, &mut |_, key, value| records.push((key, value)));
        records
    }

    /// Calls `each` with partition, key and value of every record that is JSON, by partition and offset.
    fn each_record(&self, topic: &str, each: &mut dyn FnMut(i32, String, Value)) {
        let mut client = self.client();
        client
            .set("group.id", &self.name)
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true");
        let consumer: BaseConsumer = client.create().unwrap();
        let mut list = TopicPartitionList::new();
        for partition in 0..self.partitions {
            list.add_partition_offset(&self.topic(topic), partition, Offset::Beginning).unwrap();
        }
        consumer.assign(&list).unwrap();
        let mut ended = 0;
        while ended < self.partitions {
            match consumer.poll(DEADLINE).expect("Kafka does not answer") {
                Ok(message) => {
                    let key = String::from_utf8(message.key().unwrap_or_default().to_vec()).unwrap();
                    if let Ok(value) = serde_json::from_slice(message.payload().unwrap()) {
                        each(message.partition(), key, value);
                    }
                }
                Err(KafkaError::PartitionEOF(_)) => ended += 1,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// What Redis has of a campaign: spent and refunded.
    pub fn budget(&self, campaign: u32) -> (String, String) {
        let mut redis = redis::Client::open(&*self.redis).unwrap().get_connection().unwrap();
        redis.hmget(format!("budget:campaign:{campaign}"), &["spent", "refunded"]).unwrap()
    }

    pub fn execute(&self, sql: &str) {
        Client::connect(&self.postgres, NoTls).unwrap().batch_execute(sql).unwrap();
    }

    pub fn rows(&self, sql: &str) -> Vec<String> {
        let mut client = Client::connect(&self.postgres, NoTls).unwrap();
        let text = |message| match message {
            SimpleQueryMessage::Row(row) => {
                let cells = (0..row.len()).map(|column| row.get(column).unwrap_or("null"));
                Some(cells.collect::<Vec<_>>().join(" "))
            }
            _ => None,
        };
        client.simple_query(sql).unwrap().into_iter().filter_map(text).collect()
    }

    fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_adtide"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ADTIDE_") {
                command.env_remove(name);
            }
        }
        command
            .args(arguments.split_whitespace())
            .args(["--config", "adtide.toml"])
            .current_dir(self.folder.path());
        command
    }

    /// `adtide ARGUMENTS` to its good end; what it logs.
    #[track_caller]
    pub fn run(&self, arguments: &str) -> String {
        let output =
            assert_cmd::Command::from_std(self.command(arguments)).timeout(DEADLINE).output().unwrap();
        let log = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{arguments}: {}\n{log}", output.status);
        log
    }

    /// The same, but it must fail.
    #[track_caller]
    pub fn fails(&self, arguments: &str) -> String {
        let output =
            assert_cmd::Command::from_std(self.command(arguments)).timeout(DEADLINE).output().unwrap();
        let log = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{log}");
        log
    }

    /// `adtide ARGUMENTS` in the background. `name` tells its log from that of others.
    pub fn start(&self, name: &str, arguments: &str) -> Running {
        let log = self.folder.path().join(format!("{name}.log"));
        let mut command = self.command(arguments);
        command.stderr(File::create(&log).unwrap()).stdout(Stdio::null()).stdin(Stdio::null());
        Running { child: command.spawn().unwrap(), log }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.delete_topics();
        if let Ok(mut client) = Client::connect(&self.server, NoTls) {
            let _ = client.batch_execute(&format!("DROP DATABASE {} WITH (FORCE)", self.name));
        }
    }
}

impl Running {
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    /// What a page answers, of a process that serves at a port of its own choice: status and body.
    pub fn get(&self, page: &str) -> (u16, String) {
        let address =
            || self.log().lines().find_map(|line| Some(line.split_once("address=")?.1.trim().to_owned()));
        assert!(eventually(|| address().is_some()), "{}", self.log());
        let address = address().unwrap();
        let mut stream = TcpStream::connect(&address).unwrap();
        write!(stream, "GET {page} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    /// Sends a signal, upon which it must end well; what it has logged.
    #[track_caller]
    pub fn end(&mut self, signal: Signal) -> String {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
        let ended = eventually(|| self.child.try_wait().unwrap().is_some());
        assert!(ended, "it does not end: {}", self.log());
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}: {}", self.log());
        self.log()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
