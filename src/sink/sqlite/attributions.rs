//! Statement 3 in SQLite.
//!
//! An order that comes again after `conversion.repeat_within` is a new conversion, and the row of the newest
//! is the result. Rows of those before it are kept aside: a record that comes late may take the newest one's
//! row away.

use adtide_dataflows::conversion_matcher::AttributionRow;
use adtide_dataflows::model::{EventTime, Text};
use rusqlite::{CachedStatement, Params, Transaction, params};

use crate::sink::latest;

macro_rules! columns {
    () => {
        "order_id, product_id, attribution_model, ad_id, campaign_id, advertiser_id, revenue_amount, time_to_conversion, \
         click_time, conversion_time, processed_at"
    };
}

macro_rules! is_identity {
    () => {
        "order_id = ?1 AND product_id = ?2 AND attribution_model = ?3"
    };
}

const INSERT: &str = concat!(
    "INSERT INTO conversion_attribution_results (",
    columns!(),
    ") VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
     ON CONFLICT (order_id, product_id, attribution_model) DO NOTHING"
);
const REPLACE: &str = "
    UPDATE conversion_attribution_results
    SET ad_id = ?4, campaign_id = ?5, advertiser_id = ?6, revenue_amount = ?7, time_to_conversion = ?8, click_time = ?9,
        conversion_time = ?10, processed_at = ?11
    WHERE order_id = ?1 AND product_id = ?2 AND attribution_model = ?3 AND conversion_time <= ?10";
const SET_ASIDE: &str = concat!(
    "INSERT INTO adtide_superseded_attributions (",
    columns!(),
    ") SELECT ",
    columns!(),
    " FROM conversion_attribution_results WHERE ",
    is_identity!(),
    " AND conversion_time < ?4"
);
const KEEP_ASIDE: &str = concat!(
    "INSERT OR REPLACE INTO adtide_superseded_attributions (",
    columns!(),
    ") VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)"
);
const DELETE: &str =
    concat!("DELETE FROM conversion_attribution_results WHERE ", is_identity!(), " AND conversion_time = ?4");
const DELETE_ASIDE: &str =
    concat!("DELETE FROM adtide_superseded_attributions WHERE ", is_identity!(), " AND conversion_time = ?4");
const BRING_BACK: &str = concat!(
    "INSERT INTO conversion_attribution_results (",
    columns!(),
    ") SELECT ",
    columns!(),
    " FROM adtide_superseded_attributions WHERE ",
    is_identity!(),
    " ORDER BY conversion_time DESC LIMIT 1"
);
const IS_BACK: &str = concat!(
    "DELETE FROM adtide_superseded_attributions WHERE ",
    is_identity!(),
    " AND conversion_time = (SELECT conversion_time FROM conversion_attribution_results WHERE ",
    is_identity!(),
    ")"
);

/// Writes how the rows of statement 3 change, of each conversion the last change. In which order does not
/// matter.
pub fn write(
    transaction: &Transaction<'_>,
    epochs: Vec<Vec<(AttributionRow, isize)>>,
    now: &str,
) -> rusqlite::Result<()> {
    let mut insert = transaction.prepare_cached(INSERT)?;
    let key = |row: &AttributionRow| (row.order_id.clone(), row.product_id, row.conversion_time);
    for (conversion, row) in latest(epochs, key) {
        match row {
            None => delete(transaction, &conversion)?,
            Some(row) if put(&mut insert, &row, now)? == 0 => replace(transaction, &row, now)?,
            Some(_) => {}
        }
    }
    Ok(())
}

/// A conversion that a row may be of: its order, product and time.
type Conversion = (Text, i64, EventTime);

/// Writes a row where the identity has one.
fn replace(transaction: &Transaction<'_>, row: &AttributionRow, now: &str) -> rusqlite::Result<()> {
    let time = row.conversion_time.to_string();
    execute(transaction, SET_ASIDE, params![row.order_id, row.product_id, AttributionRow::MODEL, time])?;
    if put(&mut transaction.prepare_cached(REPLACE)?, row, now)? == 0 {
        put(&mut transaction.prepare_cached(KEEP_ASIDE)?, row, now)?;
    }
    Ok(())
}

