use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use adtide_dataflows::model::{EventTime, Topic, UnknownIds};
use adtide_dataflows::record::{self, Scanner};
use serde_json::Value;

use super::*;

const MINUTE: i64 = 60_000;

fn small() -> GeneratorConfig {
    GeneratorConfig {
        ad_events: 60_000,
        campaign_events: 1_500,
        campaigns: 300,
        products: 100,
        devices: 5_000,
        malformed: 0.0,
        ..GeneratorConfig::default()
    }
}

struct Record {
    topic: Topic,
    partition: u32,
    at: i64,
    json: Value,
}

impl Record {
    fn text(&self, field: &str) -> Option<String> {
        match &self.json[field] {
            Value::Null => None,
            Value::String(text) if UnknownIds::default().has_text(text) => None,
            Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        }
    }

    fn time(&self) -> i64 {
        let text = self.text("timestamp_field").unwrap();
        text.parse().unwrap_or_else(|_| EventTime::parse(&text).unwrap().0)
    }

    fn is(&self, event_type: &str) -> bool {
        self.json["event_type"] == event_type
    }
}

fn lines(config: &GeneratorConfig) -> Vec<(Arrival, Vec<u8>)> {
    let (mut traffic, mut line) = (Traffic::new(config).unwrap(), Vec::new());
    std::iter::from_fn(|| Some((traffic.next(&mut line)?, line.clone()))).collect()
}

/// All good records of the small configuration.
static RECORDS: LazyLock<Vec<Record>> = LazyLock::new(|| {
    let parse = |(arrival, line): (Arrival, Vec<u8>)| Record {
        topic: arrival.topic,
        partition: arrival.partition,
        at: arrival.at.0,
        json: serde_json::from_slice(&line).unwrap(),
    };
    lines(&small()).into_iter().map(parse).collect()
});

fn of(topic: Topic) -> impl Iterator<Item = &'static Record> {
    RECORDS.iter().filter(move |record| record.topic == topic)
}

fn clicks() -> impl Iterator<Item = &'static Record> {
    of(Topic::AdEvents).filter(|record| record.is("CLICK"))
}

/// What makes a click a duplicate of another one.
fn click_group(click: &Record) -> Option<[String; 4]> {
    Some([
        click.text("campaign_id")?,
        click.text("ad_id")?,
        click.text("device_id")?,
        click.text("actual_price")?,
    ])
}

fn files(topics: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for topic in Topic::ALL {
        for entry in fs::read_dir(topics.join(topic.name())).unwrap() {
            let path = entry.unwrap().path();
            files.insert(path.strip_prefix(topics).unwrap().display().to_string(), fs::read(&path).unwrap());
        }
    }
    files
}

#[test]
fn the_same_seed_gives_the_same_files_and_another_seed_others() {
    let written = |seed| {
        let folder = tempfile::tempdir().unwrap();
        generate(
            &GeneratorConfig { seed, ad_events: 10_000, malformed: 0.01, ..small() },
            folder.path(),
            &mut |_, _| {},
        )
        .unwrap();
        files(folder.path())
    };
    let first = written(7);
    assert_eq!(first.len(), 20);
    assert!(first.values().all(|bytes| !bytes.is_empty()));
    assert!(first == written(7));
    assert!(first != written(8));
}

/// The bytes are a promise to whoever compares results of different machines and versions: change them
/// knowingly.
#[test]
fn the_bytes_are_the_same_on_every_machine() {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    for (arrival, line) in lines(&GeneratorConfig { malformed: 0.01, ..small() }) {
        let place = [arrival.topic as u8, arrival.partition as u8];
        for byte in line.iter().chain(&place).chain(&arrival.at.0.to_le_bytes()) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    assert_eq!(hash, 10_735_339_054_027_070_160);
}

#[test]
fn counts_are_as_configured_and_as_written() {
    let folder = tempfile::tempdir().unwrap();
    let config = GeneratorConfig { malformed: 0.01, ..small() };
    let mut reported = Vec::new();
    let generated =
        generate(&config, folder.path(), &mut |done, total| reported.push((done, total))).unwrap();
    assert_eq!(generated.records[Topic::AdEvents as usize], config.ad_events);
    assert_eq!(generated.records[Topic::CampaignEvents as usize], config.campaign_events);
    assert_eq!(reported.last(), Some(&(config.ad_events, config.ad_events)));
    let files = files(folder.path());
    assert_eq!(generated.bytes, files.values().map(|bytes| bytes.len() as u64).sum::<u64>());
    let newlines = files.values().flatten().filter(|byte| **byte == b'\n').count();
    assert_eq!(generated.records.iter().sum::<u64>(), newlines as u64);
}

#[test]
fn another_run_with_fewer_partitions_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let config = GeneratorConfig { ad_events: 100, ..small() };
    generate(&config, folder.path(), &mut |_, _| {}).unwrap();
    generate(&config, folder.path(), &mut |_, _| {}).unwrap();
    assert!(generate(&GeneratorConfig { partitions: 2, ..config }, folder.path(), &mut |_, _| {}).is_err());
}

