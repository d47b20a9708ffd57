use adtide_dataflows::conversion_matcher::{Conversion, Opener, StoredClick};
use adtide_dataflows::duplicate_detector::{ClickGroup, PaidClick};
use adtide_dataflows::model::{ActiveCampaign, AdId, IdHash, Money, Text};
use adtide_dataflows::performance_aggregator::{PerformanceKey, PerformanceSums};
use adtide_dataflows::rtb_cache_updater::Rates;
use proptest::prelude::*;

use super::*;

fn text() -> impl Strategy<Value = Text> {
    prop_oneof!["[a-c]{0,2}", any::<String>()].prop_map(Text::from)
}

fn keys() -> impl Strategy<Value = [Option<IdHash>; 2]> {
    let key = || prop::option::of(any::<u64>().prop_map(|n| IdHash::of(&n.to_string())));
    (key(), key()).prop_map(|(device, session)| [device, session])
}

fn ad_id() -> impl Strategy<Value = AdId> {
    prop_oneof![any::<i64>().prop_map(AdId::Number), "[a-z]{1,3}".prop_map(|text| AdId::Text(text.into()))]
}

fn sums_of() -> impl Strategy<Value = PerformanceSums> {
    any::<(i64, i64, i64, i64, i64)>().prop_map(|(impressions, clicks, conversions, spend, revenue)| {
        PerformanceSums { impressions, clicks, conversions, spend: Money(spend), revenue: Money(revenue) }
    })
}

fn active() -> impl Strategy<Value = ActiveCampaign<Text>> {
    (any::<(i64, i64, i64)>(), text(), text()).prop_map(
        |((advertiser_id, product_id, bid), placement, category)| ActiveCampaign {
            advertiser_id,
            product_id,
            placement,
            category,
            bid_price: Money(bid),
        },
    )
}

fn click() -> impl Strategy<Value = (u32, StoredClick)> {
    (any::<(u32, i64, i64)>(), keys(), prop::option::of(ad_id()), any::<Option<i64>>()).prop_map(
        |((route, time, advertiser_id), keys, ad_id, campaign_id)| {
            (route, StoredClick { keys, click_time: EventTime(time), ad_id, campaign_id, advertiser_id })
        },
    )
}

fn conversion() -> impl Strategy<Value = Conversion> {
    let time = -1_000_000_000_000..1_000_000_000_000i64;
    (time, any::<(u32, u64, i64, i64)>(), keys(), text()).prop_map(
        |(time, (partition, offset, product_id, revenue), keys, order_id)| Conversion {
            keys,
            order: (EventTime(time), partition, offset),
            order_id,
            product_id,
            revenue_amount: Money(revenue),
        },
    )
}

fn opener() -> impl Strategy<Value = Opener> {
    (any::<(u32, i64)>(), text()).prop_map(|((route, time), id)| Opener {
        route,
        id: IdHash::of(&id),
        time: EventTime(time),
    })
}

fn paid_click() -> impl Strategy<Value = PaidClick> {
    (any::<(i64, i64, i64, Option<i64>)>(), ad_id(), text()).prop_map(
        |((time, advertiser_id, price, campaign_id), ad_id, device_id)| {
            let group =
                ClickGroup { advertiser_id, campaign_id, ad_id, device_id, actual_price: Money(price) };
            PaidClick { group, time: EventTime(time) }
        },
    )
}

