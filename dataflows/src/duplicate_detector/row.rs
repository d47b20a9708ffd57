//! The records of the result.

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::ClickGroup;
use crate::model::{AdId, EventTime, Money, Text};

/// A refund for the clicks that one device made on one ad within a window, all but the first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Compensation {
    /// Who is paid back.
    pub advertiser_id: i64,
    /// The ad's campaign, where known.
    pub campaign_id: Option<i64>,
    /// The clicked ad.
    pub ad_id: AdId,
    /// The device that clicked.
    pub device_id: Text,
    /// What each click cost.
    pub actual_price: Money,
    /// Start of the detection window.
    pub window_start: EventTime,
    /// n: all clicks of the group so far.
    pub clicks: u64,
    /// The times of the clicks that are new since the group's record before this one, ascending: at most
    /// [`LISTED`](Compensation::LISTED).
    pub click_times: Vec<EventTime>,
    /// Whether more clicks are new than `click_times` lists.
    pub is_cut: bool,
    /// What is owed now: the increase since the group's record before this one.
    pub refund_amount: Money,
}

impl Compensation {
    /// How many clicks a record lists, the earliest: its size does not grow with its group.
    pub const LISTED: usize = 1000;

    /// The refund for a group that had `before` clicks in its last record, 0 without one, and has `clicks`
    /// now. `times` are those of the new clicks; of very many the earliest are enough.
    pub(super) fn increase(
        group: &ClickGroup,
        window_start: EventTime,
        before: u64,
        clicks: u64,
        mut times: Vec<EventTime>,
    ) -> Compensation {
        times.sort_unstable();
        times.truncate(Compensation::LISTED);
        let owed = clicks - before.max(1);
        Compensation {
            advertiser_id: group.advertiser_id,
            campaign_id: group.campaign_id,
            ad_id: group.ad_id.clone(),
            device_id: group.device_id.clone(),
            actual_price: group.actual_price,
            window_start,
            clicks,
            is_cut: clicks - before > times.len() as u64,
            click_times: times,
            refund_amount: group.actual_price * i64::try_from(owed).unwrap_or(i64::MAX),
        }
    }

    /// The record's identity and message key: 128 bits in hex of the SHA-256 of (group, window start, n).
    ///
    /// It comes from n and not from a count of records sent, so a replay gives the same ids however it is
    /// batched.
    pub fn id(&self) -> String {
        let group = serde_json::json!([
            self.advertiser_id,
            self.campaign_id,
            self.ad_id.to_string(),
            &*self.device_id,
            self.actual_price.0,
            self.window_start.0,
            self.clicks,
        ]);
        HEXLOWER.encode(&Sha256::digest(group.to_string().as_bytes())[..16])
    }
}