#[test]
fn wrong_values_are_refused() {
    for wrong in [
        GeneratorConfig { partitions: 0, ..small() },
        GeneratorConfig { campaigns: 0, ..small() },
        GeneratorConfig { campaign_events: 299, ..small() },
        GeneratorConfig { span_ms: 0, ..small() },
        GeneratorConfig { start: EventTime::MAX, ..small() },
        GeneratorConfig { malformed: f64::NAN, ..small() },
    ] {
        assert!(Traffic::new(&wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn the_least_of_everything_works() {
    let config = GeneratorConfig {
        span_ms: 1,
        ad_events: 10,
        campaign_events: 1,
        campaigns: 1,
        products: 1,
        devices: 1,
        partitions: 1,
        malformed: 1.0,
        ..GeneratorConfig::default()
    };
    assert_eq!(lines(&config).iter().filter(|(arrival, _)| arrival.topic == Topic::AdEvents).count(), 10);
    assert_eq!(lines(&GeneratorConfig { ad_events: 0, ..config }).len(), 5);
}

/// Whether a run could read it, while the traffic is under way.
fn readable(topic: Topic, line: &[u8]) -> bool {
    let unknown = UnknownIds::default();
    let read = Scanner::default().read(line, |fields| match topic {
        Topic::AdEvents => record::ad_event(fields, &unknown).map(|event| event.time),
        Topic::CampaignEvents => record::campaign_event(fields, &unknown).map(|event| event.time),
        Topic::ConversionEvents => record::conversion_event(fields, &unknown).map(|event| event.time),
        Topic::ProductMetrics => record::product_metrics(fields, &unknown).map(|_| EventTime(0)),
        Topic::ProductMeta => record::product_meta(fields, &unknown).map(|_| EventTime(0)),
    });
    read.is_ok_and(|time| time < small().start.plus(100 * 60 * MINUTE))
}

#[test]
fn as_many_records_are_bad_as_configured() {
    let good = lines(&small());
    assert!(good.iter().all(|(arrival, line)| readable(arrival.topic, line)));

    let mixed = lines(&GeneratorConfig { malformed: 0.02, ..small() });
    let bad: Vec<_> = mixed.iter().filter(|(arrival, line)| !readable(arrival.topic, line)).collect();
    let share = bad.len() as f64 / mixed.len() as f64;
    assert!((0.017..0.023).contains(&share), "{share}");
    assert!(mixed.iter().all(|(_, line)| !line.is_empty() && !line.contains(&b'\n')));

    let all = lines(&GeneratorConfig { ad_events: 10_000, malformed: 1.0, ..small() });
    let running = all.iter().filter(|(arrival, _)| arrival.at >= small().start);
    assert!(running.clone().count() > 10_000);
    for (arrival, line) in running {
        assert!(!readable(arrival.topic, line), "{}", String::from_utf8_lossy(line));
    }
}

#[test]
fn records_arrive_in_order_and_after_their_events() {
    let config = small();
    assert!(RECORDS.is_sorted_by_key(|record| record.at));
    for record in RECORDS.iter() {
        assert!(record.partition < config.partitions && record.at < config.start.0 + config.span_ms);
        if record.json.get("timestamp_field").is_some() {
            assert!(record.time() <= record.at, "{}", record.json);
        }
    }
    let delays: Vec<i64> = of(Topic::AdEvents).map(|record| record.at - record.time()).collect();
    let share = |range: std::ops::Range<i64>| {
        delays.iter().filter(|delay| range.contains(delay)).count() as f64 / delays.len() as f64
    };
    assert!(share(0..5_000) > 0.98);
    assert!((0.001..0.004).contains(&share(MINUTE..9 * MINUTE)), "late");
    assert!((0.00005..0.0005).contains(&share(15 * MINUTE..90 * MINUTE)), "too late");
}

#[test]
fn clicks_are_rare_and_campaigns_unequal() {
    let count = |event_type| of(Topic::AdEvents).filter(|record| record.is(event_type)).count();
    assert!((1_700..2_100).contains(&count("CLICK")), "{}", count("CLICK"));
    assert!((20..150).contains(&count("CONVERSION")), "{}", count("CONVERSION"));
    let mut shown: BTreeMap<Option<String>, usize> = BTreeMap::new();
    for event in of(Topic::AdEvents) {
        *shown.entry(event.text("campaign_id")).or_default() += 1;
    }
    assert!(shown[&Some("1".into())] > 10 * shown[&Some("200".into())]);
    assert!((50..600).contains(&shown[&None]), "{}", shown[&None]);
}

#[test]
fn traffic_follows_the_hours_of_the_day() {
    let config = GeneratorConfig { span_ms: 24 * 60 * MINUTE, ..small() };
    let mut hours = [0; 24];
    for event in lines(&config).iter().filter(|(arrival, _)| arrival.topic == Topic::AdEvents) {
        hours[(event.0.at.0 / (60 * MINUTE) % 24) as usize] += 1;
    }
    assert_eq!(hours.iter().sum::<u64>(), config.ad_events);
    assert!(hours[19] > 5 * hours[3] && hours[3] > 0, "{hours:?}");
}

#[test]
fn sessions_belong_to_one_device_and_devices_have_several() {
    let mut sessions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut devices: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for event in of(Topic::AdEvents) {
        if let (Some(device), Some(session)) = (event.text("device_id"), event.text("session_id")) {
            sessions.entry(session.clone()).or_default().insert(device.clone());
            devices.entry(device).or_default().insert(session);
        }
    }
    assert!(sessions.values().all(|devices| devices.len() == 1));
    assert!(devices.values().any(|sessions| sessions.len() > 3));
}

#[test]
fn duplicate_clicks_come_within_windows_and_across_their_borders() {
    let mut groups: BTreeMap<[String; 4], Vec<i64>> = BTreeMap::new();
    for click in clicks() {
        if let Some(group) = click_group(click) {
            groups.entry(group).or_default().push(click.time());
        }
    }
    let (mut within, mut across) = (0, 0);
    for times in groups.values_mut() {
        times.sort_unstable();
        for pair in times.windows(2).filter(|pair| pair[1] - pair[0] < 10_000) {
            let same = EventTime(pair[0]).window_start() == EventTime(pair[1]).window_start();
            if same { within += 1 } else { across += 1 }
        }
    }
    assert!(within > 20 && across >= 3, "{within} within, {across} across");
}

#[test]
fn sales_follow_clicks_by_device_or_by_session_only() {
    let clicks: Vec<_> = clicks().collect();
    let (mut by_device, mut by_session, mut unseen) = (0, 0, 0);
    for sale in of(Topic::ConversionEvents) {
        let matches = |field| {
            clicks.iter().any(|click| {
                sale.text(field).is_some()
                    && sale.text(field) == click.text(field)
                    && sale.text("product_id") == click.text("product_id")
                    && click.time() <= sale.time()
            })
        };
        match (matches("device_id"), matches("session_id")) {
            (true, _) => by_device += 1,
            (false, true) => by_session += 1,
            (false, false) => unseen += 1,
        }
    }
    assert!(by_device > 30 && by_session > 5 && unseen > 3, "{by_device} {by_session} {unseen}");
}

#[test]
fn some_sales_are_told_again() {
    let mut told: BTreeMap<_, Vec<i64>> = BTreeMap::new();
    for sale in of(Topic::ConversionEvents) {
        told.entry((sale.text("order_id"), sale.text("product_id"))).or_default().push(sale.time());
    }
    let again: Vec<_> = told.values().filter(|times| times.len() > 1).collect();
    assert!(again.len() >= 2 && again.len() * 5 < told.len());
}

#[test]
fn campaigns_begin_with_their_creation_and_live_on() {
    let mut lives: BTreeMap<i64, Vec<&Record>> = BTreeMap::new();
    for event in of(Topic::CampaignEvents) {
        lives.entry(event.text("campaign_id").unwrap().parse().unwrap()).or_default().push(event);
    }
    assert_eq!(lives.keys().copied().collect::<Vec<_>>(), (1..=300).collect::<Vec<_>>());
    for events in lives.values_mut() {
        events.sort_by_key(|event| event.time());
        assert!(events[0].is("CAMPAIGN_CREATE") && events[0].time() < small().start.0);
        assert!(events.iter().all(|event| event.partition == events[0].partition));
    }
    for event_type in ["UPDATE", "PAUSE", "ACTIVATE", "DELETE"] {
        assert!(of(Topic::CampaignEvents).any(|event| event.is(&format!("CAMPAIGN_{event_type}"))));
    }
}

#[test]
fn some_products_are_deleted_and_some_have_no_metrics() {
    for topic in [Topic::ProductMetrics, Topic::ProductMeta] {
        let opening = of(topic).filter(|record| record.at < small().start.0).count();
        assert!((85..100).contains(&opening), "{opening}");
        assert!(of(topic).any(|record| record.json.as_object().unwrap().len() == 1));
    }
}