fn entered() -> impl Strategy<Value = StateDelta> {
    let position = || any::<(u32, u64)>();
    let time = || any::<i64>().prop_map(EventTime);
    let rate = any::<(f64, f64)>().prop_map(|(ctr, cvr)| Rates::new(ctr, cvr));
    let key = (any::<(i64, i64)>(), text(), time()).prop_map(
        |((campaign_id, product_id), placement, window_start)| PerformanceKey {
            campaign_id,
            product_id,
            placement,
            window_start,
        },
    );
    let upserts = (
        prop::collection::vec((any::<i64>(), (time(), position()), prop::option::of(active())), 0..20),
        prop::collection::vec((any::<i64>(), position(), prop::option::of(rate)), 0..20),
        prop::collection::vec(
            (any::<i64>(), position(), any::<Option<i64>>().prop_map(|price| price.map(Money))),
            0..20,
        ),
    );
    let rows = (
        prop::collection::vec((any::<i64>(), time(), sums_of()), 0..20),
        prop::collection::vec((key, sums_of()), 0..20),
        prop::collection::vec(click(), 0..40),
        prop::collection::vec(conversion(), 0..20),
        prop::collection::vec(opener(), 0..20),
        prop::collection::vec(paid_click(), 0..20),
    );
    (upserts, rows).prop_map(
        |((campaigns, rates, prices), (live_rates, sums, clicks, conversions, openers, paid_clicks))| {
            StateDelta {
                campaigns,
                rates,
                prices,
                live_rates,
                sums,
                clicks,
                conversions,
                openers,
                paid_clicks,
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn rows_of_every_kind_come_back(mut delta in entered()) {
        let mut back = StateDelta::default();
        for encoded in encode(&mut delta).unwrap() {
            back.append(decode(&encoded.bytes).unwrap());
        }
        // Encoding has sorted them.
        prop_assert_eq!(back, delta);
    }

    #[test]
    fn whatever_is_damaged_is_found(mut delta in entered(), at: prop::sample::Index, bit in 0u32..8, cut: bool) {
        for Encoded { mut bytes, .. } in encode(&mut delta).unwrap() {
            let at = at.index(bytes.len());
            if cut { bytes.truncate(at) } else { bytes[at] ^= 1u8 << bit }
            prop_assert!(decode(&bytes).is_err());
        }
    }

    #[test]
    fn no_bytes_are_too_strange(kind in 0u8..12, rows: u64, size in 0u64..1 << 20, content: Vec<u8>) {
        let mut bytes = Vec::from(*MAGIC);
        bytes.extend_from_slice(&1u16.to_le_bytes());
        bytes.push(kind);
        bytes.extend_from_slice(&rows.to_le_bytes());
        bytes.extend_from_slice(&size.to_le_bytes());
        bytes.extend_from_slice(&zstd::bulk::compress(&content, LEVEL).unwrap());
        bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
        let _ = decode(&bytes);
    }
}

#[test]
fn another_version_says_what_to_do() {
    let mut delta = StateDelta { prices: vec![(1, (0, 0), None)], ..StateDelta::default() };
    let mut bytes = encode(&mut delta).unwrap().remove(0).bytes;
    bytes[MAGIC.len()] = 9;
    let end = bytes.len() - CHECKSUM;
    let checksum = crc32fast::hash(&bytes[..end]);
    bytes[end..].copy_from_slice(&checksum.to_le_bytes());
    let error = decode(&bytes).unwrap_err().to_string();
    assert!(error.contains("Prices are of version 9") && error.contains("--from-checkpoint none"), "{error}");
}

#[test]
fn a_click_takes_no_more_than_forty_bytes() {
    // Half a minute of clicks at 3,000 a second, on 100,000 ads.
    let clicks = (0u64..90_000).map(|n| {
        let ad = (n * 2_654_435_761 % 100_003) as i64;
        let key = |what: &str| Some(IdHash::of(&format!("{what}{n}")));
        let click = StoredClick {
            keys: [key("d"), key("s")],
            click_time: EventTime(1_767_600_000_000 + n as i64 / 3),
            ad_id: Some(AdId::Number(ad)),
            campaign_id: Some(ad / 10),
            advertiser_id: ad / 100,
        };
        ((ad as u32 % 5003).wrapping_mul(2_654_435_761), click)
    });
    let mut delta = StateDelta { clicks: clicks.collect(), ..StateDelta::default() };
    let bytes = encode(&mut delta).unwrap().remove(0).bytes.len();
    assert!(bytes <= 40 * 90_000, "{:.1} bytes a click", bytes as f64 / 90_000.0);
}

#[test]
fn conversions_from_before_repeats_were_kept_are_refused_and_say_what_to_do() {
    let row = || Conversion { order_id: "o".into(), ..Conversion::default() };
    let mut delta = StateDelta { conversions: vec![row()], ..StateDelta::default() };
    let mut columns = Codec::Encode(Encoder::default());
    delta.encode(Kind::Conversions, &mut columns).unwrap();
    let mut columns = columns.finish().unwrap();
    // The second column: the latest repeat came 5 ms later.
    assert_eq!(columns[1], 1);
    columns[1] = 10;
    let mut bytes = Vec::from(*MAGIC);
    bytes.extend_from_slice(&1u16.to_le_bytes());
    bytes.push(Kind::Conversions as u8);
    bytes.extend_from_slice(&1u64.to_le_bytes());
    bytes.extend_from_slice(&(columns.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&zstd::bulk::compress(&columns, LEVEL).unwrap());
    bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
    let error = decode(&bytes).unwrap_err().to_string();
    assert!(error.contains("earlier version") && error.contains("--from-checkpoint none"), "{error}");
}