/// Deletes a conversion's row; if it was the result, the one before it is.
fn delete(transaction: &Transaction<'_>, (order_id, product_id, time): &Conversion) -> rusqlite::Result<()> {
    let identity = params![order_id, product_id, AttributionRow::MODEL];
    let conversion = params![order_id, product_id, AttributionRow::MODEL, time.to_string()];
    if execute(transaction, DELETE, conversion)? == 0 {
        execute(transaction, DELETE_ASIDE, conversion)?;
    } else if execute(transaction, BRING_BACK, identity)? > 0 {
        execute(transaction, IS_BACK, identity)?;
    }
    Ok(())
}

fn execute(transaction: &Transaction<'_>, sql: &str, params: impl Params) -> rusqlite::Result<usize> {
    transaction.prepare_cached(sql)?.execute(params)
}

fn put(statement: &mut CachedStatement<'_>, row: &AttributionRow, now: &str) -> rusqlite::Result<usize> {
    statement.execute(params![
        row.order_id,
        row.product_id,
        AttributionRow::MODEL,
        row.ad_id.as_ref().map(ToString::to_string),
        row.campaign_id,
        row.advertiser_id,
        row.revenue_amount.to_string(),
        row.time_to_conversion(),
        row.click_time.to_string(),
        row.conversion_time.to_string(),
        now,
    ])
}

#[cfg(test)]
mod tests {
    use adtide_dataflows::model::Money;
    use rusqlite::Connection;

    use super::*;

    fn row(time: i64, cents: i64) -> AttributionRow {
        AttributionRow {
            order_id: "o".into(),
            product_id: 7,
            ad_id: None,
            campaign_id: None,
            advertiser_id: 9,
            revenue_amount: Money(cents),
            click_time: EventTime(0),
            conversion_time: EventTime(time),
        }
    }

    /// What the table holds after each of some commits.
    fn held<const N: usize>(commits: [&[(AttributionRow, isize)]; N]) -> [Vec<String>; N] {
        let mut connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(include_str!("../schema.sql")).unwrap();
        commits.map(|changes| {
            let transaction = connection.transaction().unwrap();
            write(&transaction, vec![changes.to_vec()], "now").unwrap();
            transaction.commit().unwrap();
            let mut select =
                connection.prepare("SELECT revenue_amount FROM conversion_attribution_results").unwrap();
            select
                .query_map([], |row| row.get(0))
                .unwrap()
                .collect::<rusqlite::Result<Vec<String>>>()
                .unwrap()
        })
    }

    #[test]
    fn the_newest_conversion_is_the_result_and_the_one_before_it_when_that_goes() {
        let found = held([
            &[(row(1000, 1), 1)],
            &[(row(3000, 3), 1)],
            &[(row(2000, 2), 1)],
            &[(row(3000, 3), -1), (row(3000, 4), 1)],
            &[(row(1000, 1), -1), (row(1000, 5), 1)],
            &[(row(3000, 4), -1)],
            &[(row(1000, 5), -1)],
            &[(row(2000, 2), -1)],
        ]);
        let expected = ["0.01", "0.03", "0.03", "0.04", "0.04", "0.02", "0.02", ""];
        assert_eq!(found.map(|rows| rows.join(" ")), expected.map(str::to_owned));
    }

    #[test]
    fn one_commit_may_change_several_conversions_of_an_identity() {
        let found = held([
            &[(row(1000, 1), 1), (row(2000, 2), 1), (row(3000, 3), 1)],
            &[(row(3000, 3), -1), (row(2000, 2), -1), (row(1500, 4), 1)],
            &[(row(1500, 4), -1)],
        ]);
        assert_eq!(found.map(|rows| rows.join(" ")), ["0.03", "0.04", "0.01"].map(str::to_owned));
    }
}
