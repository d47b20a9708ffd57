//! Bad input. Each test is named after the sentence of the contract that it checks.

use adtide_dataflows::model::{Money, Topic};
use adtide_dataflows::record::MAX_RECORD_BYTES;
use adtide_dataflows::{DeadLetter, Settings};

use crate::support::{History, Line, campaign, click, impression, metrics, price, sale, small, sold};

/// The dead letter that a record gives.
fn dead_letter(topic: Topic, bytes: impl Into<Vec<u8>>) -> DeadLetter {
    let mut run = History::new().bytes(topic, bytes).run(&small());
    assert_eq!(run.dead.len(), 1, "the record is bad");
    run.dead.remove(0).0
}

/// Reason and detail of a bad record.
fn why(line: &Line) -> (String, String) {
    let dead = dead_letter(line.topic, line.json());
    (dead.reason, dead.detail)
}

#[track_caller]
fn assert_bad(line: &Line, reason: &str, detail: &str) {
    assert_eq!(why(line), (reason.to_owned(), detail.to_owned()), "{}", line.json());
}

#[test]
fn it_goes_to_dead_letter_with_its_bytes_topic_partition_offset_and_reason_and_stops_nothing() {
    let bad = click(0).to(1).with("actual_price", "-1");
    let run = History::new().epoch([click(0).to(1), bad.clone(), click(1).to(1)]).run(&small());
    let dead = DeadLetter {
        topic: Topic::AdEvents,
        partition: 1,
        offset: 1,
        reason: "negative_money".into(),
        detail: "field actual_price: negative".into(),
        key: None,
        timestamp: None,
        value: bad.json().into_bytes(),
    };
    assert_eq!(run.dead, [(dead, 0)]);
    assert_eq!(run.performance.at(0)[0].sums.clicks, 2);
    assert_eq!(run.counts.bad.iter().collect::<Vec<_>>(), [(&"negative_money".to_owned(), &1)]);
    assert_eq!(run.counts.good[Topic::AdEvents as usize], 2);
}

