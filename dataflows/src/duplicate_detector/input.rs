//! What the statement reads: the CLICKs of `ad-events` that name both a device and an ad.

use serde::{Deserialize, Serialize};

use crate::hash::RoutingKey;
use crate::model::{AdEvent, AdId, EventTime, Money, Text, WINDOW_MS};
use crate::{Codec, CodecError, Expiry, StateRow};

/// A click that costs money, of a known device on a known ad.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PaidClick {
    /// What is compared; equal clicks within a window are duplicates.
    pub group: ClickGroup,
    /// Event time of the click.
    pub time: EventTime,
}

/// What makes two clicks duplicates of each other.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClickGroup {
    /// Who paid.
    pub advertiser_id: i64,
    /// The campaign, where known.
    pub campaign_id: Option<i64>,
    /// The ad.
    pub ad_id: AdId,
    /// The device.
    pub device_id: Text,
    /// What each click cost.
    pub actual_price: Money,
}

impl PaidClick {
    /// The paid click that a CLICK is; None if it lacks an id, or is late: `is_late` is asked with its
    /// deadline, the last moment of its window.
    pub fn of(event: &AdEvent<&str>, is_late: impl FnOnce(EventTime) -> bool) -> Option<PaidClick> {
        let (device_id, ad_id, advertiser_id) =
            (event.device_id?, event.ad_id.as_ref()?, event.advertiser_id?);
        if is_late(event.time.window_start().plus(WINDOW_MS - 1)) {
            return None;
        }
        let group = ClickGroup {
            advertiser_id,
            campaign_id: event.campaign_id,
            ad_id: ad_id.clone(),
            device_id: Text::from(device_id),
            actual_price: event.actual_price,
        };
        Some(PaidClick { group, time: event.time })
    }

    /// All clicks of a device on an advertiser's ads are on one worker.
    pub fn route(&self, routing: RoutingKey) -> u64 {
        routing.hash(&(self.group.advertiser_id, &*self.group.device_id))
    }
}

impl StateRow for PaidClick {
    const TEXTS: usize = 1;
    const EXPIRY: Option<Expiry> =
        Some(|time, forgotten, _| time.window_start().plus(WINDOW_MS - 1) < forgotten.duplicates);

    fn time(&self) -> Option<EventTime> {
        Some(self.time)
    }

    fn sort(rows: &mut [PaidClick]) {
        rows.sort_by_key(|row| row.time);
    }

    fn columns(rows: &mut [PaidClick], codec: &mut Codec<'_>) -> Result<(), CodecError> {
        codec.column(rows, |row| &mut row.time)?;
        codec.column(rows, |row| &mut row.group.advertiser_id)?;
        codec.column(rows, |row| &mut row.group.campaign_id)?;
        // Whether there is an ad: always.
        codec.constant(rows.len(), &true)?;
        codec.column(rows, |row| &mut row.group.ad_id)?;
        codec.column(rows, |row| &mut row.group.device_id)?;
        codec.column(rows, |row| &mut row.group.actual_price)
    }
}
