//! What the statement reads: the CLICKs of `ad-events` whose advertiser is known, and `conversion-events`.

use std::hash::Hasher;

use rustc_hash::FxHasher;
use serde::{Deserialize, Serialize};

use crate::model::{AdEvent, AdId, ConversionEvent, EventTime, IdHash, Money, Text};
use crate::operators::{Keys, Watermarks};
use crate::{Codec, CodecError, Expiry, Memory, StateRow};

/// A click of statement 3 and the hash it is routed by.
pub type RoutedClick = (u32, StoredClick);

/// A click as it waits for conversions.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StoredClick {
    /// By [`keys`].
    pub keys: Keys,
    /// Event time of the click.
    pub click_time: EventTime,
    /// The ad, where known.
    pub ad_id: Option<AdId>,
    /// The campaign, where known.
    pub campaign_id: Option<i64>,
    /// Who paid.
    pub advertiser_id: i64,
}

/// Event time, partition and offset of a record of `conversion-events`: in this order records of one identity
/// open a conversion or repeat one.
pub type Order = (EventTime, u32, u64);

/// A record of `conversion-events` that is not late.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Conversion {
    /// Its order among the records of its identity. It is the first field, so that it orders them.
    pub order: Order,
    /// By [`keys`].
    pub keys: Keys,
    /// The order; with the product, the conversion's identity.
    pub order_id: Text,
    /// The product sold.
    pub product_id: i64,
    /// What it earned.
    pub revenue_amount: Money,
}

/// A record that opened a conversion, when that is certain: records up to `conversion.repeat_within` after it
/// repeat it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Opener {
    /// What it is routed by, [`route`] of its product.
    pub route: u32,
    /// [`Conversion::id`].
    pub id: IdHash,
    /// Its event time.
    pub time: EventTime,
}

/// What a product's clicks and conversions are routed by. It is in checkpoints, so it must stay as it is.
/// Products that share it share a worker, and so cost no more than one popular product would.
pub fn route(product_id: i64) -> u32 {
    let mut hasher = FxHasher::default();
    hasher.write_i64(product_id);
    hasher.finish() as u32
}

/// What a click and a conversion match by: a device together with a product, or a session.
pub fn keys(product_id: i64, device_id: Option<&str>, session_id: Option<&str>) -> Keys {
    let product = product_id.to_le_bytes();
    // The first part keeps a device apart from a session of the same name.
    [(b"d", device_id), (b"s", session_id)]
        .map(|(kind, id)| id.map(|id| IdHash::of_parts(&[kind, &product, id.as_bytes()])))
}

/// The click that a CLICK is, if it names its advertiser. It is late from its event time on.
pub fn click(event: AdEvent<&str>) -> Option<RoutedClick> {
    let click = StoredClick {
        keys: keys(event.product_id, event.device_id, event.session_id),
        click_time: event.time,
        ad_id: event.ad_id,
        campaign_id: event.campaign_id,
        advertiser_id: event.advertiser_id?,
    };
    Some((route(event.product_id), click))
}

/// A record of `conversion-events`, at its partition and offset. It is late from its event time on.
pub fn conversion(event: &ConversionEvent<&str>, (partition, offset): (u32, u64)) -> Conversion {
    Conversion {
        keys: keys(event.product_id, event.device_id, event.session_id),
        order: (event.time, partition, offset),
        order_id: Text::from(event.order_id),
        product_id: event.product_id,
        revenue_amount: event.revenue_amount,
    }
}

impl Conversion {
    /// A hash of its identity.
    pub fn id(&self) -> IdHash {
        IdHash::of_parts(&[&self.product_id.to_le_bytes(), self.order_id.as_bytes()])
    }

    /// What it is routed by.
    pub fn route(&self) -> u32 {
        route(self.product_id)
    }

    /// What is known of it when it is certain that it opened a conversion.
    pub fn opener(&self) -> Opener {
        Opener { route: self.route(), id: self.id(), time: self.order.0 }
    }
}

impl StateRow for RoutedClick {
    /// A click may stay in memory for longer, where no conversion can match it.
    const EXPIRY: Option<Expiry> =
        Some(|time, forgotten, memory| time.plus(memory.lookback) < forgotten.conversions);

    fn time(&self) -> Option<EventTime> {
        Some(self.1.click_time)
    }

    fn sort(rows: &mut [RoutedClick]) {
        rows.sort_by_key(|row| row.1.click_time);
    }

    fn columns(rows: &mut [RoutedClick], codec: &mut Codec<'_>) -> Result<(), CodecError> {
        codec.column(rows, |row| &mut row.1.click_time)?;
        codec.column(rows, |row| &mut row.0)?;
        codec.column(rows, |row| &mut row.1.keys)?;
        codec.column(rows, |row| &mut row.1.ad_id)?;
        codec.column(rows, |row| &mut row.1.campaign_id)?;
        codec.column(rows, |row| &mut row.1.advertiser_id)
    }
}

/// When an identity is forgotten.
const REPEATS: Option<Expiry> =
    Some(|time, forgotten, memory| time.plus(memory.repeat_within) < forgotten.conversions);

impl StateRow for Conversion {
    const TEXTS: usize = 1;
    const EXPIRY: Option<Expiry> = REPEATS;

    fn time(&self) -> Option<EventTime> {
        Some(self.order.0)
    }

    fn sort(rows: &mut [Conversion]) {
        rows.sort_by_key(|row| row.order);
    }

    fn columns(rows: &mut [Conversion], codec: &mut Codec<'_>) -> Result<(), CodecError> {
        codec.column(rows, |row| &mut row.order.0)?;
        // As long as only the records that opened were kept, how much later the latest repeat was.
        codec.constant(rows.len(), &-1i64)?;
        codec.column(rows, |row| &mut row.order.1)?;
        codec.column(rows, |row| &mut row.order.2)?;
        codec.column(rows, |row| &mut row.keys)?;
        codec.column(rows, |row| &mut row.order_id)?;
        codec.column(rows, |row| &mut row.product_id)?;
        codec.column(rows, |row| &mut row.revenue_amount)
    }

    /// A record leaves the state earlier than it expires, when it is settled; then there is an [`Opener`] of
    /// it, or it repeated.
    fn is_restored(&self, forgotten: &Watermarks, _memory: Memory) -> bool {
        self.order.0 >= forgotten.conversions
    }
}

impl StateRow for Opener {
    const EXPIRY: Option<Expiry> = REPEATS;

    fn time(&self) -> Option<EventTime> {
        Some(self.time)
    }

    fn sort(rows: &mut [Opener]) {
        rows.sort_by_key(|row| row.time);
    }

    fn columns(rows: &mut [Opener], codec: &mut Codec<'_>) -> Result<(), CodecError> {
        codec.column(rows, |row| &mut row.time)?;
        codec.column(rows, |row| &mut row.route)?;
        codec.column(rows, |row| &mut row.id)
    }
}
