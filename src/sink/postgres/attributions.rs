//! Statement 3 in PostgreSQL.
//!
//! An order that comes again after `conversion.repeat_within` is a new conversion, and the row of the newest
//! is the result. Rows of those before it are kept aside: a record that comes late may take the newest one's
//! row away.

use std::fmt::Write as _;

use adtide_dataflows::conversion_matcher::AttributionRow;
use adtide_dataflows::model::{EventTime, Text};
use tokio_postgres::Statement;
use tokio_postgres::types::ToSql;

use super::{Escaped, key_text, stored_text};
use crate::connect::postgres::{Client, Transaction};
use crate::sink::latest;

macro_rules! columns {
    () => {
        "ad_id, campaign_id, advertiser_id, product_id, order_id, revenue_amount, time_to_conversion, attribution_model, \
         click_time, conversion_time"
    };
}

macro_rules! set_columns {
    () => {
        "ad_id = excluded.ad_id, campaign_id = excluded.campaign_id, advertiser_id = excluded.advertiser_id,
         revenue_amount = excluded.revenue_amount, time_to_conversion = excluded.time_to_conversion,
         click_time = excluded.click_time, conversion_time = excluded.conversion_time, processed_at = excluded.processed_at"
    };
}

macro_rules! same_identity {
    ($one:literal, $other:literal) => {
        concat!(
            $one,
            ".order_id = ",
            $other,
            ".order_id AND ",
            $one,
            ".product_id = ",
            $other,
            ".product_id AND ",
            $one,
            ".attribution_model = ",
            $other,
            ".attribution_model"
        )
    };
}

