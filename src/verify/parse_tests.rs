//! What is a record and what is not.

use std::path::Path;

use adtide_dataflows::Settings;
use adtide_dataflows::Stamp;
use adtide_dataflows::model::{AdEvent, AdId, EventTime, Money, Topic, UnknownIds};

use super::bad::Bad;
use super::fields::Rules;
use super::input::{Input, Offsets, TopicFiles, TopicRecord};
use super::parse::{ad_event, campaign_event, conversion_event, product_meta, product_metrics, read};

const CLICK: &str = r#"{"event_type":"CLICK","timestamp_field":"1970-01-01 00:00:01","product_id":7,"placement":"top","advertiser_id":9,"actual_price":1.50"#;

fn clock() -> EventTime {
    EventTime(1_000_000_000_000).plus(Settings::default().max_future_skew)
}

/// The texts that stand for unknown ids.
fn unknown() -> Vec<String> {
    UnknownIds::default().into()
}

/// Those of no unknown ids.
const RULES: Rules<'static> = Rules { latest: EventTime::LAST, unknown: &[] };

/// Reads a value by the default rules.
fn by_default<E>(parse: impl Fn(&[u8], &Rules<'_>) -> Result<E, Bad>, json: &str) -> Result<E, Bad> {
    parse(json.as_bytes(), &Rules { latest: clock(), unknown: &unknown() })
}

/// The reason why a value is refused.
#[track_caller]
fn reason<E>(read: Result<E, Bad>) -> &'static str {
    read.map(|_| ()).expect_err("it is refused").reason
}

/// A click with these fields too; of a repeated field the last one stands.
fn click(more: &str) -> Result<AdEvent, Bad> {
    by_default(ad_event, &format!("{CLICK}{more}}}"))
}

