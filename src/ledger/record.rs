//! What the workers read in records.

use adtide_dataflows::model::{AdEventType, CampaignEvent, EventTime, Money, UnknownIds};
use adtide_dataflows::record::{self, BadRecord, Field, Scanner};
use serde::Deserialize;
use serde_json::Number;

use super::feed::Record;
use super::letter::Unfit;
use crate::connect::text::stored_text;

/// A click that is paid for.
pub struct Click {
    pub advertiser_id: i64,
    pub campaign_id: Option<i64>,
    pub price: Money,
    pub time: EventTime,
}

/// Reads the records of input topics, as the statements do.
pub struct Reader {
    scanner: Scanner,
    unknown_ids: UnknownIds,
}

impl Reader {
    /// With the texts that stand for unknown ids.
    pub fn new(unknown_ids: &UnknownIds) -> Reader {
        Reader { scanner: Scanner::default(), unknown_ids: unknown_ids.clone() }
    }

    /// A record of `ad-events`; None if it is no click.
    pub fn click(&mut self, record: &Record<'_>, value: &[u8]) -> Result<Option<Click>, BadRecord> {
        let Reader { scanner, unknown_ids } = self;
        scanner.read(value, |fields| {
            let event = record::ad_event(fields, unknown_ids)?;
            believe(event.time, record)?;
            if event.event_type != AdEventType::Click {
                return Ok(None);
            }
            let advertiser_id = event.advertiser_id.ok_or(BadRecord::Missing(Field::AdvertiserId))?;
            let (campaign_id, price, time) = (event.campaign_id, event.actual_price, event.time);
            Ok(Some(Click { advertiser_id, campaign_id, price, time }))
        })
    }

    /// Calls `then` with a record of `campaign-events`.
    pub fn campaign_event(
        &mut self,
        record: &Record<'_>,
        value: &[u8],
        then: impl FnOnce(&CampaignEvent<&str>),
    ) -> Result<(), BadRecord> {
        let Reader { scanner, unknown_ids } = self;
        scanner.read(value, |fields| {
            let event = record::campaign_event(fields, unknown_ids)?;
            believe(event.time, record)?;
            then(&event);
            Ok(())
        })
    }
}

/// Turns away an event time that lies too far in the future.
fn believe(time: EventTime, record: &Record<'_>) -> Result<(), BadRecord> {
    if time > record.latest { Err(BadRecord::FutureTime(time)) } else { Ok(()) }
}

/// A refund, as `compensation-events` has it.
pub struct Refund {
    /// As it is stored.
    pub compensation_id: String,
    pub advertiser_id: i64,
    pub campaign_id: Option<i64>,
    pub amount: Money,
    pub window_start: EventTime,
}

/// A record of `compensation-events`. adtide itself writes them, from clicks that it has judged: no clock is
/// asked again.
pub fn refund(value: &[u8]) -> Result<Refund, Unfit> {
    #[derive(Deserialize)]
    struct Fields {
        compensation_id: String,
        advertiser_id: i64,
        campaign_id: Option<i64>,
        refund_amount: Number,
        window_start: String,
    }
    let fields: Fields = serde_json::from_slice(value).map_err(|error| Unfit {
        reason: if error.is_data() { "ill_typed_field" } else { "not_json" },
        detail: error.to_string(),
    })?;
    let amount = Money::parse(fields.refund_amount.to_string().as_bytes(), Money(i64::MAX));
    let amount = amount.map_err(|error| Unfit {
        reason: BadRecord::Money(Field::ActualPrice, error).reason(),
        detail: format!("refund_amount: {error}"),
    })?;
    let window_start = EventTime::parse(&fields.window_start).map_err(BadRecord::Time)?;
    // Of two without an id, one would be taken for a repeat of the other.
    if fields.compensation_id.is_empty() {
        return Err(Unfit { reason: "missing_field", detail: "compensation_id is empty".to_owned() });
    }
    let Fields { advertiser_id, campaign_id, .. } = fields;
    let compensation_id = stored_text(&fields.compensation_id).into_owned();
    Ok(Refund { compensation_id, advertiser_id, campaign_id, amount, window_start })
}
