//! A segment: rows of one kind that entered the state of one worker, as a file.
//!
//! ```text
//! "adtide/s"  version u16  kind u8  rows u64  size u64  |  columns, `size` bytes compressed by zstd  |  crc32 of all before
//! ```
//!
//! Numbers of the frame are little-endian. The order of rows means nothing, so they are sorted by time, which makes them smaller.

use adtide_dataflows::conversion_matcher::{Conversion, Opener, RoutedClick, StoredClick};
use adtide_dataflows::duplicate_detector::{ClickGroup, PaidClick};
use adtide_dataflows::model::{ActiveCampaign, AdId, EventTime, IdHash, Money, Score};
use adtide_dataflows::operators::Keys;
use adtide_dataflows::performance_aggregator::PartialSums;
use adtide_dataflows::performance_aggregator::{PerformanceKey, PerformanceSums};
use adtide_dataflows::rtb_cache_updater::{CampaignUpdate, PriceUpdate, Rates, RatesUpdate};
use adtide_dataflows::{Kind, RateSums, StateDelta};
use anyhow::{Context, bail, ensure};

use super::column::{Decoder, Encoder};

/// The version of the format. Another one can't be read.
pub const VERSION: u16 = 1;

const MAGIC: &[u8; 8] = b"adtide/s";
const HEADER: usize = 8 + 2 + 1 + 8 + 8;
const CHECKSUM: usize = 4;

/// zstd's usual level: hashes, which are most of it, get no smaller with a higher one.
const LEVEL: i32 = 3;

/// An encoded segment.
#[derive(Debug)]
pub struct Encoded {
    /// What it holds.
    pub kind: Kind,
    /// How many.
    pub rows: u64,
    /// The greatest event time in it, by which it expires; of sums, the start of their window.
    pub greatest: EventTime,
    /// The file.
    pub bytes: Vec<u8>,
}

/// Encodes what there is, a segment a kind; it may change the order of rows.
///
/// # Errors
/// zstd fails.
pub fn encode(delta: &mut StateDelta) -> anyhow::Result<Vec<Encoded>> {
    Kind::ALL.into_iter().filter_map(|kind| encode_kind(kind, delta).transpose()).collect()
}

