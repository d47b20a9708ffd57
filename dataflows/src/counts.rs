//! What came of the records.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Statement;
use crate::model::{Money, Topic};

/// What came of the records so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Good records by topic, in the order of [`Topic::ALL`].
    pub good: [u64; Topic::ALL.len()],
    /// Dead letters by reason.
    pub bad: BTreeMap<String, u64>,
    /// Late records by the statement that left them out.
    pub late: BTreeMap<Statement, u64>,
    /// Ad events that statement 2 left out because they name no campaign.
    pub without_campaign: u64,
    /// Records without the ids by which they would match others.
    #[serde(default)]
    pub ids: IdCounts,
    /// What the good clicks cost, duplicates included.
    pub spend: Money,
}

/// How many good records lack the ids by which statements 3 and 4 match them: where all do, a field has
/// another name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdCounts {
    /// All CLICKs.
    pub clicks: u64,
    /// Those without device_id: they have no duplicates, and match a conversion by their session only.
    pub clicks_without_device: u64,
    /// Those without ad_id: they have no duplicates.
    pub clicks_without_ad: u64,
    /// Those without session_id: they match a conversion by their device only.
    pub clicks_without_session: u64,
    /// Records of `conversion-events` without device_id.
    pub conversions_without_device: u64,
    /// Those without session_id.
    pub conversions_without_session: u64,
}

impl IdCounts {
    /// The counts, each with what it counts.
    pub fn named(&self) -> [(&'static str, u64); 5] {
        [
            ("clicks without device", self.clicks_without_device),
            ("clicks without ad", self.clicks_without_ad),
            ("clicks without session", self.clicks_without_session),
            ("conversions without device", self.conversions_without_device),
            ("conversions without session", self.conversions_without_session),
        ]
    }

    /// Adds other counts.
    pub fn add(&mut self, other: &IdCounts) {
        self.clicks += other.clicks;
        self.clicks_without_device += other.clicks_without_device;
        self.clicks_without_ad += other.clicks_without_ad;
        self.clicks_without_session += other.clicks_without_session;
        self.conversions_without_device += other.conversions_without_device;
        self.conversions_without_session += other.conversions_without_session;
    }
}

impl Counts {
    /// Adds another worker's counts.
    pub fn add(&mut self, other: &Counts) {
        for (good, more) in self.good.iter_mut().zip(other.good) {
            *good += more;
        }
        for (reason, more) in &other.bad {
            *self.bad.entry(reason.clone()).or_default() += more;
        }
        for (statement, more) in &other.late {
            *self.late.entry(*statement).or_default() += more;
        }
        self.without_campaign += other.without_campaign;
        self.ids.add(&other.ids);
        self.spend += other.spend;
    }
}

/// What came of a partition's records so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionCounts {
    /// The partition's topic.
    pub topic: Topic,
    /// Its number.
    pub partition: u32,
    /// Good records.
    pub good: u64,
    /// Dead letters.
    pub dead: u64,
}
