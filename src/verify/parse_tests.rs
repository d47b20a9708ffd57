//! What is a record and what is not.

use std::path::Path;

use adtide_dataflows::Settings;
use adtide_dataflows::model::{AdEvent, AdId, EventTime, Money, Topic};

use super::fields::Bad;
use super::input::{Input, Offsets, Record, TopicFiles};
use super::parse::{ad_event, campaign_event, conversion_event, product_meta, product_metrics, read};

const CLICK: &str = r#"{"event_type":"CLICK","timestamp_field":1000,"product_id":7,"placement":"top","advertiser_id":9,"actual_price":1.50"#;

fn clock() -> EventTime {
    EventTime(1_000_000_000_000).plus(Settings::default().max_future_skew)
}

/// A click with these fields too; of a repeated field the last one stands.
fn click(more: &str) -> Result<AdEvent, Bad> {
    ad_event(format!("{CLICK}{more}}}").as_bytes(), clock())
}

/// The lines of ad-events before the offsets.
fn lines(dir: &Path, until: &[(u32, u64)]) -> anyhow::Result<Vec<(u32, u64, String)>> {
    let mut lines = Vec::new();
    let mut input = TopicFiles::new(dir, clock())?;
    input.each_record(Topic::AdEvents, &until.iter().copied().collect(), &mut |record| {
        let value = String::from_utf8_lossy(record.value.unwrap_or_default()).into_owned();
        lines.push((record.partition, record.offset, value));
    })?;
    Ok(lines)
}

#[test]
fn an_offset_is_the_number_of_the_line_and_empty_lines_count() {
    let dir = tempfile::tempdir().unwrap();
    assert!(lines(dir.path(), &[]).unwrap().is_empty());
    std::fs::write(dir.path().join("ad-events.ndjson"), "a\r\n\n\r\nb").unwrap();
    assert_eq!(lines(dir.path(), &[(0, 4)]).unwrap(), [(0, 0, "a".into()), (0, 3, "b".into())]);
    assert_eq!(lines(dir.path(), &[(0, 3)]).unwrap(), [(0, 0, "a".into())]);
}

#[test]
fn partitions_are_the_numbered_files_of_a_folder() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("ad-events");
    std::fs::create_dir(&folder).unwrap();
    for (name, text) in [("10.ndjson", "x\n"), ("2.ndjson", "y\n"), ("notes.ndjson", "n\n"), ("3.txt", "n\n")] {
        std::fs::write(folder.join(name), text).unwrap();
    }
    assert_eq!(lines(dir.path(), &[(2, 1), (10, 1)]).unwrap(), [(2, 0, "y".into()), (10, 0, "x".into())]);
    assert_eq!(lines(dir.path(), &[(10, 1)]).unwrap(), [(10, 0, "x".into())]);
    std::fs::write(dir.path().join("ad-events.ndjson"), "z\n").unwrap();
    assert!(lines(dir.path(), &[(10, 1)]).is_err());
}

#[test]
fn bad_lines_are_told_from_good_ones() {
    let dir = tempfile::tempdir().unwrap();
    let long = format!("{CLICK},\"other\":\"{}\"}}\n", "x".repeat(1 << 20));
    let good = format!("{CLICK}}}\n");
    let lines = [good.as_bytes(), b"[]\n", b"{\n", b"{} {}\n", b"\xff\n", b" \n", long.as_bytes(), good.as_bytes()];
    std::fs::write(dir.path().join("ad-events.ndjson"), lines.concat()).unwrap();
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    let mut input = TopicFiles::new(dir.path(), clock()).unwrap();
    let all = Offsets::from([(0, 8)]);
    let read = input.each_record(Topic::AdEvents, &all, &mut |record| {
        let offsets = if read(Topic::AdEvents, &record, ad_event).is_ok() { &mut good } else { &mut bad };
        offsets.push(record.offset);
    });
    read.unwrap();
    assert_eq!((good, bad), (vec![0, 7], vec![1, 2, 3, 4, 5, 6]));
}

