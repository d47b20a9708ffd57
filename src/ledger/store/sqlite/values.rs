//! Amounts and times as TEXT.

use adtide_dataflows::model::{EventTime, Money};
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};

/// Minor units as TEXT with two decimals; unlike amounts that come in, a balance may be negative, and need
/// not fit 64 bits.
pub(super) struct Cents(pub(super) i128);

impl From<Money> for Cents {
    fn from(money: Money) -> Cents {
        Cents(money.0.into())
    }
}

impl ToSql for Cents {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        let (sign, minor) = (if self.0 < 0 { "-" } else { "" }, self.0.unsigned_abs());
        Ok(format!("{sign}{}.{:02}", minor / 100, minor % 100).into())
    }
}

impl FromSql for Cents {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Cents> {
        let text = value.as_str()?;
        let cents = text.split_once('.').filter(|(_, decimals)| decimals.len() == 2);
        let cents = cents.and_then(|(whole, decimals)| format!("{whole}{decimals}").parse().ok());
        cents
            .map(Cents)
            .ok_or_else(|| FromSqlError::Other(format!("{text:?} is no amount with two decimals").into()))
    }
}

/// What is no sum fits 64 bits.
pub(super) fn saturated(cents: i128) -> Money {
    Money(i64::try_from(cents).unwrap_or(i64::MAX))
}

/// An event time as TEXT.
pub(super) struct Time(pub(super) EventTime);

impl FromSql for Time {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Time> {
        EventTime::parse(value.as_str()?).map(Time).map_err(|error| FromSqlError::Other(error.into()))
    }
}
