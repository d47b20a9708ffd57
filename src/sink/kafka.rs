//! Output topics in Kafka: `compensation-events`, `late-events` and `dead-letter`.
//!
//! A commit is one transaction, whose last record is the progress, in the compacted topic `adtide-progress`.
//! All runs of a deployment have one transactional id, so a run that starts fences the one before, and ends
//! what that one had left open. Consumers have to read with `isolation.level=read_committed`.
//!
//! Whatever goes wrong in a transaction, the way out is the same: a new producer, which settles the
//! transaction one way or the other, and then the progress, which tells which way.

mod progress;
mod transactions;

use std::time::{Duration, Instant};

use adtide_dataflows::model::{Epoch, Topic};
use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use tracing::warn;

use super::{
    COMPENSATION_EVENTS, Change, Commit, DEAD_LETTER, LATE_EVENTS, Progress, Run, Sink, Stored, TOPICS,
    fenced, rewound,
};
use crate::connect::kafka::{Deliveries, KafkaConfig, QuietConsumer, QuietContext, explain};
use crate::connect::{Fault, persist};
use crate::json;
use progress::ProgressRecord;

pub use progress::TOPIC as PROGRESS;
pub use transactions::{Hidden, Transactions};

/// Statement 4, late events and dead letters in Kafka.
pub struct KafkaSink {
    config: KafkaConfig,
    name: String,
    run: Run,
    /// The number that this run has drawn.
    number: u64,
    stored: Option<Stored>,
    /// The last epoch whose progress is in Kafka.
    committed: Option<Epoch>,
    /// Progress that was not written yet, as no record came with it.
    unwritten: Option<Progress>,
    /// When progress was last written.
    written: Instant,
    /// None after a fault.
    producer: Option<TransactionalProducer>,
    /// When it was last looked whether all shows that is committed.
    looked: Instant,
}

impl KafkaSink {
    /// Connects, and takes over from any older run of the same name: nothing that it has not committed by now
    /// will be.
    ///
    /// # Errors
    /// The brokers can't be reached within `connect_timeout`, or refuse, or a topic is missing; with what to
    /// do.
    pub fn open(config: &KafkaConfig, name: &str, run: Run) -> anyhow::Result<KafkaSink> {
        // What another run has left open ends with its transaction's time, if not before.
        let patience = config.connect_timeout.max(TRANSACTION);
        let (producer, record) = persist("opening Kafka", Some(patience), || {
            check_topics(config)?;
            let producer = start(config, name)?;
            let held = progress::read(config, name)?;
            let (number, stored) = held.map_or((0, None), |held| (held.run_number, held.stored));
            let record = ProgressRecord { run_number: number + 1, stored };
            let draw = record.outgoing(config, name).map_err(Fault::Lasting)?;
            transact(&producer, &[], &draw, TRANSACTION).map_err(|error| config.fault(error))?;
            Ok((producer, record))
        })?;
        // What the run before had left open is settled by now.
        warn_of_hidden(config);
        Ok(KafkaSink {
            config: config.clone(),
            name: name.to_owned(),
            run,
            number: record.run_number,
            committed: record.stored.as_ref().map(|stored| stored.progress.epoch),
            stored: record.stored,
            unwritten: None,
            written: Instant::now(),
            producer: Some(producer),
            looked: Instant::now(),
        })
    }

    fn write(&mut self, records: &[Outgoing], progress: Progress) -> anyhow::Result<()> {
        let epoch = progress.epoch;
        let last = self.record(progress)?;
        persist("writing to Kafka", None, || self.attempt(records, &last, epoch))?;
        self.committed = Some(epoch);
        self.unwritten = None;
        self.written = Instant::now();
        Ok(())
    }

    fn record(&self, progress: Progress) -> anyhow::Result<Outgoing> {
        let stored = Some(Stored { run: self.run.clone(), progress });
        ProgressRecord { run_number: self.number, stored }.outgoing(&self.config, &self.name)
    }

    /// Tries once. After a fault it first finds out what became of the transaction.
    fn attempt(&mut self, records: &[Outgoing], last: &Outgoing, epoch: Epoch) -> Result<(), Fault> {
        let producer = match self.producer.take() {
            Some(producer) => producer,
            None => {
                let (producer, held) = self.settle()?;
                if held == Some(epoch) {
                    self.producer = Some(producer);
                    return Ok(());
                }
                producer
            }
        };
        transact(&producer, records, last, TRANSACTION).map_err(|error| self.config.fault(error))?;
        self.producer = Some(producer);
        Ok(())
    }

