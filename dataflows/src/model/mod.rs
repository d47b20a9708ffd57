//! The words of the system: money, event time, ids, the events that come in and the rows that go out.

mod event;
mod id;
mod money;
mod score;
mod time;
mod unknown;

pub use event::{
    ActiveCampaign, AdEvent, AdEventType, CampaignEvent, CampaignEventType, ConversionEvent, ProductMeta,
    ProductMetrics, Topic,
};
pub use id::{AdId, IdHash, Text};
pub use money::{Money, MoneyError};
pub use score::Score;
pub use time::{Epoch, EventTime, TimeError, WINDOW_MS};
pub use unknown::UnknownIds;
