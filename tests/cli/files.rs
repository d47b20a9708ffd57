//! Topics as files: what is a record, what is an offset, and which files there may be.

use crate::support::{PERFORMANCE, Place, campaign, click, conversion, impression};

const MIB: usize = 1 << 20;

/// Runs over `in` and verifies the results.
fn run(place: &Place) {
    place.run("--from in --data-dir out -w 2").succeeded();
    place.run("verify --from in --data-dir out").verified(&[]);
}

/// The dead letters: topic, partition, offset and reason.
fn dead(place: &Place) -> Vec<String> {
    let mut letters: Vec<_> = place
        .topic("dead-letter")
        .iter()
        .map(|letter| {
            format!("{} {} {} {}", letter["topic"], letter["partition"], letter["offset"], letter["reason"])
        })
        .map(|letter| letter.replace('"', ""))
        .collect();
    letters.sort();
    letters
}

/// An impression's line, filled up to so many bytes without its end.
fn long_impression(bytes: usize) -> String {
    let line = impression("10:00:00", 1);
    let line = line.trim_end();
    let padded = line.replace('{', &format!("{{\"filler\":\"{}\",", "x".repeat(bytes - line.len() - 12)));
    assert_eq!(padded.len(), bytes);
    padded
}

#[test]
fn a_topic_may_be_one_file() {
    let place = Place::new();
    let clicks = click("10:00:00", 1, "d-1") + &click("10:01:00", 1, "d-1") + &click("10:02:00", 2, "d-2");
    place.write("in/ad-events.ndjson", clicks);
    place.write("in/conversion-events.ndjson", conversion("10:03:00", "o-1", "d-2"));
    place.write("in/campaign-events.ndjson", campaign("09:00:00", 1, "2.00"));
    place.write("in/product-metrics.ndjson", "{\"product_id\":7,\"ctr\":0.5,\"cvr\":0.1}\n");
    place.write("in/product-meta.ndjson", "{\"product_id\":7,\"product_price\":100}\n");
    run(&place);
    assert_eq!(place.rows(PERFORMANCE), ["1 10:00 0 2 1", "2 10:00 0 1 1"]);
    assert_eq!(
        place.rows("SELECT order_id, ad_id, time_to_conversion FROM conversion_attribution_results"),
        ["o-1 20 60"]
    );
    // 2.00 * 0.5 + 0.1 * 0.5 * 0.1 * 100
    let score =
        "SELECT round(json_extract(ranking_list, '$[0].score'), 9), total_campaigns FROM rtb_ranking_cache";
    assert_eq!(place.rows(score), ["1.5 1"]);
    assert_eq!(place.topic("compensation-events")[0]["refund_amount"].to_string(), "0.50");
}

#[test]
fn topics_may_be_missing_or_empty() {
    let place = Place::new();
    place.write("in/ad-events/0.ndjson", "");
    place.run("--from in --data-dir out").succeeded();
    place.run("verify --from in --data-dir out").exited_with(1).says(&["NOTHING verified"]);
    assert!(place.tables("out").values().all(Vec::is_empty));
    place.write("in/ad-events/1.ndjson", impression("10:00:00", 1));
    place.write("in/conversion-events.ndjson", "");
    std::fs::create_dir(place.path("in/campaign-events")).unwrap();
    place.write("in/ad-events/README", "not a partition");
    run(&place);
    assert_eq!(place.rows(PERFORMANCE), ["1 10:00 1 0 1"]);
}

#[test]
fn a_folder_without_topics_is_an_error_and_replaces_nothing() {
    let place = Place::new();
    place.write("in/ad-events.ndjson", impression("10:00:00", 1));
    run(&place);
    let before = place.tables("out");
    std::fs::create_dir(place.path("empty")).unwrap();
    let read = |folder: &str| place.run(&format!("--from {folder} --data-dir out --fresh"));
    read("empty").failed_saying(&["empty holds no topics", "ad-events", "<number>.ndjson"]);
    // Names that are nearly right.
    place.write("strays/ad_events/0.ndjson", impression("10:00:00", 1));
    place.write("strays/ad-events/0.jsonl", impression("10:00:00", 1));
    place.write("strays/ad-events/1.ndjson.gz", "compressed");
    place.write("strays/Campaign-Events.ndjson", "");
    place.write("strays/README.md", "");
    let outcome = read("strays").failed_saying(&[
        "ad_events",
        "0.jsonl",
        "1.ndjson.gz",
        "Campaign-Events",
        "are not read",
    ]);
    assert!(!outcome.stderr.contains("README"), "{}", outcome.stderr);
    place
        .run("worker all --from strays --data-dir out --until-end")
        .failed_saying(&["ad_events", "are not read"]);
    assert_eq!(place.tables("out"), before);
    // Beside topics they are named, and the topics are read.
    place.write("strays/ad-events/0.ndjson", impression("10:00:00", 1));
    let outcome = read("strays").succeeded();
    assert!(outcome.stderr.contains("WARN") && outcome.stderr.contains("0.jsonl"), "{}", outcome.stderr);
    let outcome = place.run("--from in --data-dir out --fresh").succeeded();
    assert!(!outcome.stderr.contains("not read"), "{}", outcome.stderr);
}

#[test]
fn results_of_other_topics_are_not_replaced_unless_that_is_wanted() {
    let place = Place::new();
    place.write("in/ad-events.ndjson", impression("10:00:00", 1));
    place.write("other/ad-events.ndjson", impression("10:00:00", 2));
    run(&place);
    let words = ["results of the topics in", "/in, not of", "/other;", "--fresh", "--data-dir"];
    place.run("--from other --data-dir out").failed_saying(&words);
    run(&place);
    assert_eq!(place.rows(PERFORMANCE), ["1 10:00 1 0 1"]);
    place.run("--from other --data-dir out --fresh").succeeded();
    assert_eq!(place.rows(PERFORMANCE), ["2 10:00 1 0 1"]);
}