    /// A new producer, and the epoch that is committed. Before a new producer can settle an open transaction
    /// it fences every other one, so this looks first whether another run is there: that one has the right of
    /// way.
    fn settle(&self) -> Result<(TransactionalProducer, Option<Epoch>), Fault> {
        self.check_number(progress::read(&self.config, &self.name)?.as_ref())?;
        let producer = start(&self.config, &self.name)?;
        let held = progress::read(&self.config, &self.name)?;
        self.check_number(held.as_ref())?;
        Ok((producer, held.and_then(|held| held.stored).map(|stored| stored.progress.epoch)))
    }

    fn check_number(&self, held: Option<&ProgressRecord>) -> Result<(), Fault> {
        let server = format!("Kafka at {}", self.config.brokers);
        match held {
            Some(held) if held.run_number > self.number => Err(Fault::Lasting(fenced(&server, &self.name))),
            Some(held) if held.run_number == self.number => Ok(()),
            _ => Err(Fault::Lasting(rewound(&server, None, self.committed))),
        }
    }

    fn outgoing(&self, change: &Change) -> Option<Outgoing> {
        let now = crate::now();
        let (topic, key, value) = match change {
            Change::Compensation(row) => {
                (COMPENSATION_EVENTS, row.id(), fit(|longest| json::compensation(row, now, longest)))
            }
            Change::Late(event) => {
                let key = origin(event.topic, event.partition, event.offset);
                (LATE_EVENTS, key, fit(|longest| json::late_event(event, longest)))
            }
            Change::Dead(letter) => {
                let key = origin(letter.topic, letter.partition, letter.offset);
                (DEAD_LETTER, key, fit(|longest| json::dead_letter(letter, longest)))
            }
            _ => return None,
        };
        Some(Outgoing { topic: self.config.topic(topic), partition: None, key, value })
    }
}

impl Sink for KafkaSink {
    fn name(&self) -> &'static str {
        "kafka"
    }

    fn stores_all_progress(&self) -> bool {
        false
    }

    fn stored(&self) -> Option<Stored> {
        self.stored.clone()
    }

    /// A transaction costs the brokers several writes that are flushed to disk, so progress that no record
    /// comes with is written about once a second. Meanwhile the cut in Kafka lies behind. That is no harm: a
    /// replay passes it in the state that it had there, and emits what follows; up to the epoch that was not
    /// written there was nothing, and what is beyond is not in Kafka yet. Only the first is written at once:
    /// to hold nothing of a run that has checkpoints would mean that Kafka was emptied.
    fn commit(&mut self, commit: Commit) -> anyhow::Result<()> {
        let records: Vec<_> =
            commit.epochs.iter().flatten().filter_map(|change| self.outgoing(change)).collect();
        let may_wait =
            self.committed.is_some() && !commit.progress.has_ended() && self.written.elapsed() < SPACING;
        if records.is_empty() && may_wait {
            self.unwritten = Some(commit.progress);
            return Ok(());
        }
        self.write(&records, commit.progress)
    }

    fn tick(&mut self) -> anyhow::Result<()> {
        // The marks of the last transaction are long there. A partition that gets more is not looked at: its
        // next transaction ends the one before as well.
        if self.looked.elapsed() >= LOOK {
            self.looked = Instant::now();
            warn_of_hidden(&self.config);
        }
        self.unwritten.take().map_or(Ok(()), |progress| self.write(&[], progress))
    }
}

impl Drop for KafkaSink {
    /// Writes what progress there is left. If that fails, the next run only reads a second more.
    fn drop(&mut self) {
        let (Some(progress), Some(producer)) = (self.unwritten.take(), self.producer.take()) else { return };
        let written = self.record(progress).and_then(|last| Ok(transact(&producer, &[], &last, ANSWER)?));
        if let Err(error) = written {
            warn!(error = format!("{error:#}"), "the last progress could not be written to Kafka");
        }
    }
}

/// What the deployment `name` has committed; None if nothing yet. Only reads.
///
/// # Errors
/// The brokers can't be reached within `connect_timeout`, the topic is missing, or another version of adtide
/// wrote it.
pub fn stored(config: &KafkaConfig, name: &str) -> anyhow::Result<Option<Stored>> {
    let patience = config.connect_timeout.max(TRANSACTION);
    let held = persist("reading the progress in Kafka", Some(patience), || progress::read(config, name))?;
    Ok(held.and_then(|held| held.stored))
}

/// Says what was committed and does not show. It can't be mended from here, but must not stay unnoticed.
fn warn_of_hidden(config: &KafkaConfig) {
    // If it can't be looked, something else will say so.
    for hidden in Transactions::hidden(config).unwrap_or_default() {
        warn!(
            "{hidden}: nothing shows to those who read only what is committed, as a transaction is open there. When brokers of \
             Kafka 4.3.0 to 4.4.0 die they may forget to end one that was committed; see \"Versions of Kafka to avoid\" in \
             docs/operations.md"
        );
    }
}

