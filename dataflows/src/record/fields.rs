//! The fields of a record, as they stand in it.

use std::fmt;

macro_rules! fields {
    ($($variant:ident $name:literal,)*) => {
        /// A field that some topic knows.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Field { $(#[doc = $name] $variant,)* }

        const NAMES: &[&str] = &[$($name,)*];

        impl Field {
            /// The field of that name; None for fields that no topic knows.
            #[inline]
            pub fn of(name: &[u8]) -> Option<Field> {
                $(if name == $name.as_bytes() { return Some(Field::$variant); })*
                None
            }
        }
    };
}

fields! {
    EventType "event_type",
    Timestamp "timestamp_field",
    AdId "ad_id",
    CampaignId "campaign_id",
    AdvertiserId "advertiser_id",
    ProductId "product_id",
    Placement "placement",
    Category "category",
    DeviceId "device_id",
    SessionId "session_id",
    UserId "user_id",
    ActualPrice "actual_price",
    RevenueAmount "revenue_amount",
    OrderId "order_id",
    BidPrice "bid_price",
    Status "status",
    Ctr "ctr",
    Cvr "cvr",
    ProductPrice "product_price",
}

const COUNT: usize = NAMES.len();

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(NAMES[*self as usize])
    }
}

/// A field's value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Raw<'a> {
    /// Missing, or null.
    #[default]
    Absent,
    /// A string, unescaped.
    Text(&'a str),
    /// A number, as it is written.
    Number(&'a str),
    /// A boolean, an array or an object.
    Other,
}

/// The values of all known fields of one record. Where a name comes twice, the last value stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields<'a>([Raw<'a>; COUNT]);

impl<'a> Fields<'a> {
    /// The value of a field.
    #[inline]
    pub fn get(&self, field: Field) -> Raw<'a> {
        self.0[field as usize]
    }

    /// Sets a field's value.
    #[inline]
    pub fn set(&mut self, field: Field, value: Raw<'a>) {
        self.0[field as usize] = value;
    }
}