#[test]
fn a_last_line_needs_no_line_feed() {
    let place = Place::new();
    place.write("in/ad-events/0.ndjson", impression("10:00:00", 1) + impression("10:00:01", 1).trim_end());
    place.write("in/ad-events/1.ndjson", impression("10:00:02", 1).trim_end());
    place.write("in/ad-events/2.ndjson", impression("10:00:03", 1).trim_end().to_owned() + "\r");
    run(&place);
    assert_eq!(place.rows(PERFORMANCE), ["1 10:00 4 0 1"]);
    assert!(dead(&place).is_empty());
}

#[test]
fn lines_may_end_as_on_windows_and_empty_ones_count_as_offsets_only() {
    let place = Place::new();
    let one = impression("10:00:00", 1).replace('\n', "\r\n");
    place.write("in/ad-events.ndjson", format!("\n\r\n{one}{one}\n?\r\n\n\r\n{one}"));
    run(&place);
    assert_eq!(place.rows(PERFORMANCE), ["1 10:00 3 0 1"]);
    assert_eq!(dead(&place), ["ad-events 0 5 not_json"]);
    assert_eq!(place.topic("dead-letter")[0]["value"], "?");
}

#[test]
fn a_record_of_one_mebibyte_is_read() {
    let place = Place::new();
    let line = long_impression(MIB);
    place.write("in/ad-events/0.ndjson", format!("{line}\n{line}\r\n{line}"));
    place.write("in/ad-events/1.ndjson", format!("{line}\r\n{line}\r"));
    run(&place);
    assert_eq!(place.rows(PERFORMANCE), ["1 10:00 5 0 1"]);
    assert!(dead(&place).is_empty());
}

#[test]
fn a_longer_record_is_dead_with_its_length_and_its_neighbours_live() {
    let place = Place::new();
    let neighbour = impression("10:00:00", 1);
    let lengths = [MIB + 1, MIB + 2, MIB + 64 * 1024, 3 * MIB + 17];
    for (partition, length) in lengths.into_iter().enumerate() {
        let line = long_impression(length);
        let text = format!("{neighbour}{line}\n{neighbour}{line}\r\n{neighbour}{line}");
        place.write(&format!("in/ad-events/{partition}.ndjson"), text);
    }
    run(&place);
    assert_eq!(place.rows(PERFORMANCE), ["1 10:00 12 0 1"]);
    let letters = place.topic("dead-letter");
    assert_eq!(letters.len(), 3 * lengths.len());
    for letter in letters {
        let length = lengths[letter["partition"].as_u64().unwrap() as usize];
        assert_eq!(letter["reason"], "too_large");
        assert_eq!(letter["detail"], format!("the record has {length} bytes; at most {MIB} are read"));
        let value = letter["value"].as_str().unwrap();
        assert_eq!(value.len(), 64 * 1024, "offset {} of {length} bytes", letter["offset"]);
        assert!(long_impression(length).starts_with(value));
    }
}

#[test]
fn garbage_is_dead_and_what_follows_lives() {
    let place = Place::new();
    let mut bytes: Vec<u8> = (0..=255).cycle().take(5000).filter(|byte| *byte != b'\n').collect();
    bytes.extend_from_slice(b"\n\x00\xff\xfe\n{\n[]\nnull\n\"text\"\n\xef\xbb\xbf{}\n");
    bytes.extend_from_slice(impression("10:00:00", 1).as_bytes());
    place.write("in/ad-events.ndjson", bytes);
    run(&place);
    assert_eq!(place.rows(PERFORMANCE), ["1 10:00 1 0 1"]);
    let reasons = [
        "looks_like_schema_registry",
        "not_utf8",
        "not_json",
        "not_json",
        "not_json",
        "not_json",
        "missing_field",
    ];
    let expected: Vec<_> =
        reasons.iter().enumerate().map(|(offset, reason)| format!("ad-events 0 {offset} {reason}")).collect();
    assert_eq!(dead(&place), expected);
    assert_eq!(place.topic("dead-letter")[1]["value_hex"], "00fffe");
}

#[test]
fn a_topic_may_not_be_there_in_both_forms() {
    let place = Place::new();
    place.write("in/ad-events.ndjson", "");
    place.write("in/ad-events/0.ndjson", "");
    place.run("--from in --data-dir out").failed_saying(&[
        "in/ad-events.ndjson",
        "in/ad-events ",
        "keep one",
    ]);
}

#[test]
fn a_partition_is_named_by_its_number() {
    for name in ["zero", "-1", "+1", "1.5", "4294967296", ""] {
        let place = Place::new();
        place.write("in/ad-events/0.ndjson", "");
        place.write(&format!("in/ad-events/{name}.ndjson"), impression("10:00:00", 1));
        let outcome = place.run("--from in --data-dir out");
        if name.is_empty() {
            // A hidden file, without an extension.
            outcome.succeeded();
        } else {
            outcome.failed_saying(&[
                &format!("in/ad-events/{name}.ndjson"),
                "no partition of ad-events",
                "<number>.ndjson",
            ]);
        }
    }
}

#[test]
fn a_partition_is_there_once() {
    let place = Place::new();
    place.write("in/ad-events/1.ndjson", impression("10:00:00", 1));
    place.write("in/ad-events/01.ndjson", impression("10:00:00", 1));
    place.run("--from in --data-dir out").failed_saying(&[
        "1.ndjson",
        "01.ndjson",
        "same partition",
        "keep one",
    ]);
}