#[test]
fn unknown_fields_are_ignored_whatever_their_value() {
    let nested = |levels| "[".repeat(levels) + &"]".repeat(levels);
    for value in [nested(100).as_str(), "1e999", "null", r#""\ud800""#, "{}"] {
        assert!(click(&format!(r#","other":{value}"#)).is_ok(), "{value:.20}");
    }
    assert!(click(r#","other":nonsense"#).is_err());
    assert!(click(&format!(r#","other":{}"#, nested(128))).is_err());
}

#[test]
fn a_record_nests_at_most_127_levels_itself_included() {
    let nested = |levels| click(&format!(r#","other":{}{}"#, "[".repeat(levels), "]".repeat(levels)));
    assert!(nested(126).is_ok());
    assert!(nested(127).is_err());
    // Brackets in a text are no levels.
    assert!(click(&format!(r#","other":"\"{}""#, "[".repeat(200))).is_ok());
}

#[test]
fn of_a_repeated_field_the_last_stands_and_null_is_absent() {
    assert_eq!(click(r#","campaign_id":true,"campaign_id":3"#).unwrap().campaign_id, Some(3));
    assert_eq!(click(r#","campaign_id":3,"campaign_id":null"#).unwrap().campaign_id, None);
    assert!(click(r#","product_id":null"#).is_err());
    assert_eq!(click(r#","\u0063ampaign_id":3"#).unwrap().campaign_id, Some(3));
}

#[test]
fn bigints_are_integers_or_strings_that_are() {
    for (json, id) in [("3", 3), ("-3", -3), (r#""3""#, 3), (r#""-03""#, -3), ("9223372036854775807", i64::MAX)] {
        assert_eq!(click(&format!(r#","campaign_id":{json}"#)).unwrap().campaign_id, Some(id), "{json}");
    }
    for json in ["3.0", "3e0", r#""+3""#, r#"" 3""#, r#""""#, r#""-""#, "9223372036854775808", "true", "[]", "{}"] {
        assert!(click(&format!(r#","campaign_id":{json}"#)).is_err(), "{json}");
    }
}

#[test]
fn textual_ids_are_strings_or_integers_as_they_stand() {
    let device = |json: &str| click(&format!(r#","device_id":{json}"#)).map(|event| event.device_id);
    assert_eq!(device(r#""a\"b""#), Ok(Some("a\"b".into())));
    assert_eq!(device(r#""""#), Ok(Some(String::new())));
    assert_eq!(device("99999999999999999999"), Ok(Some("99999999999999999999".into())));
    assert_eq!(device("null"), Ok(None));
    for json in ["1.0", "1e3", "true", "{}"] {
        assert!(device(json).is_err(), "{json}");
    }
    let ad = |json: &str| click(&format!(r#","ad_id":{json}"#)).map(|event| event.ad_id);
    assert_eq!(ad("17"), ad(r#""17""#));
    assert_eq!(ad(r#""""#), Ok(Some(AdId::Text("".into()))));
    assert!(ad("9223372036854775808").is_err());
}

#[test]
fn times_are_texts_or_epoch_milliseconds_not_too_far_ahead() {
    let time = |json: &str| click(&format!(r#","timestamp_field":{json}"#)).map(|event| event.time.0);
    assert_eq!(time(r#""1970-01-01 00:00:01.5""#), Ok(1500));
    assert_eq!(time(r#""1970-01-01T00:00:01.5Z""#), Ok(1500));
    assert_eq!(time("1500"), Ok(1500));
    assert_eq!(time("1000003600000"), Ok(1_000_003_600_000));
    for json in ["1000003600001", "1.5e3", "1500.0", r#""1500""#, "-1", "true", "null"] {
        assert!(time(json).is_err(), "{json}");
    }
}

#[test]
fn money_is_read_to_minor_units_and_bounded() {
    let price = |json: &str| click(&format!(r#","actual_price":{json}"#)).map(|event| event.actual_price);
    assert_eq!(price("0.29"), Ok(Money(29)));
    assert_eq!(price(r#""0.29""#), Ok(Money(29)));
    assert_eq!(price("99999999.99"), Ok(Money::MAX_PRICE));
    for json in ["0.290", "-1", "100000000", r#"" 1""#, "null", "[]"] {
        assert!(price(json).is_err(), "{json}");
    }
    assert!(click(r#","revenue_amount":9999999999999.99"#).is_ok());
    assert!(click(r#","revenue_amount":10000000000000"#).is_err());
}

#[test]
fn an_ad_event_has_what_its_type_requires() {
    let event = |json: &str| ad_event(json.as_bytes(), clock());
    let shown = r#"{"event_type":"IMPRESSION","timestamp_field":1,"product_id":7,"placement":"top"}"#;
    assert_eq!(event(shown).unwrap().actual_price, Money::ZERO);
    for (types, other) in [("IMPRESSION", "CLICK"), ("IMPRESSION", "CONVERSION"), ("IMPRESSION", "click")] {
        assert!(event(&shown.replace(types, other)).is_err(), "{other}");
    }
    for name in ["event_type", "timestamp_field", "product_id", "placement"] {
        assert!(event(&shown.replace(name, "other")).is_err(), "{name}");
    }
    assert!(event(&shown.replace("IMPRESSION", "CONVERSION").replace('}', r#","revenue_amount":"6"}"#)).is_ok());
    assert!(click(r#","advertiser_id":null"#).is_err());
}

#[test]
fn an_ill_typed_known_field_makes_the_record_bad_needed_or_not() {
    for field in [r#""category":1"#, r#""user_id":1.5"#, r#""session_id":[]"#, r#""revenue_amount":-1"#] {
        assert!(click(&format!(",{field}")).is_err(), "{field}");
    }
}

#[test]
fn a_campaign_event_has_what_its_type_requires() {
    let event = |json: &str| campaign_event(json.as_bytes(), clock());
    let whole = r#"{"event_type":"CAMPAIGN_CREATE","timestamp_field":1,"campaign_id":"1","advertiser_id":9,"product_id":7,"placement":"top","category":"toys","bid_price":"2.5","status":"ACTIVE"}"#;
    assert_eq!(event(whole).unwrap().active.unwrap().bid_price, Money(250));
    assert_eq!(event(&whole.replace("\"ACTIVE\"", "\"DRAFT\"")).unwrap().active, None);
    let pause = whole.replace("CREATE", "PAUSE");
    assert_eq!(event(&pause).unwrap().active, None);
    for name in ["advertiser_id", "product_id", "placement", "category", "bid_price", "status"] {
        assert!(event(&whole.replace(name, "other")).is_err(), "{name}");
        assert!(event(&pause.replace(name, "other")).is_ok(), "{name}");
    }
    assert!(event(&pause.replace("\"2.5\"", "true")).is_err());
    assert!(event(&pause.replace("campaign_id", "other")).is_err());
    assert!(event(&whole.replace("CREATE", "BUDGET")).is_err());
}

#[test]
fn a_conversion_event_has_all_but_its_ids() {
    let event = |json: &str| conversion_event(json.as_bytes(), clock());
    let whole = r#"{"event_type":"CONVERSION","timestamp_field":1,"order_id":12,"product_id":7,"revenue_amount":6.00}"#;
    assert_eq!(event(whole).unwrap().order_id, "12");
    assert!(event(&whole.replace("CONVERSION", "CLICK")).is_err());
    for name in ["event_type", "timestamp_field", "order_id", "product_id", "revenue_amount"] {
        assert!(event(&whole.replace(name, "other")).is_err(), "{name}");
    }
}

#[test]
fn product_metrics_have_both_rates_or_neither() {
    let rates =
        |json: &str| product_metrics(format!(r#"{{"product_id":7{json}}}"#).as_bytes(), clock()).map(|m| m.rates);
    assert_eq!(rates(r#","ctr":0.1,"cvr":"2e-1""#), Ok(Some((0.1, 0.2))));
    assert_eq!(rates(r#","ctr":null"#), Ok(None));
    for json in [r#","ctr":1"#, r#","ctr":-1,"cvr":1"#, r#","ctr":1e999,"cvr":1"#, r#","ctr":"NaN","cvr":1"#] {
        assert!(rates(json).is_err(), "{json}");
    }
}

#[test]
fn product_meta_without_a_price_is_a_deletion() {
    let price = |json: &str| product_meta(json.as_bytes(), clock()).map(|meta| meta.price);
    assert_eq!(price(r#"{"product_id":7,"product_price":1.5}"#), Ok(Some(Money(150))));
    assert_eq!(price(r#"{"product_id":7}"#), Ok(None));
    assert!(price(r#"{"product_price":1.5}"#).is_err());
}

#[test]
fn a_null_value_deletes_the_product_that_is_its_key() {
    let null = |key| Record { partition: 0, offset: 0, key, value: None, latest: clock() };
    let deleted = |key: &'static [u8]| read(Topic::ProductMeta, &null(Some(key)), product_meta);
    assert_eq!(deleted(b"7").map(|meta| (meta.product_id, meta.price)), Ok((7, None)));
    assert_eq!(deleted(b"-07").map(|meta| meta.product_id), Ok(-7));
    for key in [&b""[..], b"seven", b"7.0", b"99999999999999999999", b"\xff"] {
        assert!(deleted(key).is_err(), "{key:?}");
    }
    assert!(read(Topic::ProductMetrics, &null(Some(b"7")), product_metrics).is_ok_and(|rates| rates.rates.is_none()));
    assert!(read(Topic::ProductMetrics, &null(None), product_metrics).is_err());
    assert!(read(Topic::AdEvents, &null(Some(b"7")), ad_event).is_err());
}