/// How far apart an idle sink looks whether all shows that is committed.
const LOOK: Duration = Duration::from_secs(60);
/// How far apart progress is written that no record comes with.
const SPACING: Duration = Duration::from_secs(1);
/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(5);
/// How long a transaction may take, until the brokers end it.
const TRANSACTION: Duration = Duration::from_secs(60);

/// A record that is to be written.
struct Outgoing {
    topic: String,
    /// None to go by the key.
    partition: Option<i32>,
    key: String,
    value: String,
}

/// Where a record was read: the key of what is said about it.
fn origin(topic: Topic, partition: u32, offset: u64) -> String {
    format!("{}-{partition}-{offset}", topic.name())
}

/// Renders a record so that brokers take it, whose limit by default is one MB: if it is longer as a whole,
/// what is long in it is cut. A record that no broker takes would stop everything.
pub(crate) fn fit(render: impl Fn(usize) -> String) -> String {
    const LONGEST: usize = 900_000;
    /// Of each text. As JSON a character may take six bytes, and there are at most two.
    const CUT: usize = 50_000;
    let whole = render(usize::MAX);
    if whole.len() <= LONGEST { whole } else { render(CUT) }
}

type TransactionalProducer = BaseProducer<Deliveries>;

/// Starts a producer under the deployment's transactional id. Every other one of that id can't commit from
/// now on, and what it had left open is settled.
fn start(config: &KafkaConfig, name: &str) -> Result<TransactionalProducer, Fault> {
    let mut client = config.producer_with(&[]);
    client.set("transactional.id", config.topic(&format!("{name}-sink")));
    client.set("transaction.timeout.ms", TRANSACTION.as_millis().to_string());
    client.set("message.max.bytes", "1000000");
    // Batches come by themselves: a commit is sent at once.
    client.set("linger.ms", "1");
    let producer: TransactionalProducer =
        client.create_with_context(Deliveries::default()).map_err(|error| config.fault(error))?;
    producer.init_transactions(TRANSACTION / 2).map_err(|error| config.fault(error))?;
    Ok(producer)
}

/// Writes the records and, as the last one, the progress, in one transaction. After an error it is open what
/// became of it, and the producer is to be replaced.
fn transact(
    producer: &TransactionalProducer,
    records: &[Outgoing],
    last: &Outgoing,
    patience: Duration,
) -> Result<(), KafkaError> {
    let deadline = Instant::now() + patience;
    producer.begin_transaction()?;
    for record in records.iter().chain([last]) {
        send(producer, record, deadline)?;
    }
    // Not `flush`: it looks for acknowledgements ten times a second only. And not a poll with a timeout: that
    // one spins through its last millisecond.
    let sent = Instant::now();
    while producer.in_flight_count() > 0 {
        producer.poll(Duration::ZERO);
        std::thread::sleep((sent.elapsed() / 8).clamp(Duration::from_micros(500), Duration::from_millis(50)));
        if Instant::now() > deadline {
            return Err(KafkaError::Flush(RDKafkaErrorCode::OperationTimedOut));
        }
    }
    if let Some(error) = producer.context().failure() {
        return Err(error.clone());
    }
    producer.commit_transaction(deadline.saturating_duration_since(Instant::now()))
}

/// Hands a record to the producer, once there is room for it.
fn send(producer: &TransactionalProducer, record: &Outgoing, deadline: Instant) -> Result<(), KafkaError> {
    let mut waiting = BaseRecord::to(&record.topic).key(&record.key).payload(&record.value);
    waiting.partition = record.partition;
    loop {
        match producer.send(waiting) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back))
                if Instant::now() < deadline =>
            {
                producer.poll(Duration::ZERO);
                std::thread::sleep(Duration::from_millis(5));
                waiting = back;
            }
            Err((error, _)) => return Err(error),
        }
    }
}

/// Whether every topic that is written is there.
fn check_topics(config: &KafkaConfig) -> Result<(), Fault> {
    let client: QuietConsumer =
        config.client().create_with_context(QuietContext).map_err(|error| config.fault(error))?;
    for name in TOPICS.into_iter().chain([PROGRESS]) {
        let topic = config.topic(name);
        let metadata = client.fetch_metadata(Some(&topic), ANSWER).map_err(|error| explain(&client, error));
        let metadata = metadata.map_err(|error| config.fault(error))?;
        if metadata.topics().iter().all(|topic| topic.partitions().is_empty()) {
            return Err(Fault::Lasting(config.missing_topics(&[topic])));
        }
    }
    Ok(())
}
