//! The advertisers, campaigns and products that a demonstration begins with.

use super::{Catalogue, Error, Transaction};

pub(super) fn open_advertisers(
    transaction: &mut Transaction<'_>,
    catalogue: &Catalogue,
) -> Result<(), Error> {
    let accounts = || catalogue.accounts.iter();
    let ids: Vec<i64> = accounts().map(|account| account.advertiser_id).collect();
    let names: Vec<&str> = accounts().map(|account| &*account.name).collect();
    let opening: Vec<i64> = accounts().map(|account| account.opening_balance.0).collect();
    transaction.execute(
        "INSERT INTO advertisers AS a (advertiser_id, name, opening_balance, balance)
         SELECT id, name, cents * 0.01, cents * 0.01
         FROM UNNEST($1::bigint[], $2::text[], $3::bigint[]) AS n (id, name, cents) ORDER BY id
         ON CONFLICT (advertiser_id) DO UPDATE SET name = excluded.name, opening_balance = excluded.opening_balance,
             balance = a.balance + excluded.opening_balance - a.opening_balance, updated_at = now()",
        &[&ids, &names, &opening],
    )?;
    let budgets = || catalogue.budgets.iter();
    let ids: Vec<i64> = budgets().map(|budget| budget.campaign_id).collect();
    let advertisers: Vec<i64> = budgets().map(|budget| budget.advertiser_id).collect();
    let cents: Vec<i64> = budgets().map(|budget| budget.budget.0).collect();
    transaction.execute(
        "INSERT INTO campaigns AS c (campaign_id, advertiser_id, budget)
         SELECT id, advertiser, cents * 0.01
         FROM UNNEST($1::bigint[], $2::bigint[], $3::bigint[]) AS n (id, advertiser, cents) ORDER BY id
         ON CONFLICT (campaign_id) DO UPDATE SET budget = excluded.budget,
             advertiser_id = coalesce(c.advertiser_id, excluded.advertiser_id), updated_at = now()",
        &[&ids, &advertisers, &cents],
    )?;
    Ok(())
}

pub(super) fn open_products(transaction: &mut Transaction<'_>, catalogue: &Catalogue) -> Result<(), Error> {
    let ids: Vec<i64> = catalogue.rates.iter().map(|(id, _, _)| *id).collect();
    let ctrs: Vec<f64> = catalogue.rates.iter().map(|(_, ctr, _)| *ctr).collect();
    let cvrs: Vec<f64> = catalogue.rates.iter().map(|(_, _, cvr)| *cvr).collect();
    transaction.execute(
        "INSERT INTO product_metrics_cache (product_id, ctr, cvr)
         SELECT * FROM UNNEST($1::bigint[], $2::float8[], $3::float8[])
         ON CONFLICT (product_id) DO UPDATE SET ctr = excluded.ctr, cvr = excluded.cvr",
        &[&ids, &ctrs, &cvrs],
    )?;
    let (ids, cents): (Vec<i64>, Vec<i64>) =
        catalogue.prices.iter().map(|(id, price)| (*id, price.0)).unzip();
    transaction.execute(
        "INSERT INTO product_meta_data (product_id, product_price)
         SELECT id, cents * 0.01 FROM UNNEST($1::bigint[], $2::bigint[]) AS n (id, cents)
         ON CONFLICT (product_id) DO UPDATE SET product_price = excluded.product_price",
        &[&ids, &cents],
    )?;
    Ok(())
}
