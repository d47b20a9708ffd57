//! The flat scanner gives what the full parser gives, record by record.

use adtide_dataflows::record::{BadRecord, Field, Fields, Raw, Scanner};
use proptest::prelude::*;
use proptest::sample::select;

use crate::support::{Dice, check, mutated};

/// What a record's fields are, or why there are none.
type Read = Result<String, BadRecord>;

/// Reads a record in both ways. The scanner remembers the records before.
fn read(scanner: &mut Scanner, record: &[u8]) -> (Read, Read) {
    // Also what is said of a record without its first field.
    let show = |fields: &Fields<'_>| match fields.get(Field::EventType) {
        Raw::Absent if fields.get(Field::AdId) == Raw::Absent => Err(BadRecord::Missing(Field::EventType)),
        _ => Ok(format!("{fields:?}")),
    };
    (scanner.read(record, show), scanner.read_full(record, show))
}

/// Names that topics know, one of them also with an escape, and names that none knows.
fn name() -> impl Strategy<Value = String> {
    let names = [
        "event_type",
        "timestamp_field",
        "ad_id",
        "campaign_id",
        "ctr",
        "device_id",
        r"\u0061d_id",
        "ad_ids",
        "payload",
        "after",
        "",
        "ü",
    ];
    prop_oneof![9 => select(names.to_vec()).prop_map(str::to_owned), 1 => "[a-z_]{1,70}"]
}

/// Values in all forms that JSON knows, and some that it does not.
fn value() -> impl Strategy<Value = String> {
    let text = prop_oneof![
        4 => "[ -!#-\\[\\]-~]{0,24}",
        1 => "[a-zé€𝄞\u{7f}]{0,12}",
        1 => select(vec![r"\n", r#"a\"b"#, r"\\", r"\u00e9", r"\ud834\udd1e", r"\ud800", r"\x", "\t", "12345678\\", r"\/"])
            .prop_map(str::to_owned),
    ];
    let number = select(vec![
        "0",
        "-0",
        "7",
        "-7",
        "10",
        "1.5",
        "0.29",
        "1e5",
        "1E-2",
        "12e+3",
        "9223372036854775807",
        "9223372036854775808",
        "00",
        "01",
        "-",
        "1.",
        ".5",
        "1.e3",
        "1e",
        "+1",
        "0x1",
        "1.5.2",
        "1_0",
        "NaN",
    ]);
    let other = select(vec![
        "null",
        "true",
        "false",
        "nul",
        "nulll",
        "True",
        "[]",
        "{}",
        "[1,[2,{\"a\":null}]]",
        "{\"ad_id\":5}",
        "[",
        "}",
        "\"",
        "",
    ]);
    prop_oneof![
        4 => text.prop_map(|text| format!("\"{text}\"")),
        3 => number.prop_map(str::to_owned),
        2 => other.prop_map(str::to_owned),
    ]
}

fn space() -> impl Strategy<Value = &'static str> {
    prop_oneof![8 => Just(""), 2 => select(vec![" ", "\t", "  \r\n ", "\n"]), 1 => select(vec!["\u{a0}", "\x0b"])]
}

/// An object with these members, with spaces between the parts.
fn record() -> impl Strategy<Value = Vec<u8>> {
    let member = (name(), space(), space(), value(), space(), space());
    let members = prop::collection::vec(member, 0..8);
    let before = prop_oneof![8 => space(), 1 => select(vec!["\u{feff}", "\u{feff} ", "\u{feff}\u{feff}", "\0\0\0\0\u{1}"])];
    let around = (before, space(), select(vec!["", "", "", "", ",", "}", "{}", "x"]));
    (members, around).prop_map(|(members, (before, after, rest))| {
        let members =
            members.into_iter().map(|(name, a, b, value, c, d)| format!("{d}\"{name}\"{a}:{b}{value}{c}"));
        let members: Vec<_> = members.collect();
        format!("{before}{{{}}}{after}{rest}", members.join(",")).into_bytes()
    })
}

#[test]
fn the_flat_scanner_gives_what_the_full_parser_gives() {
    check(2_000, prop::collection::vec(record(), 1..6), |records| {
        let mut scanner = Scanner::default();
        for record in &records {
            let (flat, full) = read(&mut scanner, record);
            assert_eq!(flat, full, "{}", String::from_utf8_lossy(record));
        }
    });
}

#[test]
fn also_of_records_with_mutated_bytes() {
    check(2_000, (record(), any::<u64>()), |(record, seed)| {
        let (mut scanner, mut dice) = (Scanner::default(), Dice::new(seed));
        let _ = scanner.read(&record, |_| Ok(()));
        for _ in 0..4 {
            let record = mutated(&record, &mut dice);
            let (flat, full) = read(&mut scanner, &record);
            assert_eq!(flat, full, "{}", String::from_utf8_lossy(&record));
        }
    });
}

#[test]
fn texts_of_every_length_end_where_they_end() {
    let mut scanner = Scanner::default();
    for length in 0..40 {
        for end in ["", "é", "\\n", "\\\"", "\u{1}", "\u{1f}", "\u{7f}", "\u{80}"] {
            let text = "x".repeat(length) + end;
            for rest in ["", " ", ",\"ad_id\":12345678"] {
                let record = format!("{{\"device_id\":\"{text}\"{rest}}}");
                let (flat, full) = read(&mut scanner, record.as_bytes());
                assert_eq!(flat, full, "{record}");
            }
        }
    }
}

#[test]
fn a_record_of_another_shape_does_not_mislead_the_scanner() {
    let mut scanner = Scanner::default();
    for record in [
        r#"{"ad_id":1,"device_id":"d"}"#,
        r#"{"device_id":"d","ad_id":1}"#,
        r#"{"ad_ids":1,"device_id":"d"}"#,
        r#"{"ad_id" :1,"device_id":"d"}"#,
        r#"{"ad_id":1,"ad_id":2}"#,
        r#"{"ad_id":1,"ad_id":null}"#,
        r#"{"ad_id":1,"\u0061d_id":2}"#,
    ] {
        let (flat, full) = read(&mut scanner, record.as_bytes());
        assert_eq!(flat, full, "{record}");
    }
}
