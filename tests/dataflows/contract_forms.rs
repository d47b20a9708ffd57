//! Every form in which times, amounts and ids come, or may not come.
//!
//! Each row is read by the flat scanner and by the full parser; and the record goes through the dataflow and,
//! with a parser of its own, through the batch recomputation, which must agree on the results and on the
//! reason.

use adtide_dataflows::Settings;
use adtide_dataflows::model::{AdEvent, Topic, UnknownIds};
use adtide_dataflows::record::{BadRecord, Fields, Scanner, ad_event};

use crate::support::{History, small};

/// A CLICK, field by field.
const CLICK: [(&str, &str); 11] = [
    ("event_type", r#""CLICK""#),
    ("timestamp_field", r#""2001-09-09 01:00:00""#),
    ("ad_id", "1"),
    ("campaign_id", "5"),
    ("advertiser_id", "9"),
    ("product_id", "7"),
    ("placement", r#""top""#),
    ("device_id", r#""d""#),
    ("session_id", r#""s""#),
    ("actual_price", "1.50"),
    ("revenue_amount", "6.00"),
];

/// A click with this JSON text as the value of a field.
fn click_with(field: &str, json: &str) -> String {
    let members =
        CLICK.map(|(name, value)| format!(r#""{name}":{}"#, if name == field { json } else { value }));
    format!("{{{}}}", members.join(","))
}

/// What must come of a form: a value, or a reason and a part of its sentence.
type Expected<'a> = Result<&'a str, (&'a str, &'a str)>;

/// Reads clicks whose field has these forms.
fn assert_forms(
    settings: &Settings,
    field: &str,
    show: fn(&AdEvent<&str>) -> String,
    forms: &[(&str, Expected<'_>)],
) {
    let mut history = History::new();
    for (json, expected) in forms {
        let click = click_with(field, json);
        let read = |fields: &Fields<'_>| ad_event(fields, &settings.unknown_ids).map(|event| show(&event));
        let flat = Scanner::default().read(click.as_bytes(), read);
        let full = Scanner::default().read_full(click.as_bytes(), read);
        assert_eq!(flat, full, "{field}: {json}");
        match (&flat, expected) {
            (Ok(value), Ok(expected)) => assert_eq!(value, expected, "{field}: {json}"),
            (Err(bad), Err((reason, sentence))) => {
                assert_eq!(bad.reason(), *reason, "{field}: {json}");
                assert!(bad.to_string().contains(sentence), "{field}: {json} gives: {bad}");
            }
            _ => panic!("{field}: {json} gives {flat:?}"),
        }
        // Twice, so that each has a duplicate if it may have one.
        history = history.bytes(Topic::AdEvents, click.clone()).bytes(Topic::AdEvents, click);
    }
    history.run(settings);
}

#[test]
fn times() {
    const FORM: Expected<'_> = Err(("ill_typed_field", "want yyyy-MM-dd, T or a space, HH:mm:ss"));
    const NO_DATE: Expected<'_> = Err(("ill_typed_field", "there is no such date, time of day or zone"));
    const RANGE: Expected<'_> = Err(("time_out_of_range", "time out of range 1970-01-01 ..= 9999-12-31"));
    let forms = [
        (r#""2001-09-09 01:46:40""#, Ok("2001-09-09 01:46:40.000")),
        (r#""2001-09-09T01:46:40""#, Ok("2001-09-09 01:46:40.000")),
        (r#""2001-09-09t01:46:40.5""#, Ok("2001-09-09 01:46:40.500")),
        (r#""2001-09-09 01:46:40.9999999999999""#, Ok("2001-09-09 01:46:40.999")),
        (r#""2001-09-09T01:46:40Z""#, Ok("2001-09-09 01:46:40.000")),
        (r#""2001-09-09 01:46:40.25z""#, Ok("2001-09-09 01:46:40.250")),
        (r#""2001-09-09T10:46:40+09:00""#, Ok("2001-09-09 01:46:40.000")),
        (r#""2001-09-09T10:46:40.1+0900""#, Ok("2001-09-09 01:46:40.100")),
        (r#""2001-09-09 10:46:40+09""#, Ok("2001-09-09 01:46:40.000")),
        (r#""2001-09-08T22:16:40-03:30""#, Ok("2001-09-09 01:46:40.000")),
        (r#""2001-09-08T07:46:40-18""#, Ok("2001-09-09 01:46:40.000")),
        (r#""2001-09-09\u002001:46:40""#, Ok("2001-09-09 01:46:40.000")),
        (r#""1970-01-01 00:00:00""#, Ok("1970-01-01 00:00:00.000")),
        (r#""9999-12-31 23:59:59.9999""#, Ok("9999-12-31 23:59:59.999")),
        ("1000000000000", Ok("2001-09-09 01:46:40.000")),
        ("946684800000", Ok("2000-01-01 00:00:00.000")),
        (r#""""#, FORM),
        (r#""yesterday""#, FORM),
        (r#""2001-09-09""#, FORM),
        (r#""2001-09-09 01:46""#, FORM),
        (r#""2001-09-09T01:46Z""#, FORM),
        (r#""2001-09-09 01:46:40.""#, FORM),
        (r#""2001-09-09 01:46:40,5""#, FORM),
        (r#""2001-09-09 01:46:40 ""#, FORM),
        (r#"" 2001-09-09 01:46:40""#, FORM),
        (r#""2001-09-09 01:46:40 +09:00""#, FORM),
        (r#""2001-09-09T01:46:40+9""#, FORM),
        (r#""2001-09-09T01:46:40+09:0""#, FORM),
        (r#""2001-09-09T01:46:40+0900Z""#, FORM),
        (r#""2001-09-09T01:46:40Z[UTC]""#, FORM),
        (r#""20010909T014640Z""#, FORM),
        (r#""09/09/2001 01:46:40""#, FORM),
        (r#""1000000000000""#, FORM),
        ("1000000000000.0", FORM),
        ("1e12", FORM),
        ("true", FORM),
        ("{}", FORM),
        (r#""2001-02-30 00:00:00""#, NO_DATE),
        (r#""2001-13-01 00:00:00""#, NO_DATE),
        (r#""2001-09-09 24:00:00""#, NO_DATE),
        (r#""2001-09-09T01:46:60Z""#, NO_DATE),
        (r#""2001-09-09T01:46:40+24:00""#, NO_DATE),
        (r#""2001-09-09T01:46:40+18:01""#, NO_DATE),
        (r#""2001-09-09T01:46:40+0960""#, NO_DATE),
        (r#""1969-12-31 23:59:59.9999999""#, RANGE),
        (r#""1970-01-01T00:00:00+00:01""#, RANGE),
        (r#""9999-12-31T23:59:59-01""#, RANGE),
        ("-1", RANGE),
        ("-99999999999999999999", RANGE),
        (
            "1000000000",
            Err((
                "time_out_of_range",
                "the number 1000000000 would be 1970-01-12 13:46:40.000: is it in seconds?",
            )),
        ),
        ("946684799999", Err(("time_out_of_range", "is it in seconds?"))),
        ("0", Err(("time_out_of_range", "is it in seconds?"))),
        ("1000000000000000", Err(("time_out_of_range", "is it in micro- or nanoseconds?"))),
        ("99999999999999999999", Err(("time_out_of_range", "is it in micro- or nanoseconds?"))),
        ("null", Err(("missing_field", "field timestamp_field is missing"))),
    ];
    assert_forms(&small(), "timestamp_field", |event| event.time.to_string(), &forms);
}

#[test]
fn money() {
    const FINE: Expected<'_> = Err(("bad_money", "more than two decimals"));
    const NO_NUMBER: Expected<'_> = Err(("bad_money", "not a decimal number; want one such as 12.50"));
    const LARGE: Expected<'_> = Err(("bad_money", "too large"));
    const NEGATIVE: Expected<'_> = Err(("negative_money", "negative"));
    let forms = [
        ("12", Ok("12.00")),
        ("12.5", Ok("12.50")),
        ("12.500", Ok("12.50")),
        (r#""12.500""#, Ok("12.50")),
        (r#""12.5""#, Ok("12.50")),
        (r#""0012.5""#, Ok("12.50")),
        ("12.50000000000000000000000000000", Ok("12.50")),
        ("0.29", Ok("0.29")),
        ("1e2", Ok("100.00")),
        (r#""1E+2""#, Ok("100.00")),
        ("1250e-2", Ok("12.50")),
        ("1250000e-5", Ok("12.50")),
        ("0.0000000001e10", Ok("1.00")),
        ("0E-8", Ok("0.00")),
        ("0e99999999999999999999", Ok("0.00")),
        ("0.000", Ok("0.00")),
        ("-0", Ok("0.00")),
        (r#""-0.00""#, Ok("0.00")),
        ("-0E-8", Ok("0.00")),
        ("99999999.99", Ok("99999999.99")),
        ("99999999.9900", Ok("99999999.99")),
        ("0.001", FINE),
        ("12.505", FINE),
        ("1e-3", FINE),
        ("1e-99999999999999999999", FINE),
        ("12.50000000000000000000000000001", FINE),
        ("100000000", LARGE),
        ("99999999.991e3", LARGE),
        ("1e30", LARGE),
        ("1e99999999999999999999", LARGE),
        ("123456789012345678901234567890", LARGE),
        ("-0.01", NEGATIVE),
        ("-1", NEGATIVE),
        (r#""-0.001""#, NEGATIVE),
        ("-1e99", NEGATIVE),
        (r#""""#, NO_NUMBER),
        (r#""ten""#, NO_NUMBER),
        (r#""1,50""#, NO_NUMBER),
        (r#""1.""#, NO_NUMBER),
        (r#"".5""#, NO_NUMBER),
        (r#""+1""#, NO_NUMBER),
        (r#"" 1""#, NO_NUMBER),
        (r#""1e""#, NO_NUMBER),
        (r#""-""#, NO_NUMBER),
        (r#""null""#, NO_NUMBER),
        (r#""12.50 EUR""#, NO_NUMBER),
        (r#""NaN""#, NO_NUMBER),
        ("true", Err(("ill_typed_field", "field actual_price has the wrong type; want an amount of money"))),
        ("[12.5]", Err(("ill_typed_field", "field actual_price"))),
        ("null", Err(("missing_field", "field actual_price is missing"))),
    ];
    assert_forms(&small(), "actual_price", |event| event.actual_price.to_string(), &forms);
}

/// The forms of an id that is none.
const NONE: [&str; 12] = [
    "null",
    r#""""#,
    r#""null""#,
    r#""NULL""#,
    r#""Undefined""#,
    r#""unknown""#,
    r#""UnKnown""#,
    r#""None""#,
    r#""N/A""#,
    r#""n/a""#,
    r#""00000000-0000-0000-0000-000000000000""#,
    r#""n\u0075ll""#,
];

#[test]
fn ids_that_are_bigints() {
    let wrong = Err(("ill_typed_field", "want a BIGINT"));
    let mut forms = vec![
        ("101", Ok("Some(101)")),
        (r#""101""#, Ok("Some(101)")),
        ("101.0", Ok("Some(101)")),
        ("101.000", Ok("Some(101)")),
        ("-101.0", Ok("Some(-101)")),
        (r#""-101""#, Ok("Some(-101)")),
        (r#""007""#, Ok("Some(7)")),
        ("0", Ok("Some(0)")),
        (r#""0""#, Ok("Some(0)")),
        ("-0", Ok("Some(0)")),
        ("9223372036854775807", Ok("Some(9223372036854775807)")),
        ("9223372036854775807.0", Ok("Some(9223372036854775807)")),
        ("9223372036854775808", wrong),
        ("101.5", wrong),
        ("101.50", wrong),
        ("1e2", wrong),
        (r#""101.0""#, wrong),
        (r#""+101""#, wrong),
        (r#"" 101""#, wrong),
        (r#""-""#, wrong),
        (r#""seven""#, wrong),
        (r#""00000000-0000-0000-0000-000000000001""#, wrong),
        ("true", wrong),
        ("[101]", wrong),
    ];
    forms.extend(NONE.map(|none| (none, Ok("None"))));
    assert_forms(&small(), "campaign_id", |event| format!("{:?}", event.campaign_id), &forms);
    for field in ["product_id", "advertiser_id"] {
        let missing = Err(("missing_field", "is missing"));
        assert_forms(&small(), field, |_| String::new(), &NONE.map(|none| (none, missing)));
    }
}

#[test]
fn ids_that_are_texts() {
    let wrong = Err(("ill_typed_field", "field device_id has the wrong type; want a string or an integer"));
    let mut forms = vec![
        (r#""d-1""#, Ok("Some(\"d-1\")")),
        (r#""a\"b""#, Ok("Some(\"a\\\"b\")")),
        ("101", Ok("Some(\"101\")")),
        ("99999999999999999999", Ok("Some(\"99999999999999999999\")")),
        // Not in the list: there may be a device 0.
        ("0", Ok("Some(\"0\")")),
        (r#"" ""#, Ok("Some(\" \")")),
        (r#""nulls""#, Ok("Some(\"nulls\")")),
        (r#""00000000-0000-0000-0000-000000000001""#, Ok("Some(\"00000000-0000-0000-0000-000000000001\")")),
        ("101.0", wrong),
        ("1e2", wrong),
        ("false", wrong),
        (r#""\ud800""#, wrong),
    ];
    forms.extend(NONE.map(|none| (none, Ok("None"))));
    assert_forms(&small(), "device_id", |event| format!("{:?}", event.device_id), &forms);
    let session: Vec<_> =
        NONE.map(|none| (none, Ok("None"))).into_iter().chain([("7", Ok("Some(\"7\")"))]).collect();
    assert_forms(&small(), "session_id", |event| format!("{:?}", event.session_id), &session);
}

#[test]
fn ids_of_ads() {
    let wrong = Err(("ill_typed_field", "field ad_id has the wrong type; want a string or a BIGINT"));
    let mut forms = vec![
        ("17", Ok("Some(Number(17))")),
        ("17.0", Ok("Some(Number(17))")),
        (r#""17""#, Ok("Some(Number(17))")),
        (r#""017""#, Ok("Some(Text(\"017\"))")),
        (r#""17.0""#, Ok("Some(Text(\"17.0\"))")),
        (r#""ad-17""#, Ok("Some(Text(\"ad-17\"))")),
        ("17.5", wrong),
        ("9223372036854775808", wrong),
        ("{}", wrong),
    ];
    forms.extend(NONE.map(|none| (none, Ok("None"))));
    assert_forms(&small(), "ad_id", |event| format!("{:?}", event.ad_id), &forms);
}

#[test]
fn ids_that_are_unknown_by_a_list_of_ones_own() {
    let list = ["0", "test-device", "НЕТ"].map(str::to_owned).to_vec();
    let settings = Settings { unknown_ids: UnknownIds::from(list), ..small() };
    let none = ["0", r#""0""#, r#""TEST-Device""#, r#""нет""#, r#""""#].map(|json| (json, Ok("None")));
    assert_forms(&settings, "device_id", |event| format!("{:?}", event.device_id), &none);
    assert_forms(
        &settings,
        "device_id",
        |event| format!("{:?}", event.device_id),
        &[(r#""null""#, Ok("Some(\"null\")")), (r#""00""#, Ok("Some(\"00\")"))],
    );
    let none = ["0", "0.0", r#""0""#, r#""00""#, r#""Test-device""#, "null"].map(|json| (json, Ok("None")));
    assert_forms(&settings, "campaign_id", |event| format!("{:?}", event.campaign_id), &none);
    let ads = [("0", Ok("None")), (r#""0""#, Ok("None")), (r#""00""#, Ok("Some(Text(\"00\"))"))];
    assert_forms(&settings, "ad_id", |event| format!("{:?}", event.ad_id), &ads);
}

#[test]
fn a_field_that_the_event_does_not_use_has_any_value() {
    let odd = [
        "-1",
        "0.001",
        "1e99",
        "true",
        "[]",
        "{}",
        r#""odd""#,
        "17.5",
        r#""\ud800""#,
        "99999999999999999999",
    ];
    let impression =
        ["ad_id", "device_id", "session_id", "user_id", "category", "actual_price", "revenue_amount"];
    let conversion = ["ad_id", "device_id", "session_id", "user_id", "category", "actual_price"];
    let click = ["user_id", "category", "revenue_amount"];
    let owned = |fields: &[&'static str]| fields.to_vec();
    for (event_type, fields) in
        [("IMPRESSION", owned(&impression)), ("CONVERSION", owned(&conversion)), ("CLICK", owned(&click))]
    {
        let mut history = History::new();
        let mut count = 0;
        for (field, json) in fields.iter().flat_map(|field| odd.map(|json| (field, json))) {
            let record = click_with(field, json).replace("CLICK", event_type);
            let record = if record.contains(&format!("\"{field}\":")) {
                record
            } else {
                record.replacen('{', &format!("{{\"{field}\":{json},"), 1)
            };
            history = history.bytes(Topic::AdEvents, record);
            count += 1;
        }
        let run = history.run(&small());
        assert_eq!((run.dead.len(), run.counts.good[Topic::AdEvents as usize]), (0, count), "{event_type}");
    }
    let sale = r#"{"event_type":"CONVERSION","timestamp_field":"2001-09-09 01:00:00","user_id":[1.5],"order_id":"o","product_id":7,"revenue_amount":1}"#;
    assert!(History::new().bytes(Topic::ConversionEvents, sale).run(&small()).dead.is_empty());
    let pause = r#"{"event_type":"CAMPAIGN_PAUSE","timestamp_field":"2001-09-09 01:00:00","campaign_id":5,"advertiser_id":"x","product_id":7.5,"placement":1,"category":[],"bid_price":-1,"status":true}"#;
    for event_type in ["CAMPAIGN_PAUSE", "CAMPAIGN_DELETE"] {
        let record = pause.replace("CAMPAIGN_PAUSE", event_type);
        assert!(History::new().bytes(Topic::CampaignEvents, record).run(&small()).dead.is_empty());
    }
    let update = pause.replace("CAMPAIGN_PAUSE", "CAMPAIGN_UPDATE");
    assert_eq!(History::new().bytes(Topic::CampaignEvents, update).run(&small()).dead.len(), 1);
}

#[test]
fn a_field_that_the_event_uses_spoils_it() {
    for event_type in ["IMPRESSION", "CLICK", "CONVERSION"] {
        for field in ["timestamp_field", "product_id", "placement", "campaign_id", "advertiser_id"] {
            let record = click_with(field, "1.5").replace("CLICK", event_type);
            let run = History::new().bytes(Topic::AdEvents, record).run(&small());
            assert_eq!(run.dead.len(), 1, "{event_type}: {field}");
        }
    }
}

#[test]
fn an_unknown_order_is_a_missing_field() {
    for none in NONE {
        let record = format!(
            r#"{{"event_type":"CONVERSION","timestamp_field":"2001-09-09 01:00:00","order_id":{none},"product_id":7,"revenue_amount":1}}"#
        );
        let run = History::new().bytes(Topic::ConversionEvents, record).run(&small());
        assert_eq!(run.dead[0].0.detail, "field order_id is missing", "{none}");
    }
}

/// What comes of a record that is no CLICK, twice: the reason and the sentence.
fn refused(record: &[u8]) -> (String, String) {
    let read = |fields: &Fields<'_>| ad_event(fields, &UnknownIds::default()).map(|_| ());
    let flat: Result<(), BadRecord> = Scanner::default().read(record, read);
    assert_eq!(flat, Scanner::default().read_full(record, read));
    let run = History::new().bytes(Topic::AdEvents, record).run(&small());
    assert_eq!(run.dead.len(), 1, "{}", String::from_utf8_lossy(record));
    (run.dead[0].0.reason.clone(), run.dead[0].0.detail.clone())
}

#[test]
fn a_byte_order_mark_is_skipped() {
    let click = click_with("", "");
    for record in [
        format!("\u{feff}{click}"),
        format!("\u{feff} {click}"),
        format!("\u{feff}{}", click.replace("top", "t\\u006fp")),
    ] {
        let run =
            History::new().bytes(Topic::AdEvents, record).bytes(Topic::AdEvents, click.clone()).run(&small());
        assert_eq!((run.dead.len(), run.compensations.last().len()), (0, 1));
    }
    assert_eq!(refused(format!("\u{feff}\u{feff}{click}").as_bytes()).0, "not_json");
    assert_eq!(refused("\u{feff}".as_bytes()).0, "not_json");
    assert_eq!(refused(b"\xef\xbb\xbf{\"a\":\"\xff\"}"), ("not_utf8".into(), "not UTF-8 at byte 9".into()));
}

#[test]
fn what_looks_like_an_envelope_or_another_format_says_so() {
    let click = click_with("", "");
    for (record, name) in [
        (format!(r#"{{"schema":{{"type":"struct"}},"payload":{click}}}"#), "payload"),
        (format!(r#"{{"before":null,"after":{click},"op":"c","ts_ms":1}}"#), "after"),
        (format!(r#"{{"payload":1,"payload":{click}}}"#), "payload"),
        (format!(r#"{{"payload":"{{}}","after":{click}}}"#), "after"),
    ] {
        let sentence = format!(
            "field event_type is missing: the record looks like an envelope whose fields are in {name:?}; want them unwrapped"
        );
        assert_eq!(refused(record.as_bytes()), ("looks_like_envelope".into(), sentence));
    }
    for record in [
        r#"{"payload":"text"}"#,
        r#"{"after":null}"#,
        r#"{"payload":{},"payload":[]}"#,
        r#"{"a":{"payload":{}}}"#,
    ] {
        assert_eq!(refused(record.as_bytes()).0, "missing_field", "{record}");
    }
    // A record that has its fields may have such an object too.
    let with_payload = click.replacen('{', r#"{"payload":{"a":1},"#, 1);
    assert!(History::new().bytes(Topic::AdEvents, with_payload.clone()).run(&small()).dead.is_empty());
    let without_price = with_payload.replace("actual_price", "price");
    assert_eq!(
        refused(without_price.as_bytes()),
        ("missing_field".into(), "field actual_price is missing".into())
    );
    let product = History::new().bytes(Topic::ProductMeta, r#"{"after":{"product_id":7}}"#).run(&small());
    assert_eq!(product.dead[0].0.reason, "looks_like_envelope");

    let avro = [&[0, 0, 0, 0, 42][..], b"\x02CLICK\xff"].concat();
    let (reason, sentence) = refused(&avro);
    assert_eq!(reason, "looks_like_schema_registry");
    assert!(sentence.contains("the schema id 42"), "{sentence}");
    let json_schema = [&[0, 0, 0, 1, 0][..], click.as_bytes()].concat();
    assert!(refused(&json_schema).1.contains("the schema id 256"));
    assert_eq!(refused(b"\0\0\0\0").0, "not_json");
}

#[test]
fn what_an_unknown_id_identifies_matches_nothing() {
    let settings = small();
    for none in NONE {
        // Two people's clicks, and a third one's conversion.
        let click =
            click_with("device_id", none).replace(r#""session_id":"s""#, &format!(r#""session_id":{none}"#));
        let sale = format!(
            r#"{{"event_type":"CONVERSION","timestamp_field":"2001-09-09 01:01:00","device_id":{none},"session_id":{none},"order_id":"o","product_id":7,"revenue_amount":1}}"#
        );
        let history = History::new().bytes(Topic::AdEvents, click.clone()).bytes(Topic::AdEvents, click);
        let run = history.bytes(Topic::ConversionEvents, sale).run(&settings);
        assert!(
            run.dead.is_empty() && run.compensations.last().is_empty() && run.attributions.last().is_empty()
        );
        assert_eq!(run.performance.last()[0].sums.clicks, 2, "they are clicks all the same");
        let on_ad = click_with("ad_id", none);
        let run =
            History::new().bytes(Topic::AdEvents, on_ad.clone()).bytes(Topic::AdEvents, on_ad).run(&settings);
        assert!(run.dead.is_empty() && run.compensations.last().is_empty());
    }
}