#[test]
fn what_is_not_json_or_no_object() {
    for bytes in
        ["{", "WARN", "[]", "1", "null", "\"a\"", "{} {}", r#"{"a":01}"#, r#"{"a":1,}"#, r#"{"a":"\x"}"#, " "]
    {
        assert_eq!(dead_letter(Topic::AdEvents, bytes).reason, "not_json", "{bytes}");
    }
    let nested =
        click(0).json().replacen('{', &format!("{{\"deep\":{}{},", "[".repeat(127), "]".repeat(127)), 1);
    let dead = dead_letter(Topic::AdEvents, nested);
    assert_eq!(
        (dead.reason.as_str(), dead.detail.as_str()),
        ("not_json", "not a JSON object: nested deeper than 127 levels")
    );
}

#[test]
fn what_is_not_utf_8() {
    let mut bytes = click(0).json().into_bytes();
    bytes[20] = 0xff;
    let dead = dead_letter(Topic::AdEvents, bytes.clone());
    assert_eq!((dead.reason.as_str(), dead.detail.as_str()), ("not_utf8", "not UTF-8 at byte 20"));
    assert_eq!(dead.value, bytes);
}

#[test]
fn what_is_too_large() {
    let filled = |length: usize| {
        let start = click(0).with("note", "").json();
        start.replacen("\"note\":\"", &format!("\"note\":\"{}", "x".repeat(length - start.len())), 1)
    };
    let greatest = History::new().bytes(Topic::AdEvents, filled(MAX_RECORD_BYTES)).run(&small());
    assert!(greatest.dead.is_empty());
    let dead = dead_letter(Topic::AdEvents, filled(MAX_RECORD_BYTES + 1));
    assert_eq!(dead.reason, "too_large");
    assert_eq!(dead.detail, "the record has 1048577 bytes; at most 1048576 are read");
}

#[test]
fn a_missing_field() {
    let required: [(Line, &[&str]); 8] = [
        (impression(0), &["event_type", "timestamp_field", "product_id", "placement"]),
        (click(0), &["advertiser_id", "actual_price"]),
        (sold(0), &["revenue_amount"]),
        (campaign(1, 0), &["event_type", "timestamp_field", "campaign_id", "advertiser_id", "product_id"]),
        (campaign(1, 0), &["placement", "category", "bid_price", "status"]),
        (sale("a", 0), &["event_type", "timestamp_field", "order_id", "product_id", "revenue_amount"]),
        (metrics(7, 0.5, 0.5), &["product_id", "ctr", "cvr"]),
        (price(7, "1"), &["product_id"]),
    ];
    for (line, fields) in required {
        for field in fields {
            let sentence = format!("field {field} is missing");
            assert_bad(&line.clone().without(field), "missing_field", &sentence);
            assert_bad(&line.clone().with(field, ()), "missing_field", &sentence);
        }
    }
}

#[test]
fn an_ill_typed_field() {
    let bigint = |field| format!("field {field} has the wrong type; want a BIGINT");
    for field in ["campaign_id", "advertiser_id", "product_id"] {
        for value in ["7.0", "+7", " 7", "seven", "9223372036854775808"] {
            assert_bad(&click(0).with(field, value), "ill_typed_field", &bigint(field));
        }
        assert_bad(&click(0).with(field, 7.5), "ill_typed_field", &bigint(field));
        assert_bad(&click(0).with(field, true), "ill_typed_field", &bigint(field));
        assert_bad(&click(0).with(field, vec![7]), "ill_typed_field", &bigint(field));
    }
    for field in ["device_id", "session_id"] {
        let sentence = format!("field {field} has the wrong type; want a string or an integer");
        assert_bad(&click(0).with(field, 1.5), "ill_typed_field", &sentence);
        assert_bad(&click(0).with(field, false), "ill_typed_field", &sentence);
    }
    let sentence = "field placement has the wrong type; want a string";
    assert_bad(&click(0).with("placement", 1), "ill_typed_field", sentence);
    let sentence = "field ad_id has the wrong type; want a string or a BIGINT";
    assert_bad(&click(0).with("ad_id", 1.5), "ill_typed_field", sentence);
    for rate in ["-0.1", "NaN", "inf", "", "1e999"] {
        let sentence = "field ctr has the wrong type; want a rate of 0 or more";
        assert_bad(&metrics(7, 0.5, 0.5).with("ctr", rate), "ill_typed_field", sentence);
    }
    let sentence = "timestamp_field: not a time: want yyyy-MM-dd, T or a space, HH:mm:ss, and if need be a fraction and a \
                    zone (Z, +09:00, +0900, +09); or milliseconds since 1970 as an integer";
    for time in ["now", "2026-01-01", "1500", ""] {
        assert_bad(&click(0).with("timestamp_field", time), "ill_typed_field", sentence);
    }
    assert_bad(&click(0).with("timestamp_field", 1.5), "ill_typed_field", sentence);
    let sentence = "timestamp_field: there is no such date, time of day or zone";
    assert_bad(&click(0).with("timestamp_field", "2026-02-30 00:00:00"), "ill_typed_field", sentence);
}

#[test]
fn a_time_out_of_range() {
    let sentence = "timestamp_field: time out of range 1970-01-01 ..= 9999-12-31";
    for time in ["1969-12-31T23:59:59Z", "1969-12-31 23:59:59", "1969-12-31 23:59:59.999"] {
        assert_bad(&click(0).with("timestamp_field", time), "time_out_of_range", sentence);
    }
    assert_bad(&click(0).with("timestamp_field", -1), "time_out_of_range", sentence);
    let sentence = "timestamp_field: the number would be after 9999-12-31: is it in micro- or nanoseconds? Want milliseconds \
                    since 1970";
    for time in [253_402_300_800_000, i64::MAX] {
        assert_bad(&click(0).with("timestamp_field", time), "time_out_of_range", sentence);
    }
    let sentence = "timestamp_field: the number 1767600000 would be 1970-01-21 11:00:00.000: is it in seconds? Want \
                    milliseconds since 1970";
    assert_bad(&click(0).with("timestamp_field", 1_767_600_000), "time_out_of_range", sentence);
}

#[test]
fn a_time_in_the_future() {
    let detail =
        "timestamp_field 2999-01-01 00:00:00.000 lies further in the future than max_future_skew allows";
    for line in [click(0), sale("a", 0), campaign(1, 0)] {
        assert_bad(&line.with("timestamp_field", "2999-01-01 00:00:00"), "time_in_future", detail);
    }
}

#[test]
fn negative_money() {
    for amount in ["-0.01", "-1", "-0.001", "-99999999999999999999"] {
        assert_bad(&click(0).with("actual_price", amount), "negative_money", "field actual_price: negative");
    }
    assert_bad(&price(7, "-1.00"), "negative_money", "field product_price: negative");
}

#[test]
fn money_with_more_than_two_decimals_or_too_large_or_none_at_all() {
    let of = |amount: &str, why: &str| {
        assert_bad(
            &campaign(1, 0).with("bid_price", amount),
            "bad_money",
            &format!("field bid_price: {why}"),
        );
    };
    of("0.001", "more than two decimals");
    of("1.105", "more than two decimals");
    of("100000000.00", "too large");
    of("1e30", "too large");
    of("ten", "not a decimal number; want one such as 12.50");
    of("", "not a decimal number; want one such as 12.50");
    of("1.", "not a decimal number; want one such as 12.50");
}

#[test]
fn an_unknown_event_type() {
    let of = |line: Line, name: &str| {
        let detail = format!("unknown event_type {name:?}");
        assert_bad(&line.with("event_type", name), "unknown_event_type", &detail);
    };
    of(click(0), "VIEW");
    of(click(0), "click");
    of(sale("a", 0), "CLICK");
    of(campaign(1, 0), "UPDATE");
}

#[test]
fn unknown_fields_are_ignored() {
    let run = History::new().epoch([click(0).with("note", "x").with("tags", vec!["a", "b"])]).run(&small());
    assert_eq!((run.dead.len(), run.performance.last().len()), (0, 1));
}

#[test]
fn bigints_may_come_as_numbers_or_numeric_strings() {
    let texts = click(0)
        .with("campaign_id", "5")
        .with("advertiser_id", "9")
        .with("product_id", "7")
        .with("ad_id", "1");
    let run = History::new().epoch([click(0), texts]).run(&small());
    assert_eq!(run.performance.last()[0].sums.clicks, 2);
    assert_eq!(run.compensations.last()[0].refund_amount, Money(150));
}

#[test]
fn times_come_as_sql_text_as_iso_8601_or_as_epoch_milliseconds() {
    let at = |time: &str| click(0).with("timestamp_field", time);
    let times =
        [at("2001-09-09 01:46:40.5"), at("2001-09-09T01:46:40.500Z"), at("2001-09-09T03:46:40.5+02:00")];
    let number = click(0).with("timestamp_field", 1_000_000_000_500_i64);
    let run = History::new().epoch(times.into_iter().chain([number])).run(&small());
    let times: Vec<_> = run.compensations.last()[0].click_times.iter().map(|time| time.0).collect();
    assert_eq!(times, [1_000_000_000_500; 4]);
}

#[test]
fn money_comes_as_numbers_or_strings_without_passing_through_a_float() {
    let prices = ["0.29", "0.29", "2.9e-1"].map(|price| {
        let number: serde_json::Number = price.parse().expect("a number");
        click(0).with("actual_price", serde_json::Value::Number(number))
    });
    let run =
        History::new().epoch(prices.into_iter().chain([click(0).with("actual_price", "0.29")])).run(&small());
    assert_eq!(run.performance.last()[0].sums.spend, Money(4 * 29));
}

#[test]
fn statements_that_do_not_run_give_nothing_and_find_nothing_late() {
    let settings = Settings { statements: Vec::new(), ..small() };
    let history = History::new().epoch([click(3_600_000), click(0), click(0), sale("a", 1), campaign(1, 0)]);
    let run = crate::support::Run::of(&history, &settings, 1, true);
    assert_eq!((run.performance.0.len(), run.attributions.0.len()), (0, 0));
    assert_eq!((run.compensations.0.len(), run.rankings.0.len(), run.late.len()), (0, 0, 0));
    assert_eq!(run.counts.good.iter().sum::<u64>(), 5);
}