/// The lines of ad-events before the offsets.
fn lines(dir: &Path, until: &[(u32, u64)]) -> anyhow::Result<Vec<(u32, u64, String)>> {
    let mut lines = Vec::new();
    let mut input = TopicFiles::new(dir)?;
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
    for (name, text) in [("10.ndjson", "x\n"), ("2.ndjson", "y\n"), ("notes.ndjson", "n\n"), ("3.txt", "n\n")]
    {
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
    let lines =
        [good.as_bytes(), b"[]\n", b"{\n", b"{} {}\n", b"\xff\n", b" \n", long.as_bytes(), good.as_bytes()];
    std::fs::write(dir.path().join("ad-events.ndjson"), lines.concat()).unwrap();
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    let mut input = TopicFiles::new(dir.path()).unwrap();
    let all = Offsets::from([(0, 8)]);
    let read = input.each_record(Topic::AdEvents, &all, &mut |record| {
        let offsets =
            if read(Topic::AdEvents, &record, &RULES, ad_event).is_ok() { &mut good } else { &mut bad };
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
    for (json, id) in [
        ("3", 3),
        ("-3", -3),
        (r#""3""#, 3),
        (r#""-03""#, -3),
        ("3.0", 3),
        ("-30.00", -30),
        ("9223372036854775807", i64::MAX),
    ] {
        assert_eq!(click(&format!(r#","campaign_id":{json}"#)).unwrap().campaign_id, Some(id), "{json}");
    }
    for json in
        ["3.5", "3e0", r#""+3""#, r#"" 3""#, r#""3.0""#, r#""-""#, "9223372036854775808", "true", "[]", "{}"]
    {
        assert_eq!(reason(click(&format!(r#","campaign_id":{json}"#))), "ill_typed_field", "{json}");
    }
}

#[test]
fn textual_ids_are_strings_or_integers_as_they_stand() {
    let device = |json: &str| click(&format!(r#","device_id":{json}"#)).map(|event| event.device_id);
    assert_eq!(device(r#""a\"b""#), Ok(Some("a\"b".into())));
    assert_eq!(device("99999999999999999999"), Ok(Some("99999999999999999999".into())));
    assert_eq!(device("0"), Ok(Some("0".into())));
    for json in ["1.0", "1e3", "true", "{}"] {
        assert_eq!(reason(device(json)), "ill_typed_field", "{json}");
    }
    let ad = |json: &str| click(&format!(r#","ad_id":{json}"#)).map(|event| event.ad_id);
    assert_eq!(ad("17"), ad(r#""17""#));
    assert_eq!(ad("17.0"), Ok(Some(AdId::Number(17))));
    assert_eq!(ad(r#""017""#), Ok(Some(AdId::Text("017".into()))));
    assert!(ad("9223372036854775808").is_err());
}

#[test]
fn ids_that_are_unknown_are_none() {
    for json in [
        "null",
        r#""""#,
        r#""NULL""#,
        r#""n/a""#,
        r#""Undefined""#,
        r#""00000000-0000-0000-0000-000000000000""#,
    ] {
        let event =
            click(&format!(r#","device_id":{json},"session_id":{json},"ad_id":{json},"campaign_id":{json}"#));
        let event = event.unwrap();
        assert_eq!(
            (event.device_id, event.session_id, event.ad_id, event.campaign_id),
            (None, None, None, None),
            "{json}"
        );
        assert_eq!(reason(click(&format!(r#","advertiser_id":{json}"#))), "missing_field", "{json}");
        assert_eq!(reason(click(&format!(r#","product_id":{json}"#))), "missing_field", "{json}");
    }
    let unknown = ["0".to_owned(), "нет".to_owned()];
    let read = |more: &str| {
        ad_event(format!("{CLICK}{more}}}").as_bytes(), &Rules { latest: clock(), unknown: &unknown })
    };
    let event = read(r#","device_id":"НЕТ","session_id":0,"ad_id":0,"campaign_id":0.0"#).unwrap();
    assert_eq!((event.device_id, event.session_id, event.ad_id, event.campaign_id), (None, None, None, None));
    let event = read(r#","device_id":"null","session_id":"00","ad_id":"00","campaign_id":1"#).unwrap();
    assert_eq!((event.device_id.unwrap(), event.session_id.unwrap()), ("null".to_owned(), "00".to_owned()));
    assert_eq!(event.ad_id, Some(AdId::Text("00".into())));
}

#[test]
fn times_are_texts_or_epoch_milliseconds_not_too_far_ahead() {
    let time = |json: &str| click(&format!(r#","timestamp_field":{json}"#)).map(|event| event.time.0);
    for (json, ms) in [
        (r#""1970-01-01 00:00:01.5""#, 1500),
        (r#""1970-01-01T00:00:01.5""#, 1500),
        (r#""1970-01-01t00:00:01.5009999999999z""#, 1500),
        (r#""1970-01-01T09:00:01.5+09:00""#, 1500),
        (r#""1970-01-01 09:30:01.5+0930""#, 1500),
        (r#""1970-01-01T18:00:01.5+18""#, 1500),
        (r#""1969-12-31T23:00:00-01""#, 0),
        ("946684800000", 946_684_800_000),
        ("1000000300000", 1_000_000_300_000),
    ] {
        assert_eq!(time(json), Ok(ms), "{json}");
    }
    for json in [
        "1.5e3",
        "1000000000000.0",
        r#""1500""#,
        "true",
        r#""1970-01-01""#,
        r#""1970-01-01 00:00""#,
        r#""1970-01-01 00:00:60""#,
        r#""1970-02-30 00:00:00""#,
        r#""1970-01-01 00:00:00.""#,
        r#""1970-01-01T00:00:00+1""#,
        r#""1970-01-01T00:00:00+18:01""#,
        r#""1970-01-01T00:00:00+01:60""#,
        r#""1970-01-01T00:00:00Z[UTC]""#,
        r#""1970-01-01T00:00:00é""#,
    ] {
        assert_eq!(reason(time(json)), "ill_typed_field", "{json}");
    }
    for json in [
        "-1",
        "0",
        "1767600000",
        "946684799999",
        "253402300800000",
        "99999999999999999999999999999999999999999999",
    ] {
        assert_eq!(reason(time(json)), "time_out_of_range", "{json}");
    }
    assert_eq!(reason(time(r#""1969-12-31T23:59:59.9999Z""#)), "time_out_of_range");
    assert_eq!(reason(time("1000000300001")), "time_in_future");
    assert_eq!(reason(time("null")), "missing_field");
}

#[test]
fn money_is_read_to_minor_units_and_bounded() {
    let price = |json: &str| click(&format!(r#","actual_price":{json}"#)).map(|event| event.actual_price);
    for (json, minor) in [
        ("0.29", 29),
        (r#""0.29""#, 29),
        ("0.2900", 29),
        ("2.9e-1", 29),
        ("290000E-6", 29),
        ("1e2", 10_000),
        ("0E-8", 0),
        ("-0.0", 0),
        ("0e9999999999999999999999", 0),
        ("99999999.99", Money::MAX_PRICE.0),
    ] {
        assert_eq!(price(json), Ok(Money(minor)), "{json}");
    }
    for json in [
        "0.291",
        "1e-3",
        "1e-99999999999999999999",
        "100000000",
        "1e99999999999999999999",
        r#"" 1""#,
        r#"".5""#,
    ] {
        assert_eq!(reason(price(json)), "bad_money", "{json}");
    }
    for json in ["-1", "-0.001", "-1e99"] {
        assert_eq!(reason(price(json)), "negative_money", "{json}");
    }
    assert_eq!(reason(price("[]")), "ill_typed_field");
    let revenue = |amount: &str| {
        let sold = format!("{CLICK},\"revenue_amount\":{amount}}}").replace("CLICK", "CONVERSION");
        by_default(ad_event, &sold)
    };
    assert!(revenue("9999999999999.99").is_ok());
    assert_eq!(reason(revenue("10000000000000")), "bad_money");
}

#[test]
fn a_byte_order_mark_is_skipped_and_other_formats_are_named() {
    let record = format!("{CLICK}}}");
    assert!(by_default(ad_event, &format!("\u{feff}{record}")).is_ok());
    assert_eq!(reason(by_default(ad_event, &format!("\u{feff}\u{feff}{record}"))), "not_json");
    assert_eq!(reason(by_default(ad_event, &format!("\0\0\0\0\u{7}{record}"))), "looks_like_schema_registry");
    assert_eq!(reason(by_default(ad_event, "\0\0\0\0")), "not_json");
    for name in ["payload", "after"] {
        assert_eq!(reason(by_default(ad_event, &format!("{{\"{name}\":{record}}}"))), "looks_like_envelope");
        assert_eq!(reason(by_default(ad_event, &format!("{{\"{name}\":null}}"))), "missing_field");
        assert!(click(&format!(",\"{name}\":{{}}")).is_ok());
    }
}

#[test]
fn an_ad_event_has_what_its_type_requires() {
    let event = |json: &str| by_default(ad_event, json);
    let shown = r#"{"event_type":"IMPRESSION","timestamp_field":"1970-01-01 00:00:01","product_id":7,"placement":"top"}"#;
    assert_eq!(event(shown).unwrap().actual_price, Money::ZERO);
    for (types, other) in [("IMPRESSION", "CLICK"), ("IMPRESSION", "CONVERSION"), ("IMPRESSION", "click")] {
        assert!(event(&shown.replace(types, other)).is_err(), "{other}");
    }
    for name in ["event_type", "timestamp_field", "product_id", "placement"] {
        assert!(event(&shown.replace(name, "other")).is_err(), "{name}");
    }
    assert!(
        event(&shown.replace("IMPRESSION", "CONVERSION").replace('}', r#","revenue_amount":"6"}"#)).is_ok()
    );
    assert!(click(r#","advertiser_id":null"#).is_err());
}

#[test]
fn an_ill_typed_field_makes_the_record_bad_only_if_its_event_uses_it() {
    let unused = r#""category":1,"user_id":1.5,"revenue_amount":-1"#;
    assert!(click(&format!(",{unused}")).is_ok());
    assert!(click(r#","session_id":[]"#).is_err());
    let shown = format!(
        "{CLICK},{unused},\"ad_id\":{{}},\"device_id\":1.5,\"session_id\":[],\"actual_price\":\"x\"}}"
    );
    let shown = by_default(ad_event, &shown.replace("CLICK", "IMPRESSION")).unwrap();
    assert_eq!((shown.device_id, shown.ad_id, shown.actual_price), (None, None, Money::ZERO));
    assert!(click(r#","campaign_id":1.5"#).is_err());
}

#[test]
fn a_campaign_event_has_what_its_type_requires() {
    let event = |json: &str| by_default(campaign_event, json);
    let whole = r#"{"event_type":"CAMPAIGN_CREATE","timestamp_field":"1970-01-01 00:00:01","campaign_id":"1","advertiser_id":9,"product_id":7,"placement":"top","category":"toys","bid_price":"2.5","status":"ACTIVE"}"#;
    assert_eq!(event(whole).unwrap().active.unwrap().bid_price, Money(250));
    assert_eq!(event(&whole.replace("\"ACTIVE\"", "\"DRAFT\"")).unwrap().active, None);
    let pause = whole.replace("CREATE", "PAUSE");
    assert_eq!(event(&pause).unwrap().active, None);
    for name in ["advertiser_id", "product_id", "placement", "category", "bid_price", "status"] {
        assert!(event(&whole.replace(name, "other")).is_err(), "{name}");
        assert!(event(&pause.replace(name, "other")).is_ok(), "{name}");
    }
    assert!(event(&pause.replace("\"2.5\"", "true")).is_ok());
    assert!(event(&whole.replace("\"2.5\"", "true")).is_err());
    assert!(event(&pause.replace("campaign_id", "other")).is_err());
    assert!(event(&whole.replace("CREATE", "BUDGET")).is_err());
}

#[test]
fn a_conversion_event_has_all_but_its_ids() {
    let event = |json: &str| by_default(conversion_event, json);
    let whole = r#"{"event_type":"CONVERSION","timestamp_field":"1970-01-01 00:00:01","order_id":12,"product_id":7,"revenue_amount":6.00}"#;
    assert_eq!(event(whole).unwrap().order_id, "12");
    assert!(event(&whole.replace("CONVERSION", "CLICK")).is_err());
    for name in ["event_type", "timestamp_field", "order_id", "product_id", "revenue_amount"] {
        assert!(event(&whole.replace(name, "other")).is_err(), "{name}");
    }
}

#[test]
fn product_metrics_have_both_rates_or_neither() {
    let rates =
        |json: &str| by_default(product_metrics, &format!(r#"{{"product_id":7{json}}}"#)).map(|m| m.rates);
    assert_eq!(rates(r#","ctr":0.1,"cvr":"2e-1""#), Ok(Some((0.1, 0.2))));
    assert_eq!(rates(r#","ctr":null"#), Ok(None));
    for json in [r#","ctr":1"#, r#","ctr":-1,"cvr":1"#, r#","ctr":1e999,"cvr":1"#, r#","ctr":"NaN","cvr":1"#]
    {
        assert!(rates(json).is_err(), "{json}");
    }
}

#[test]
fn product_meta_without_a_price_is_a_deletion() {
    let price = |json: &str| by_default(product_meta, json).map(|meta| meta.price);
    assert_eq!(price(r#"{"product_id":7,"product_price":1.5}"#), Ok(Some(Money(150))));
    assert_eq!(price(r#"{"product_id":7}"#), Ok(None));
    assert!(price(r#"{"product_price":1.5}"#).is_err());
}

#[test]
fn a_null_value_deletes_the_product_that_is_its_key() {
    let null = |key| TopicRecord { partition: 0, offset: 0, key, value: None, stamp: Stamp::None };
    let deleted = |key: &'static [u8]| read(Topic::ProductMeta, &null(Some(key)), &RULES, product_meta);
    assert_eq!(deleted(b"7").map(|meta| (meta.product_id, meta.price)), Ok((7, None)));
    assert_eq!(deleted(b"-07").map(|meta| meta.product_id), Ok(-7));
    for key in [&b""[..], b"seven", b"7.0", b"99999999999999999999", b"\xff"] {
        assert!(deleted(key).is_err(), "{key:?}");
    }
    assert!(
        read(Topic::ProductMetrics, &null(Some(b"7")), &RULES, product_metrics)
            .is_ok_and(|rates| rates.rates.is_none())
    );
    assert!(read(Topic::ProductMetrics, &null(None), &RULES, product_metrics).is_err());
    assert!(read(Topic::AdEvents, &null(Some(b"7")), &RULES, ad_event).is_err());
}
