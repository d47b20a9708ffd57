//! What transactions have written and does not show.

use std::collections::BTreeMap;
use std::fmt;

use crate::connect::Fault;
use crate::connect::kafka::{Bounds, KafkaConfig, QuietConsumer, QuietContext, bounds};
use crate::sink::TOPICS;

/// Records of a partition that can't be read by who reads only what is committed, as a transaction there is
/// open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hidden {
    topic: String,
    partition: u32,
    /// The first offset of that transaction.
    from: u64,
}

impl fmt::Display for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Hidden { topic, partition, from } = self;
        write!(f, "{topic} [{partition}] from offset {from} on")
    }
}

/// Sees where topics end, with open transactions and without.
///
/// A transaction is committed at once, but its marks reach the partitions one by one: for a moment it shows
/// in one and not yet in another.
pub struct Transactions {
    config: KafkaConfig,
    committed: QuietConsumer,
    all: QuietConsumer,
}

impl Transactions {
    /// Connects when it is asked something.
    ///
    /// # Errors
    /// The configuration of the clients is wrong.
    pub fn new(config: &KafkaConfig) -> Result<Transactions, Fault> {
        let consumer = |isolation: &str| -> Result<QuietConsumer, Fault> {
            let mut client = config.client();
            // It joins no group and reads nothing, but librdkafka insists on a name.
            client.set("group.id", config.topic("adtide-ends")).set("isolation.level", isolation);
            client.create_with_context(QuietContext).map_err(|error| config.fault(error))
        };
        let (committed, all) = (consumer("read_committed")?, consumer("read_uncommitted")?);
        Ok(Transactions { config: config.clone(), committed, all })
    }

    /// Where each partition of a topic ends for those who read only what is committed, and what does not show
    /// to them.
    ///
    /// # Errors
    /// The brokers can't be reached, or there is no such topic.
    pub fn ends(&self, topic: &str) -> Result<(BTreeMap<u32, u64>, Vec<Hidden>), Fault> {
        let written = bounds(&self.config, &self.all, topic)?;
        let committed = bounds(&self.config, &self.committed, topic)?;
        let ends: BTreeMap<_, _> =
            committed.into_iter().map(|(partition, Bounds { end, .. })| (partition, end)).collect();
        let hides = |(&partition, bounds): (&u32, &Bounds)| {
            let from = ends.get(&partition).copied().unwrap_or(0);
            (from < bounds.end).then(|| Hidden { topic: self.config.topic(topic), partition, from })
        };
        let hidden = written.iter().filter_map(hides).collect();
        Ok((ends, hidden))
    }

    /// What does not show of the sink's topics.
    ///
    /// # Errors
    /// The brokers can't be reached, or a topic is missing.
    pub fn hidden(config: &KafkaConfig) -> Result<Vec<Hidden>, Fault> {
        let transactions = Transactions::new(config)?;
        let hidden: Result<Vec<_>, _> = TOPICS.iter().map(|topic| Ok(transactions.ends(topic)?.1)).collect();
        Ok(hidden?.concat())
    }
}
