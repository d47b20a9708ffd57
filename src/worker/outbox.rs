//! The way out to `campaign-events`.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use super::CAMPAIGN_EVENTS;
use super::store::Waiting;
use super::store::sqlite::SqliteStore;
use crate::connect::Fault;
use crate::connect::kafka::{Deliveries, KafkaConfig};
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
    /// None after a failure: what is still on its way is given up with its producer.
    producer: Option<BaseProducer<Deliveries>>,
}

impl KafkaOutbox {
    /// An outbox that connects when it is needed.
    pub fn new(config: KafkaConfig) -> KafkaOutbox {
        KafkaOutbox { config, producer: None }
    }

    fn open(&self) -> Result<BaseProducer<Deliveries>, Fault> {
        let mut client = self.config.client();
        client.set("enable.idempotence", "true").set("acks", "all");
        client.set("message.timeout.ms", DELIVERY.as_millis().to_string());
        client.create_with_context(Deliveries::default()).map_err(|error| self.config.fault(error))
    }
}

impl Outbox for KafkaOutbox {
    fn publish(&mut self, events: &[Waiting]) -> Result<(), Fault> {
        let topic = self.config.topic(CAMPAIGN_EVENTS);
        let producer = match self.producer.take() {
            Some(producer) => producer,
            None => self.open()?,
        };
        for event in events {
            let key = event.campaign_id.to_string();
            let record = BaseRecord::to(&topic).key(&key).payload(&event.event);
            producer.send(record).map_err(|(error, _)| self.config.fault(error))?;
        }
        // A record that can't be delivered fails by itself after this long.
        producer.flush(2 * DELIVERY).map_err(|error| self.config.fault(error))?;
        if let Some(error) = producer.context().failure() {
            return Err(self.config.fault(error.clone()));
        }
        self.producer = Some(producer);
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
