//! Output topics in Kafka.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::bail;
use rdkafka::Message;

use crate::connect::kafka::KafkaConfig;
use crate::connect::{Fault, persist};
use crate::sink::kafka::{Hidden, PROGRESS, Transactions};
use crate::sink::{self, Stored};
use crate::verify::input::Offsets;
use crate::verify::kafka::Reader;

/// How long it is tried to find the topics between two commits.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long the sink is waited for that lags behind the others: a second of epochs without any record may be
/// missing in its progress.
const LAG: Duration = Duration::from_secs(3);

/// A transaction that has stood still for so long was left behind: by a run that died, and nothing of it will
/// show; or by a broker that forgot to end it, and what it had committed is hidden.
const ABANDONED: Duration = Duration::from_secs(2);

/// Where the partitions of each topic end.
type Ends = BTreeMap<&'static str, Offsets>;

/// The output topics, up to where they ended at the moment of the progress.
pub struct Records {
    reader: Reader,
    ends: Ends,
    /// What they stand for.
    pub stored: Option<Stored>,
    /// What transactions that were left behind have written.
    pub hidden: Vec<Hidden>,
}

impl Records {
    /// Looks where the topics of the deployment `name` end, between two of its commits. Waits a little for
    /// the epoch `others`.
    ///
    /// # Errors
    /// The brokers can't be reached, a topic is missing, or there is a commit each time.
    pub fn open(config: &KafkaConfig, name: &str, others: u64) -> anyhow::Result<Records> {
        let reader = Reader::new(config)?;
        let transactions = Transactions::new(config).map_err(Fault::into_error)?;
        let started = Instant::now();
        let mut before = sink::kafka::stored(config, name)?;
        let mut unchanged = (Ends::new(), Instant::now());
        while started.elapsed() < PATIENCE {
            let look = || Ok((ends(&transactions)?, transactions.ends(PROGRESS)?.1));
            // The progress comes last: what shows in the topics must be in it.
            let ((ends, hidden), hidden_progress) =
                persist("asking Kafka where its topics end", Some(config.connect_timeout), look)?;
            let stored = sink::kafka::stored(config, name)?;
            let waits = epoch(&stored).is_some_and(|epoch| epoch < others) && started.elapsed() < LAG;
            let is_one_moment = epoch(&before) == epoch(&stored);
            if unchanged.0 != ends || !is_one_moment {
                unchanged = (ends.clone(), Instant::now());
            }
            let all_shows =
                hidden.is_empty() && hidden_progress.is_empty() || unchanged.1.elapsed() >= ABANDONED;
            if is_one_moment && all_shows && !waits {
                return Ok(Records { reader, ends, stored, hidden });
            }
            before = stored;
        }
        bail!(
            "Kafka at {}: the topics change faster than they can be looked at; stop adtide, then verify",
            config.brokers
        );
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

fn epoch(stored: &Option<Stored>) -> Option<u64> {
    stored.as_ref().map(|stored| stored.progress.epoch)
}

/// Where the output topics end, and what does not show there.
fn ends(transactions: &Transactions) -> Result<(Ends, Vec<Hidden>), Fault> {
    let (mut ends, mut hidden) = (Ends::new(), Vec::new());
    for topic in sink::TOPICS {
        let (offsets, more) = transactions.ends(topic)?;
        hidden.extend(more);
        ends.insert(topic, offsets);
    }
    Ok((ends, hidden))
}