/// A table of the session that takes the rows.
pub const INCOMING: &str = concat!(
    "CREATE TEMP TABLE incoming_attributions ON COMMIT DELETE ROWS AS SELECT ",
    columns!(),
    " FROM conversion_attribution_results WITH NO DATA"
);
const COPY: &str = "COPY incoming_attributions FROM STDIN";
const SET_ASIDE: &str = concat!(
    "INSERT INTO adtide_superseded_attributions (",
    columns!(),
    ", processed_at) SELECT ",
    columns!(),
    ", processed_at FROM conversion_attribution_results AS results
     WHERE EXISTS (SELECT FROM incoming_attributions AS incoming WHERE ",
    same_identity!("results", "incoming"),
    " AND results.conversion_time < incoming.conversion_time)"
);
const UPSERT: &str = concat!(
    "INSERT INTO conversion_attribution_results AS results (",
    columns!(),
    ", processed_at) SELECT ",
    columns!(),
    ", now() FROM incoming_attributions
     ON CONFLICT (order_id, product_id, attribution_model) DO UPDATE SET ",
    set_columns!(),
    " WHERE results.conversion_time <= excluded.conversion_time"
);
const KEEP_ASIDE: &str = concat!(
    "INSERT INTO adtide_superseded_attributions (",
    columns!(),
    ", processed_at) SELECT ",
    columns!(),
    ", now() FROM incoming_attributions AS incoming
     WHERE EXISTS (SELECT FROM conversion_attribution_results AS results WHERE ",
    same_identity!("results", "incoming"),
    " AND results.conversion_time > incoming.conversion_time)
     ON CONFLICT (order_id, product_id, attribution_model, conversion_time) DO UPDATE SET ",
    set_columns!()
);
const EMPTY: &str = "DELETE FROM incoming_attributions";
const DELETE: &str = "
    DELETE FROM conversion_attribution_results AS results
    USING unnest($1::text[], $2::bigint[], $3::text[]) AS gone (order_id, product_id, conversion_time)
    WHERE results.order_id = gone.order_id AND results.product_id = gone.product_id AND results.attribution_model = $4
        AND results.conversion_time = gone.conversion_time::timestamp";
const DELETE_ASIDE: &str = "
    DELETE FROM adtide_superseded_attributions AS superseded
    USING unnest($1::text[], $2::bigint[], $3::text[]) AS gone (order_id, product_id, conversion_time)
    WHERE superseded.order_id = gone.order_id AND superseded.product_id = gone.product_id
        AND superseded.attribution_model = $4 AND superseded.conversion_time = gone.conversion_time::timestamp";
const BRING_BACK: &str = concat!(
    "INSERT INTO conversion_attribution_results (",
    columns!(),
    ", processed_at) SELECT DISTINCT ON (order_id, product_id) ",
    columns!(),
    ", processed_at FROM adtide_superseded_attributions
     WHERE (order_id, product_id) IN (SELECT * FROM unnest($1::text[], $2::bigint[])) AND attribution_model = $3
     ORDER BY order_id, product_id, conversion_time DESC
     ON CONFLICT (order_id, product_id, attribution_model) DO NOTHING"
);
const IS_BACK: &str = concat!(
    "DELETE FROM adtide_superseded_attributions AS superseded USING conversion_attribution_results AS results WHERE ",
    same_identity!("results", "superseded"),
    " AND results.conversion_time = superseded.conversion_time
     AND (superseded.order_id, superseded.product_id) IN (SELECT * FROM unnest($1::text[], $2::bigint[]))
     AND superseded.attribution_model = $3"
);

/// What is prepared on a connection.
pub struct Statements {
    copy: Statement,
    set_aside: Statement,
    upsert: Statement,
    keep_aside: Statement,
    empty: Statement,
    delete: Statement,
    delete_aside: Statement,
    bring_back: Statement,
    is_back: Statement,
}

impl Statements {
    /// Prepares them.
    pub fn prepare(client: &mut Client) -> Result<Statements, tokio_postgres::Error> {
        client.batch_execute(INCOMING)?;
        Ok(Statements {
            copy: client.prepare(COPY)?,
            set_aside: client.prepare(SET_ASIDE)?,
            upsert: client.prepare(UPSERT)?,
            keep_aside: client.prepare(KEEP_ASIDE)?,
            empty: client.prepare(EMPTY)?,
            delete: client.prepare(DELETE)?,
            delete_aside: client.prepare(DELETE_ASIDE)?,
            bring_back: client.prepare(BRING_BACK)?,
            is_back: client.prepare(IS_BACK)?,
        })
    }
}

/// How the rows of statement 3 change in a commit.
#[derive(Default)]
pub struct Changes {
    /// Rows in the text format of COPY. A round has at most one of each identity, and older ones are in
    /// earlier rounds.
    rounds: Vec<Round>,
    /// Conversions whose rows are gone: orders, products and times.
    gone: (Vec<String>, Vec<i64>, Vec<String>),
}

#[derive(Default)]
struct Round {
    rows: u64,
    text: String,
}

impl Changes {
    /// Of each conversion the last change.
    pub fn new(epochs: Vec<Vec<(AttributionRow, isize)>>) -> Changes {
        let key = |row: &AttributionRow| (key_text(&row.order_id), row.product_id, row.conversion_time);
        let mut rows: Vec<_> = latest(epochs, key).into_iter().collect();
        rows.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        let mut changes = Changes::default();
        for conversions in rows.chunk_by(|(one, _), (other, _)| (&one.0, one.1) == (&other.0, other.1)) {
            let mut round = 0;
            for (conversion, row) in conversions {
                match row {
                    Some(row) => {
                        changes.add(round, &conversion.0, row);
                        round += 1;
                    }
                    None => changes.remove(conversion),
                }
            }
        }
        changes
    }

    fn remove(&mut self, (order, product, time): &(Text, i64, EventTime)) {
        self.gone.0.push(order.to_string());
        self.gone.1.push(*product);
        self.gone.2.push(time.to_string());
    }

    fn add(&mut self, round: usize, order: &str, row: &AttributionRow) {
        if self.rounds.len() == round {
            self.rounds.push(Round::default());
        }
        let Round { rows, text } = &mut self.rounds[round];
        *rows += 1;
        match row.ad_id.as_ref().map(ToString::to_string) {
            Some(ad) => {
                let _ = write!(text, "{}\t", Escaped(&stored_text(&ad)));
            }
            None => text.push_str("\\N\t"),
        }
        match row.campaign_id {
            Some(campaign) => {
                let _ = write!(text, "{campaign}\t");
            }
            None => text.push_str("\\N\t"),
        }
        let _ = write!(text, "{}\t{}\t{}\t", row.advertiser_id, row.product_id, Escaped(order));
        let _ = write!(text, "{}\t{}\t", row.revenue_amount, row.time_to_conversion());
        let _ = writeln!(text, "{}\t{}\t{}", AttributionRow::MODEL, row.click_time, row.conversion_time);
    }

    /// Writes them.
    pub fn write(
        &self,
        transaction: &mut Transaction<'_>,
        statements: &Statements,
    ) -> Result<(), tokio_postgres::Error> {
        let (orders, products, times) = &self.gone;
        if !orders.is_empty() {
            let conversions: [&(dyn ToSql + Sync); 4] = [orders, products, times, &AttributionRow::MODEL];
            let identities: [&(dyn ToSql + Sync); 3] = [orders, products, &AttributionRow::MODEL];
            transaction.execute(&statements.delete, &conversions)?;
            transaction.execute(&statements.delete_aside, &conversions)?;
            if transaction.execute(&statements.bring_back, &identities)? > 0 {
                transaction.execute(&statements.is_back, &identities)?;
            }
        }
        for (number, Round { rows, text }) in self.rounds.iter().enumerate() {
            if number > 0 {
                transaction.execute(&statements.empty, &[])?;
            }
            transaction.copy_in(&statements.copy, text)?;
            transaction.execute(&statements.set_aside, &[])?;
            if transaction.execute(&statements.upsert, &[])? < *rows {
                transaction.execute(&statements.keep_aside, &[])?;
            }
        }
        Ok(())
    }
}
