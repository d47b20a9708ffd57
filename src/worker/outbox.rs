//! The way out to `campaign-events`.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use rdkafka::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, BaseRecord, ProducerContext};

use super::CAMPAIGN_EVENTS;
use super::store::Waiting;
use super::store::sqlite::SqliteStore;
use crate::connect::Fault;
use crate::connect::kafka::KafkaConfig;
use crate::source::file::topic_files;

/// Publishes campaign events.
pub trait Outbox {
    /// Appends the events, in order. If it fails, some may have been; doing it again is harmless, as an event carries its
    /// own time.
    ///
    /// # Errors
    /// They can't be written.
    fn publish(&mut self, events: &[Waiting]) -> Result<(), Fault>;
}

/// How long the brokers may take.
const DELIVERY: Duration = Duration::from_secs(30);

/// To Kafka.
pub struct KafkaOutbox {
    config: KafkaConfig,
    open: Option<(BaseProducer<Deliveries>, Receiver<Option<KafkaError>>)>,
}

/// Hears what became of each record.
struct Deliveries(Sender<Option<KafkaError>>);

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        // Nobody waits for it when the producer was given up.
        let _ = self.0.send(result.as_ref().err().map(|(error, _)| error.clone()));
    }
}

impl KafkaOutbox {
    /// An outbox that connects when it is needed.
    pub fn new(config: KafkaConfig) -> KafkaOutbox {
        KafkaOutbox { config, open: None }
    }

    fn open(&self) -> Result<(BaseProducer<Deliveries>, Receiver<Option<KafkaError>>), Fault> {
        let (sender, receiver) = channel();
        let mut client = self.config.client();
        client.set("enable.idempotence", "true").set("acks", "all");
        client.set("message.timeout.ms", DELIVERY.as_millis().to_string());
        let producer = client.create_with_context(Deliveries(sender)).map_err(|error| self.config.fault(error))?;
        Ok((producer, receiver))
    }
}

impl Outbox for KafkaOutbox {
    fn publish(&mut self, events: &[Waiting]) -> Result<(), Fault> {
        let topic = self.config.topic(CAMPAIGN_EVENTS);
        // After a failure there may be old records on their way: those are given up with their producer.
        let (producer, deliveries) = match self.open.take() {
            Some(open) => open,
            None => self.open()?,
        };
        for event in events {
            let key = event.campaign_id.to_string();
            let record = BaseRecord::to(&topic).key(&key).payload(&event.event);
            producer.send(record).map_err(|(error, _)| self.config.fault(error))?;
        }
        let end = Instant::now() + DELIVERY;
        for _ in events {
            let delivered = loop {
                producer.poll(Duration::ZERO);
                match deliveries.try_recv() {
                    Ok(delivered) => break delivered,
                    Err(_) if Instant::now() < end => producer.poll(Duration::from_millis(50)),
                    Err(_) => break Some(KafkaError::MessageProduction(RDKafkaErrorCode::MessageTimedOut)),
                }
            };
            if let Some(error) = delivered {
                return Err(self.config.fault(error));
            }
        }
        self.open = Some((producer, deliveries));
        Ok(())
    }
}

/// To topic files: where the topic is a folder, to a partition of its own, where it is one file, to that.
pub struct FileOutbox {
    folder: PathBuf,
    store: SqliteStore,
    /// A write has failed, so the file may end within a line.
    is_torn: bool,
}

impl FileOutbox {
    /// The outbox of a folder of topics. Which partition is its own stands in the database.
    ///
    /// # Errors
    /// The database can't be opened.
    pub fn new(folder: &Path, database: &Path) -> anyhow::Result<FileOutbox> {
        Ok(FileOutbox { folder: folder.to_owned(), store: SqliteStore::open(database)?, is_torn: false })
    }

    /// The file to append to, and whether nobody else does.
    fn target(&mut self) -> Result<(PathBuf, bool), Fault> {
        let name = CAMPAIGN_EVENTS;
        let single = self.folder.join(format!("{name}.ndjson"));
        if single.is_file() {
            return Ok((single, false));
        }
        let folder = &self.folder;
        let number = self.store.own_partition(|| {
            let files = topic_files(folder)?;
            let taken = files.into_iter().filter(|(topic, _, _)| topic.name() == name).map(|(_, number, _)| number);
            taken.max().map_or(Ok(0), |last| last.checked_add(1).context("no partition number is free"))
        })?;
        Ok((self.folder.join(name).join(format!("{number}.ndjson")), true))
    }

    fn append(&mut self, path: &Path, is_own: bool, events: &[Waiting]) -> anyhow::Result<()> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let mut file = OpenOptions::new().create(true).append(true).read(true).open(path)?;
        let mut lines = Vec::new();
        // An empty line is no record. A torn line becomes a bad record, but takes no good one with it.
        if self.is_torn || is_own && !ends_a_line(&mut file)? {
            lines.push(b'\n');
        }
        for event in events {
            lines.extend_from_slice(event.event.as_bytes());
            lines.push(b'\n');
        }
        // One write, so that no other writer's lines come in between.
        self.is_torn = true;
        let written = file.write(&lines)?;
        anyhow::ensure!(written == lines.len(), "only a part could be written; is the disk full?");
        file.sync_data()?;
        self.is_torn = false;
        Ok(())
    }
}

fn ends_a_line(file: &mut File) -> anyhow::Result<bool> {
    if file.metadata()?.len() == 0 {
        return Ok(true);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last == [b'\n'])
}

impl Outbox for FileOutbox {
    fn publish(&mut self, events: &[Waiting]) -> Result<(), Fault> {
        let (path, is_own) = self.target()?;
        let appended = self.append(&path, is_own, events);
        // Room on the disk may come back; an effect of the ledger waits for it in the outbox.
        appended.map_err(|error| Fault::Passing(anyhow!("can't append to {}: {error:#}", path.display())))
    }
}
