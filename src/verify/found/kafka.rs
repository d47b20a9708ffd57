//! Output topics in Kafka.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::bail;
use rdkafka::Message;

use crate::connect::kafka::KafkaConfig;
use crate::sink::{self, Stored};
use crate::verify::input::Offsets;
use crate::verify::kafka::Reader;

/// How long it is tried to find the topics between two commits.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long the sink is waited for that lags behind the others: a second of epochs without any record may be missing in its
/// progress.
const LAG: Duration = Duration::from_secs(3);

/// The output topics, up to where they ended at the moment of the progress.
pub struct Records {
    reader: Reader,
    ends: BTreeMap<&'static str, Offsets>,
    /// What they stand for.
    pub stored: Option<Stored>,
}

impl Records {
    /// Looks where the topics of the deployment `name` end, between two of its commits. Waits a little for the epoch
    /// `others`.
    ///
    /// # Errors
    /// The brokers can't be reached, a topic is missing, or there is a commit each time.
    pub fn open(config: &KafkaConfig, name: &str, others: u64) -> anyhow::Result<Records> {
        let reader = Reader::new(config)?;
        let started = Instant::now();
        let mut before = sink::kafka::stored(config, name)?;
        loop {
            let ends = ends(&reader)?;
            let stored = sink::kafka::stored(config, name)?;
            let epoch = |stored: &Option<Stored>| stored.as_ref().map(|stored| stored.progress.epoch);
            let waits = epoch(&stored).is_some_and(|epoch| epoch < others) && started.elapsed() < LAG;
            if !waits && epoch(&before) == epoch(&stored) {
                return Ok(Records { reader, ends, stored });
            }
            if started.elapsed() > PATIENCE {
                bail!(
                    "Kafka at {}: the topics change faster than they can be looked at; stop adtide, then verify",
                    config.brokers
                );
            }
            before = stored;
        }
    }

    /// Calls `each` with partition, offset and value of every record.
    ///
    /// # Errors
    /// The topic can't be read.
    pub fn each_record(&mut self, topic: &str, each: &mut dyn FnMut(u32, u64, &[u8])) -> anyhow::Result<()> {
        let ends = self.ends.get(topic).cloned().unwrap_or_default();
        self.reader.read(topic, &ends, &mut |partition, offset, message| {
            each(partition, offset, message.payload().unwrap_or_default());
        })
    }
}

fn ends(reader: &Reader) -> anyhow::Result<BTreeMap<&'static str, Offsets>> {
    let mut ends = BTreeMap::new();
    for topic in sink::topics::TOPICS {
        let bounds = reader.bounds(topic)?;
        ends.insert(topic, bounds.into_iter().map(|(partition, bounds)| (partition, bounds.end)).collect());
    }
    Ok(ends)
}