/// The checksum of a file: its last bytes. None if it is too short to be one.
pub fn checksum(bytes: &[u8]) -> Option<u32> {
    bytes.last_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

/// Whether a file is as it was written.
///
/// # Errors
/// It is not; says why.
pub fn check(bytes: &[u8]) -> anyhow::Result<()> {
    let (content, _) = bytes.split_at_checked(bytes.len().saturating_sub(CHECKSUM)).context("it is empty")?;
    ensure!(checksum(bytes) == Some(crc32fast::hash(content)), "its checksum does not hold: it was damaged or cut");
    Ok(())
}

/// Reads a segment.
///
/// # Errors
/// It is damaged, or of another version.
pub fn decode(bytes: &[u8]) -> anyhow::Result<StateDelta> {
    check(bytes)?;
    let (header, rest) = bytes.split_at_checked(HEADER).context("it is too short")?;
    let (magic, header) = header.split_at(MAGIC.len());
    ensure!(magic == MAGIC, "it is no segment of adtide");
    let (version, header) = header.split_at(2);
    check_version(u16::from_le_bytes([version[0], version[1]]))?;
    let kind = *Kind::ALL.get(usize::from(header[0])).context("it holds what this version does not know")?;
    let number = |at: usize| -> anyhow::Result<usize> {
        let bytes = header[at..].first_chunk().context("it is too short")?;
        Ok(usize::try_from(u64::from_le_bytes(*bytes))?)
    };
    let (rows, size) = (number(1)?, number(9)?);
    let compressed = rest.get(..rest.len().saturating_sub(CHECKSUM)).context("it is too short")?;
    let columns = zstd::bulk::decompress(compressed, size).context("it can't be decompressed")?;
    ensure!(columns.len() == size, "it is not as long as it says");
    let mut decoder = Decoder::new(&columns);
    let delta = decode_kind(kind, rows, &mut decoder)?;
    decoder.finish()?;
    Ok(delta)
}

/// Whether this version of adtide can read a version of the format.
///
/// # Errors
/// It can't; says what to do.
pub fn check_version(version: u16) -> anyhow::Result<()> {
    ensure!(
        version == VERSION,
        "it has version {version} of the format, and this adtide reads version {VERSION}: start with the adtide that wrote it, \
         or without it by --from-checkpoint none"
    );
    Ok(())
}

fn encode_kind(kind: Kind, delta: &mut StateDelta) -> anyhow::Result<Option<Encoded>> {
    let mut columns = Encoder::default();
    let (rows, greatest) = match kind {
        Kind::Campaigns => campaigns(&mut delta.campaigns, &mut columns),
        Kind::Rates => rates(&mut delta.rates, &mut columns),
        Kind::Prices => prices(&mut delta.prices, &mut columns),
        Kind::LiveRates => live_rates(&mut delta.live_rates, &mut columns),
        Kind::Sums => sums(&mut delta.sums, &mut columns),
        Kind::Clicks => clicks(&mut delta.clicks, &mut columns),
        Kind::Conversions => conversions(&mut delta.conversions, &mut columns),
        Kind::PaidClicks => paid_clicks(&mut delta.paid_clicks, &mut columns),
        Kind::Openers => openers(&mut delta.openers, &mut columns),
    };
    if rows == 0 {
        return Ok(None);
    }
    let columns = columns.finish();
    let mut bytes = Vec::new();
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.push(Kind::ALL.iter().position(|known| *known == kind).unwrap_or_default() as u8);
    bytes.extend_from_slice(&(rows as u64).to_le_bytes());
    bytes.extend_from_slice(&(columns.len() as u64).to_le_bytes());
    bytes.extend(zstd::bulk::compress(&columns, LEVEL).context("can't compress")?);
    bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
    Ok(Some(Encoded { kind, rows: rows as u64, greatest: greatest.unwrap_or(EventTime::MAX), bytes }))
}

fn decode_kind(kind: Kind, rows: usize, columns: &mut Decoder<'_>) -> anyhow::Result<StateDelta> {
    let mut delta = StateDelta::default();
    match kind {
        Kind::Campaigns => delta.campaigns = read_campaigns(rows, columns)?,
        Kind::Rates => delta.rates = read_rates(rows, columns)?,
        Kind::Prices => delta.prices = read_prices(rows, columns)?,
        Kind::LiveRates => delta.live_rates = read_live_rates(rows, columns)?,
        Kind::Sums => delta.sums = read_sums(rows, columns)?,
        Kind::Clicks => delta.clicks = read_clicks(rows, columns)?,
        Kind::Conversions => delta.conversions = read_conversions(rows, columns)?,
        Kind::PaidClicks => delta.paid_clicks = read_paid_clicks(rows, columns)?,
        Kind::Openers => delta.openers = read_openers(rows, columns)?,
    }
    Ok(delta)
}

/// How many rows were written, and the greatest event time of them, if they have any.
type Extent = (usize, Option<EventTime>);

fn campaigns(rows: &mut [CampaignUpdate], to: &mut Encoder) -> Extent {
    rows.sort_by_key(|row| row.0);
    to.near(rows.iter().map(|row| row.0));
    to.near(rows.iter().map(|row| row.1.0.0));
    positions(rows.iter().map(|row| row.1.1), to);
    to.flags(rows.iter().map(|row| row.2.is_some()));
    let active = || rows.iter().filter_map(|row| row.2.as_ref());
    to.near(active().map(|active| active.advertiser_id));
    to.near(active().map(|active| active.product_id));
    to.texts(active().map(|active| &*active.placement));
    to.texts(active().map(|active| &*active.category));
    to.near(active().map(|active| active.bid_price.0));
    (rows.len(), None)
}

fn read_campaigns(rows: usize, from: &mut Decoder<'_>) -> anyhow::Result<Vec<CampaignUpdate>> {
    let (ids, times, positions) = (from.near(rows)?, from.near(rows)?, read_positions(rows, from)?);
    let flags = from.flags(rows)?;
    let active = count(&flags);
    let (advertisers, products) = (from.near(active)?, from.near(active)?);
    let (placements, categories, bids) = (from.texts(active)?, from.texts(active)?, from.near(active)?);
    let fields = advertisers.into_iter().zip(products).zip(placements.into_iter().zip(categories)).zip(bids);
    let campaigns = fields.map(|(((advertiser_id, product_id), (placement, category)), bid)| ActiveCampaign {
        advertiser_id,
        product_id,
        placement,
        category,
        bid_price: Money(bid),
    });
    let keys = ids.into_iter().zip(times.into_iter().map(EventTime).zip(positions));
    Ok(keys.zip(spread(flags, campaigns)).map(|((id, order), campaign)| (id, order, campaign)).collect())
}

fn rates(rows: &mut [RatesUpdate], to: &mut Encoder) -> Extent {
    rows.sort_by_key(|row| row.0);
    to.near(rows.iter().map(|row| row.0));
    positions(rows.iter().map(|row| row.1), to);
    to.flags(rows.iter().map(|row| row.2.is_some()));
    to.near(rows.iter().filter_map(|row| row.2).map(|rates| rates.ctr.0.to_bits() as i64));
    to.near(rows.iter().filter_map(|row| row.2).map(|rates| rates.cvr.0.to_bits() as i64));
    (rows.len(), None)
}

fn read_rates(rows: usize, from: &mut Decoder<'_>) -> anyhow::Result<Vec<RatesUpdate>> {
    let (products, positions, flags) = (from.near(rows)?, read_positions(rows, from)?, from.flags(rows)?);
    let known = count(&flags);
    let score = |bits: i64| Score(f64::from_bits(bits as u64));
    let rates = from.near(known)?.into_iter().zip(from.near(known)?);
    let rates = rates.map(|(ctr, cvr)| Rates { ctr: score(ctr), cvr: score(cvr) });
    let keys = products.into_iter().zip(positions);
    Ok(keys.zip(spread(flags, rates)).map(|((product, position), rates)| (product, position, rates)).collect())
}

fn prices(rows: &mut [PriceUpdate], to: &mut Encoder) -> Extent {
    rows.sort_by_key(|row| row.0);
    to.near(rows.iter().map(|row| row.0));
    positions(rows.iter().map(|row| row.1), to);
    to.flags(rows.iter().map(|row| row.2.is_some()));
    to.near(rows.iter().filter_map(|row| row.2).map(|price| price.0));
    (rows.len(), None)
}

fn read_prices(rows: usize, from: &mut Decoder<'_>) -> anyhow::Result<Vec<PriceUpdate>> {
    let (products, positions, flags) = (from.near(rows)?, read_positions(rows, from)?, from.flags(rows)?);
    let known = count(&flags);
    let prices = from.near(known)?.into_iter().map(Money);
    let keys = products.into_iter().zip(positions);
    Ok(keys.zip(spread(flags, prices)).map(|((product, position), price)| (product, position, price)).collect())
}

fn live_rates(rows: &mut [RateSums], to: &mut Encoder) -> Extent {
    rows.sort_by_key(|row| (row.0, row.1));
    to.near(rows.iter().map(|row| row.0));
    to.near(rows.iter().map(|row| row.1.0));
    performance(rows.iter().map(|row| row.2), to);
    (rows.len(), rows.iter().map(|row| row.1).max())
}

fn read_live_rates(rows: usize, from: &mut Decoder<'_>) -> anyhow::Result<Vec<RateSums>> {
    let (products, windows) = (from.near(rows)?, from.near(rows)?);
    let sums = read_performance(rows, from)?;
    Ok(products
        .into_iter()
        .zip(windows)
        .zip(sums)
        .map(|((product, start), sums)| (product, EventTime(start), sums))
        .collect())
}

fn sums(rows: &mut [PartialSums], to: &mut Encoder) -> Extent {
    rows.sort_by(|one, other| {
        let key = |row: &PartialSums| (row.0.window_start, row.0.campaign_id, row.0.product_id);
        key(one).cmp(&key(other))
    });
    to.near(rows.iter().map(|row| row.0.window_start.0));
    to.near(rows.iter().map(|row| row.0.campaign_id));
    to.near(rows.iter().map(|row| row.0.product_id));
    to.texts(rows.iter().map(|row| &*row.0.placement));
    performance(rows.iter().map(|row| row.1), to);
    (rows.len(), rows.iter().map(|row| row.0.window_start).max())
}

fn read_sums(rows: usize, from: &mut Decoder<'_>) -> anyhow::Result<Vec<PartialSums>> {
    let (windows, campaigns, products) = (from.near(rows)?, from.near(rows)?, from.near(rows)?);
    let placements = from.texts(rows)?;
    let sums = read_performance(rows, from)?;
    let keys = windows.into_iter().zip(campaigns).zip(products.into_iter().zip(placements));
    let keys = keys.map(|((start, campaign_id), (product_id, placement))| PerformanceKey {
        campaign_id,
        product_id,
        placement,
        window_start: EventTime(start),
    });
    Ok(keys.zip(sums).collect())
}

fn performance(sums: impl Iterator<Item = PerformanceSums> + Clone, to: &mut Encoder) {
    to.near(sums.clone().map(|sums| sums.impressions));
    to.near(sums.clone().map(|sums| sums.clicks));
    to.near(sums.clone().map(|sums| sums.conversions));
    to.near(sums.clone().map(|sums| sums.spend.0));
    to.near(sums.map(|sums| sums.revenue.0));
}

fn read_performance(rows: usize, from: &mut Decoder<'_>) -> anyhow::Result<Vec<PerformanceSums>> {
    let counts = (from.near(rows)?, from.near(rows)?, from.near(rows)?);
    let money = (from.near(rows)?, from.near(rows)?);
    Ok((0..rows)
        .map(|at| PerformanceSums {
            impressions: counts.0[at],
            clicks: counts.1[at],
            conversions: counts.2[at],
            spend: Money(money.0[at]),
            revenue: Money(money.1[at]),
        })
        .collect())
}

fn clicks(rows: &mut [RoutedClick], to: &mut Encoder) -> Extent {
    rows.sort_by_key(|row| row.1.click_time);
    to.near(rows.iter().map(|row| row.1.click_time.0));
    to.repeated(rows.iter().map(|row| row.0));
    keys(rows.iter().map(|row| row.1.keys), to);
    ad_ids(rows.iter().map(|row| row.1.ad_id.as_ref()), to);
    campaign_ids(rows.iter().map(|row| row.1.campaign_id), to);
    to.near(rows.iter().map(|row| row.1.advertiser_id));
    (rows.len(), rows.last().map(|row| row.1.click_time))
}

fn read_clicks(rows: usize, from: &mut Decoder<'_>) -> anyhow::Result<Vec<RoutedClick>> {
    let (times, routes, keys) = (from.near(rows)?, from.repeated(rows)?, read_keys(rows, from)?);
    let ads = read_ad_ids(rows, from)?;
    let campaigns = read_campaign_ids(rows, from)?;
    let owners = campaigns.into_iter().zip(from.near(rows)?);
    let rows = times.into_iter().zip(routes).zip(keys.into_iter().zip(ads)).zip(owners);
    Ok(rows
        .map(|(((time, route), (keys, ad_id)), (campaign_id, advertiser_id))| {
            (route, StoredClick { keys, click_time: EventTime(time), ad_id, campaign_id, advertiser_id })
        })
        .collect())
}

fn conversions(rows: &mut [Conversion], to: &mut Encoder) -> Extent {
    rows.sort_by_key(|row| row.order);
    to.near(rows.iter().map(|row| row.order.0.0));
    // As long as only the records that opened were kept, how much later the latest repeat was; now -1.
    to.near(rows.iter().map(|row| row.opened_until.map_or(-1, |until| until.0.wrapping_sub(row.order.0.0))));
    positions(rows.iter().map(|row| (row.order.1, row.order.2)), to);
    keys(rows.iter().map(|row| row.keys), to);
    to.texts(rows.iter().map(|row| &*row.order_id));
    to.near(rows.iter().map(|row| row.product_id));
    to.near(rows.iter().map(|row| row.revenue_amount.0));
    (rows.len(), rows.iter().map(Conversion::expires_by).max())
}

fn read_conversions(rows: usize, from: &mut Decoder<'_>) -> anyhow::Result<Vec<Conversion>> {
    let times = from.near(rows)?.into_iter().zip(from.near(rows)?);
    let (positions, keys) = (read_positions(rows, from)?, read_keys(rows, from)?);
    let (orders, products, revenues) = (from.texts(rows)?, from.near(rows)?, from.near(rows)?);
    let places = times.zip(positions);
    let rows = places.zip(keys).zip(orders.into_iter().zip(products)).zip(revenues);
    Ok(rows
        .map(|(((((time, longer), (partition, offset)), keys), (order_id, product_id)), revenue)| Conversion {
            keys,
            order: (EventTime(time), partition, offset),
            order_id,
            product_id,
            revenue_amount: Money(revenue),
            opened_until: (longer >= 0).then(|| EventTime(time.wrapping_add(longer))),
        })
        .collect())
}

fn openers(rows: &mut [Opener], to: &mut Encoder) -> Extent {
    rows.sort_by_key(|row| row.time);
    to.near(rows.iter().map(|row| row.time.0));
    to.repeated(rows.iter().map(|row| row.route));
    to.hashes(rows.iter().map(|row| row.id));
    (rows.len(), rows.last().map(|row| row.time))
}

fn read_openers(rows: usize, from: &mut Decoder<'_>) -> anyhow::Result<Vec<Opener>> {
    let (times, routes, ids) = (from.near(rows)?, from.repeated(rows)?, from.hashes(rows)?);
    let rows = times.into_iter().zip(routes).zip(ids);
    Ok(rows.map(|((time, route), id)| Opener { route, id, time: EventTime(time) }).collect())
}

fn paid_clicks(rows: &mut [PaidClick], to: &mut Encoder) -> Extent {
    rows.sort_by_key(|row| row.time);
    to.near(rows.iter().map(|row| row.time.0));
    to.near(rows.iter().map(|row| row.group.advertiser_id));
    campaign_ids(rows.iter().map(|row| row.group.campaign_id), to);
    ad_ids(rows.iter().map(|row| Some(&row.group.ad_id)), to);
    to.texts(rows.iter().map(|row| &*row.group.device_id));
    to.near(rows.iter().map(|row| row.group.actual_price.0));
    (rows.len(), rows.last().map(|row| row.time))
}

fn read_paid_clicks(rows: usize, from: &mut Decoder<'_>) -> anyhow::Result<Vec<PaidClick>> {
    let (times, advertisers) = (from.near(rows)?, from.near(rows)?);
    let (campaigns, ads) = (read_campaign_ids(rows, from)?, read_ad_ids(rows, from)?);
    let (devices, prices) = (from.texts(rows)?, from.near(rows)?);
    let owners = advertisers.into_iter().zip(campaigns);
    let rows = times.into_iter().zip(owners).zip(ads.into_iter().zip(devices)).zip(prices);
    rows.map(|(((time, (advertiser_id, campaign_id)), (ad_id, device_id)), price)| {
        let ad_id = ad_id.context("a click that was paid has no ad")?;
        let group = ClickGroup { advertiser_id, campaign_id, ad_id, device_id, actual_price: Money(price) };
        Ok(PaidClick { group, time: EventTime(time) })
    })
    .collect()
}

fn positions(positions: impl Iterator<Item = (u32, u64)> + Clone, to: &mut Encoder) {
    to.repeated(positions.clone().map(|(partition, _)| partition));
    to.near(positions.map(|(_, offset)| offset as i64));
}

fn read_positions(rows: usize, from: &mut Decoder<'_>) -> anyhow::Result<Vec<(u32, u64)>> {
    let partitions = from.repeated(rows)?;
    Ok(partitions.into_iter().zip(from.near(rows)?.into_iter().map(|offset| offset as u64)).collect())
}

fn keys(keys: impl Iterator<Item = Keys> + Clone, to: &mut Encoder) {
    for side in [0, 1] {
        to.flags(keys.clone().map(|keys| keys[side].is_some()));
        to.hashes(keys.clone().filter_map(|keys| keys[side]));
    }
}

fn read_keys(rows: usize, from: &mut Decoder<'_>) -> anyhow::Result<Vec<Keys>> {
    let mut side = || -> anyhow::Result<Vec<Option<IdHash>>> {
        let flags = from.flags(rows)?;
        let hashes = from.hashes(count(&flags))?;
        Ok(spread(flags, hashes.into_iter()).collect())
    };
    let (devices, sessions) = (side()?, side()?);
    Ok(devices.into_iter().zip(sessions).map(|(device, session)| [device, session]).collect())
}

fn campaign_ids(ids: impl Iterator<Item = Option<i64>> + Clone, to: &mut Encoder) {
    to.flags(ids.clone().map(|id| id.is_some()));
    to.near(ids.flatten());
}

fn read_campaign_ids(rows: usize, from: &mut Decoder<'_>) -> anyhow::Result<Vec<Option<i64>>> {
    let flags = from.flags(rows)?;
    let ids = from.near(count(&flags))?;
    Ok(spread(flags, ids.into_iter()).collect())
}

fn ad_ids<'a>(ids: impl Iterator<Item = Option<&'a AdId>> + Clone, to: &mut Encoder) {
    to.flags(ids.clone().map(|id| id.is_some()));
    to.flags(ids.clone().flatten().map(|id| matches!(id, AdId::Number(_))));
    to.near(ids.clone().flatten().filter_map(|id| match id {
        AdId::Number(number) => Some(*number),
        AdId::Text(_) => None,
    }));
    to.texts(ids.flatten().filter_map(|id| match id {
        AdId::Number(_) => None,
        AdId::Text(text) => Some(&**text),
    }));
}

fn read_ad_ids(rows: usize, from: &mut Decoder<'_>) -> anyhow::Result<Vec<Option<AdId>>> {
    let flags = from.flags(rows)?;
    let are_numbers = from.flags(count(&flags))?;
    let numbers = count(&are_numbers);
    let texts = are_numbers.len() - numbers;
    let mut numbers = from.near(numbers)?.into_iter();
    let mut texts = from.texts(texts)?.into_iter();
    let ids = are_numbers.into_iter().map(|is_number| match is_number {
        true => numbers.next().map(AdId::Number),
        false => texts.next().map(|text| AdId::Text((&*text).into())),
    });
    let ids = ids.collect::<Option<Vec<_>>>();
    let Some(ids) = ids else { bail!("an ad has no id") };
    Ok(spread(flags, ids.into_iter()).collect())
}

/// How many flags are set.
fn count(flags: &[bool]) -> usize {
    flags.iter().filter(|flag| **flag).count()
}

/// The values where the flags are set, None elsewhere.
fn spread<T>(flags: Vec<bool>, mut values: impl Iterator<Item = T>) -> impl Iterator<Item = Option<T>> {
    flags.into_iter().map(move |flag| if flag { values.next() } else { None })
}

#[cfg(test)]
mod tests;
