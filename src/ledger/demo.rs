//! Balances and budgets for generated traffic.

use std::collections::{BTreeMap, HashMap};

use adtide_dataflows::model::{AdEventType, EventTime, Money, Topic, UnknownIds};
use adtide_dataflows::record::{self, Scanner};

use super::store::{Account, Budget, Catalogue};
use crate::source::generator::{GeneratorConfig, Traffic};

/// What of the traffic is looked at to choose budgets.
const SPAN_MS: i64 = 2 * 60 * 60 * 1000;
const AD_EVENTS: u64 = 1_000_000;

/// What a campaign spends.
#[derive(Default)]
struct Spending {
    advertiser_id: i64,
    gross: Money,
    /// What of it goes to duplicates.
    refunded: Money,
}

/// The advertisers, campaigns and products of the traffic that this configuration generates.
///
/// The traffic itself is looked at, two hours of it at most, so that about one campaign in twelve spends its
/// budget within that time, and for some of those refunds bring it back. The same configuration gives the
/// same catalogue.
///
/// # Errors
/// Says which value of the configuration can't be.
pub fn catalogue(config: &GeneratorConfig) -> anyhow::Result<Catalogue> {
    let opens = config.start;
    let span = config.span_ms.min(SPAN_MS);
    let fitting =
        (u128::from(AD_EVENTS) * config.span_ms.max(1) as u128 / u128::from(config.ad_events.max(1))) as i64;
    let traffic = if span.min(fitting) < config.span_ms {
        config.clone().for_span(span.min(fitting).max(1))
    } else {
        config.clone()
    };
    let mut sample = Sample::default();
    let mut traffic = Traffic::new(&traffic)?;
    let mut line = Vec::new();
    while let Some(arrival) = traffic.next(&mut line) {
        // A record that can't be read counts for nothing.
        let _ = sample.take(arrival.topic, arrival.at < opens, &line);
    }
    Ok(sample.catalogue(config.seed))
}

/// What the traffic shows.
#[derive(Default)]
struct Sample {
    unknown_ids: UnknownIds,
    scanners: [Scanner; Topic::ALL.len()],
    catalogue: Catalogue,
    campaigns: BTreeMap<i64, Spending>,
    /// Clicks by campaign, ad, device, price and window, as statement 4 groups them.
    groups: HashMap<(i64, String, String, Money, EventTime), i64>,
}

impl Sample {
    fn take(&mut self, topic: Topic, is_opening: bool, line: &[u8]) -> Result<(), record::BadRecord> {
        let Sample { unknown_ids, scanners, catalogue, campaigns, groups } = self;
        scanners[topic as usize].read(line, |fields| {
            match topic {
                Topic::ProductMetrics if is_opening => {
                    let metrics = record::product_metrics(fields, unknown_ids)?;
                    catalogue.rates.extend(metrics.rates.map(|(ctr, cvr)| (metrics.product_id, ctr, cvr)));
                }
                Topic::ProductMeta if is_opening => {
                    let meta = record::product_meta(fields, unknown_ids)?;
                    catalogue.prices.extend(meta.price.map(|price| (meta.product_id, price)));
                }
                Topic::CampaignEvents if is_opening => {
                    let event = record::campaign_event(fields, unknown_ids)?;
                    if let Some(active) = event.active {
                        campaigns.entry(event.campaign_id).or_default().advertiser_id = active.advertiser_id;
                    }
                }
                Topic::AdEvents => {
                    let event = record::ad_event(fields, unknown_ids)?;
                    let Some(campaign) = event.campaign_id else { return Ok(()) };
                    if event.event_type != AdEventType::Click {
                        return Ok(());
                    }
                    let spending = campaigns.entry(campaign).or_default();
                    spending.gross += event.actual_price;
                    if let (Some(ad), Some(device)) = (event.ad_id, event.device_id) {
                        let window = event.time.window_start();
                        let group = (campaign, ad.to_string(), device.to_owned(), event.actual_price, window);
                        let clicks = groups.entry(group).or_default();
                        *clicks += 1;
                        if *clicks > 1 {
                            spending.refunded += event.actual_price;
                        }
                    }
                }
                _ => {}
            }
            Ok(())
        })
    }

    fn catalogue(mut self, seed: u64) -> Catalogue {
        let known = self.campaigns.iter().filter(|(_, spending)| spending.advertiser_id > 0);
        self.catalogue.budgets =
            known.map(|(campaign, spending)| budget(seed, *campaign, spending)).collect();
        let advertisers: BTreeMap<i64, ()> =
            self.catalogue.budgets.iter().map(|budget| (budget.advertiser_id, ())).collect();
        let account = |advertiser_id: i64| Account {
            advertiser_id,
            name: format!("Advertiser {advertiser_id}"),
            opening_balance: Money(100_000 * (1 + draw(seed, advertiser_id, 1, 20))),
        };
        self.catalogue.accounts = advertisers.into_keys().map(account).collect();
        self.catalogue
    }
}

/// Most campaigns have several times what they spend. A tenth of those that spend at all have a part of it;
/// and of those with refunds, half have what is spent only until the refunds come.
fn budget(seed: u64, campaign_id: i64, spending: &Spending) -> Budget {
    let Spending { advertiser_id, gross, refunded } = *spending;
    let chance = draw(seed, campaign_id, 2, 100);
    let budget = if refunded > Money::ZERO && chance < 50 {
        Money(gross.0 - refunded.0 / 2)
    } else if gross > Money::ZERO && chance < 10 {
        Money((gross.0 * (40 + draw(seed, campaign_id, 3, 50)) / 100).max(1))
    } else {
        Money((gross.0 * (2 + draw(seed, campaign_id, 4, 5))).max(10_000))
    };
    Budget { campaign_id, advertiser_id, budget }
}

/// A number from 0 to below `limit`, all alike, that depends on the seed and nothing else (splitmix64).
fn draw(seed: u64, id: i64, purpose: u64, limit: u64) -> i64 {
    let mut mixed = seed ^ (id.unsigned_abs() << 8) ^ (purpose << 56);
    mixed = mixed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^= mixed >> 31;
    ((u128::from(mixed) * u128::from(limit)) >> 64) as i64
}
