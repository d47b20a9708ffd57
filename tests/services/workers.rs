//! The four workers on real servers, as processes, and their stores.

mod groups;
mod letters;
mod place;
mod stores;

use std::collections::BTreeMap;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use place::Place;

use crate::deployment::eventually;

/// Clicks of the crash test.
const CLICKS: u32 = 100_000;

/// A record of `ad-events` at a second after ten.
fn ad_event(event_type: &str, second: u32, campaign: Value, cents: u32) -> String {
    let time = format!("2026-01-05 10:{:02}:{:02}", second / 60 % 60, second % 60);
    json!({
        "event_type": event_type, "timestamp_field": time, "ad_id": 1, "campaign_id": campaign, "advertiser_id": 1,
        "product_id": 7, "placement": "top", "category": "toys", "device_id": "d-1",
        "actual_price": format!("{}.{:02}", cents / 100, cents % 100),
    })
    .to_string()
}

fn click(second: u32, campaign: u32, cents: u32) -> String {
    ad_event("CLICK", second, json!(campaign), cents)
}

/// A record of `compensation-events`.
fn refund(id: &str, campaign: u32, amount: &str) -> String {
    let amount: Value = serde_json::from_str(amount).unwrap();
    json!({
        "timestamp_field": "2026-01-05 10:06:00.000", "advertiser_id": 1, "campaign_id": campaign, "ad_id": 1,
        "device_id": "d-1", "duplicate_click_count": 2, "refund_amount": amount,
        "window_start": "2026-01-05 10:00:00.000", "compensation_id": id,
    })
    .to_string()
}

/// A record of `campaign-events`.
fn campaign_event(event_type: &str, time: &str, campaign: u32, bid: &str) -> String {
    let status = if event_type == "CAMPAIGN_PAUSE" { "PAUSED" } else { "ACTIVE" };
    let bid: Value = serde_json::from_str(bid).unwrap();
    json!({
        "event_type": event_type, "timestamp_field": format!("2026-01-05 {time}"), "campaign_id": campaign,
        "advertiser_id": 1, "product_id": 7, "placement": "top", "category": "toys", "bid_price": bid, "status": status,
    })
    .to_string()
}

/// The invariants of the ledger, whatever happened.
fn assert_balanced(place: &Place) {
    let wrong = place.rows(
        "SELECT a.advertiser_id FROM advertisers a LEFT JOIN balance_ledger l USING (advertiser_id)
         GROUP BY a.advertiser_id, a.balance, a.opening_balance
         HAVING a.balance <> a.opening_balance + coalesce(
             sum(CASE entry_type WHEN 'CREDIT' THEN amount WHEN 'DEBIT' THEN -amount END), 0)",
    );
    assert_eq!(wrong, Vec::<String>::new(), "opening balance - debits + credits is not the balance");
    let wrong = place.rows(
        "SELECT c.campaign_id FROM campaigns c LEFT JOIN balance_ledger l USING (campaign_id)
         GROUP BY c.campaign_id, c.debits, c.credits
         HAVING c.debits <> coalesce(sum(amount) FILTER (WHERE entry_type = 'DEBIT'), 0)
             OR c.credits <> coalesce(sum(amount) FILTER (WHERE entry_type = 'CREDIT'), 0)",
    );
    assert_eq!(wrong, Vec::<String>::new(), "a campaign's sums are not those of its entries");
}

#[test]
fn each_worker_has_its_effect_and_a_repeat_has_none() {
    let Some(place) = Place::new(4) else { return };
    place.execute("INSERT INTO advertisers (advertiser_id, opening_balance, balance) VALUES (1, 10, 10)");
    place.execute("INSERT INTO campaigns (campaign_id, budget) VALUES (1, 2.00), (2, 100.00)");
    let mut ads: Vec<String> = (0..8).map(|second| click(second, 1 + second % 2, 50)).collect();
    ads.extend([
        ad_event("IMPRESSION", 9, json!(1), 50),
        ad_event("CLICK", 9, Value::Null, 25),
        "{\"event_type\":\"CLICK\"".to_owned(),
        ad_event("CLICK", 9, json!(1), 50).replace("2026-01-05", "2096-01-05"),
        String::new(),
    ]);
    place.produce("ad-events", &ads);
    place.produce("campaign-events", &[campaign_event("CAMPAIGN_CREATE", "09:00:00", 1, "1.25")]);
    place.produce("compensation-events", &[refund("r-1", 2, "0.50"), refund("r-1", 2, "0.50")]);
    let outcome = place.run("worker all --until-end");
    assert!(outcome.contains("bad=3"), "{outcome}");

    assert_eq!(
        place.rows("SELECT count(*), sum(amount) FROM balance_ledger WHERE entry_type = 'DEBIT'"),
        ["9 4.25"]
    );
    let credits = "SELECT compensation_id, amount, count(*) FROM balance_ledger \
                   WHERE entry_type = 'CREDIT' GROUP BY 1, 2";
    assert_eq!(place.rows(credits), ["r-1 0.50 1"]);
    assert_eq!(place.rows("SELECT balance FROM advertisers"), ["6.25"]);
    assert_balanced(&place);
    assert_eq!(place.budget(1), ("2.00".to_owned(), "0.00".to_owned()));
    assert_eq!(place.budget(2), ("2.00".to_owned(), "0.50".to_owned()));
    let told = place.own_campaign_events();
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0]["event_type"], "CAMPAIGN_PAUSE");
    assert_eq!(told[0]["campaign_id"], 1);
    assert_eq!(told[0]["timestamp_field"], "2026-01-05 10:00:06.000", "the last entry's event time");

    // Nothing new: nothing happens. A refund: it comes back.
    place.run("worker all --until-end");
    assert_eq!(place.own_campaign_events().len(), 1);
    place.produce("compensation-events", &[refund("r-2", 1, "0.50"), refund("r-1", 2, "0.50")]);
    place.run("worker all --until-end");
    let told = place.own_campaign_events();
    assert_eq!(told.len(), 2, "{told:?}");
    let expected = json!({
        "event_type": "CAMPAIGN_ACTIVATE", "timestamp_field": "2026-01-05 10:00:06.001", "campaign_id": 1,
        "advertiser_id": 1, "product_id": 7, "placement": "top", "category": "toys", "bid_price": 1.25,
        "status": "ACTIVE", "source": "adtide-campaign-status",
    });
    assert_eq!(told[1], expected);
    assert_eq!(place.rows("SELECT balance FROM advertisers"), ["6.75"]);
    assert_eq!(place.budget(1), ("2.00".to_owned(), "0.50".to_owned()));
    assert_eq!(place.budget(2), ("2.00".to_owned(), "0.50".to_owned()));
    assert_balanced(&place);
}

/// Kafka's `Utils.murmur2`, by which Java's producers choose the partition of a key.
fn murmur2(key: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c ^ key.len() as u32;
    let mut chunks = key.chunks_exact(4);
    for chunk in &mut chunks {
        let word = u32::from_le_bytes(chunk.try_into().unwrap()).wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ (word ^ (word >> 24)).wrapping_mul(M);
    }
    let rest = chunks.remainder();
    if !rest.is_empty() {
        let word = rest.iter().rev().fold(0, |word, byte| word << 8 | u32::from(*byte));
        hash = (hash ^ word).wrapping_mul(M);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[test]
fn a_campaigns_events_are_in_the_partition_that_javas_producers_choose() {
    // From Kafka's own UtilsTest.
    for (key, hash) in
        [("21", -973_932_308), ("foobar", -790_332_482), ("a-little-bit-long-string", -985_981_536)]
    {
        assert_eq!(murmur2(key.as_bytes()).cast_signed(), hash);
    }
    let Some(place) = Place::new(4) else { return };
    place.execute(
        "INSERT INTO campaigns (campaign_id, budget) SELECT id, 0.01 FROM generate_series(1, 40) AS id",
    );
    place.produce("ad-events", &(1..=40).map(|campaign| click(0, campaign, 1)).collect::<Vec<_>>());
    place.run("worker all --until-end");
    let told = place.own_campaign_records();
    assert_eq!(told.len(), 40);
    for (partition, event) in told {
        let java = (murmur2(event["campaign_id"].to_string().as_bytes()) & 0x7fff_ffff) % 4;
        assert_eq!(partition, java.cast_signed(), "{event}");
    }
}

#[test]
fn an_owners_word_on_a_campaign_is_respected() {
    let Some(place) = Place::new(4) else { return };
    place.execute("INSERT INTO campaigns (campaign_id, budget) VALUES (1, 1.00), (2, 1.00)");
    let created = |campaign| campaign_event("CAMPAIGN_CREATE", "09:00:00", campaign, "1.25");
    place.produce("campaign-events", &[created(1), created(2)]);
    place.produce("ad-events", &[click(0, 1, 100), click(1, 2, 100)]);
    let status = |campaign: u32| {
        place.own_campaign_events().into_iter().rfind(|event| event["campaign_id"] == campaign)
    };
    let mut running = place.start("all", "worker all --set worker.status_interval=100ms");
    assert!(eventually(|| status(1).is_some() && status(2).is_some()), "they are not paused");

    // An update of an exhausted campaign would bring it back: it is paused again, behind the update.
    place.produce("campaign-events", &[campaign_event("CAMPAIGN_UPDATE", "11:00:00", 1, "2.50")]);
    let again = || status(1).is_some_and(|event| event["timestamp_field"] == "2026-01-05 11:00:00.001");
    assert!(eventually(again), "{:?}", status(1));
    // Its owner pauses the other. After a refund it would have budget, but stays as it is.
    place.produce("campaign-events", &[campaign_event("CAMPAIGN_PAUSE", "11:00:00", 2, "2.50")]);
    assert!(eventually(|| place.rows("SELECT status FROM campaigns WHERE campaign_id = 2") == ["PAUSED"]));
    place.produce("compensation-events", &[refund("r-1", 1, "1.00"), refund("r-2", 2, "1.00")]);
    assert!(eventually(|| status(1).is_some_and(|event| event["event_type"] == "CAMPAIGN_ACTIVATE")));
    let activated = status(1).unwrap();
    assert_eq!(activated["bid_price"].to_string(), "2.50", "with what the update said");
    let within = "SELECT count(*) FROM campaigns WHERE budget_status = 'WITHIN_BUDGET'";
    assert!(eventually(|| place.rows(within) == ["2"]));
    assert!(running.end(Signal::SIGTERM).contains("worker stopped"));
    let told: Vec<_> =
        place.own_campaign_events().into_iter().filter(|event| event["campaign_id"] == 2).collect();
    assert_eq!(told.len(), 1, "{told:?}");
}

#[test]
fn killed_at_any_moment_workers_lose_nothing_and_count_nothing_twice() {
    let Some(place) = Place::new(4) else { return };
    for seed in [1_u64, 2] {
        place.reset();
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut draw = |limit: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % limit
        };
        let mut expected: BTreeMap<u32, u32> = BTreeMap::new();
        let clicks: Vec<String> = (0..CLICKS)
            .map(|number| {
                let (campaign, cents) = (1 + number % 97, 1 + number % 251);
                *expected.entry(campaign).or_default() += cents;
                click(number / 100, campaign, cents)
            })
            .collect();
        place.produce("ad-events", &clicks);
        let refunds: Vec<String> =
            (0..2000).map(|number| refund(&format!("r-{}", number / 2), 1, "0.01")).collect();
        place.produce("compensation-events", &refunds);
        let done = || place.rows("SELECT count(*) FROM balance_ledger")[0].parse::<u64>().unwrap();
        let mut caught_at_work = 0;
        for round in 0..4 {
            let before = done();
            let running = place.start(&format!("{seed}-{round}"), "worker all");
            // Members that were killed are waited for: they hold their partitions for a session's time. Then
            // some more work, and some moment of the next commit.
            let enough = before + draw(u64::from(CLICKS) / 6);
            assert!(eventually(|| done() > enough || before > u64::from(CLICKS)), "{}", running.log());
            std::thread::sleep(Duration::from_millis(draw(150)));
            drop(running);
            caught_at_work += u64::from((1..u64::from(CLICKS)).contains(&done()));
        }
        assert!(caught_at_work > 0, "seed {seed}: it was never killed at work");
        place.run("worker all --until-end");
        let total: u32 = expected.values().sum();
        let ledger =
            "SELECT count(*), (sum(amount) * 100)::bigint FROM balance_ledger WHERE entry_type = 'DEBIT'";
        assert_eq!(place.rows(ledger), [format!("{CLICKS} {total}")], "seed {seed}");
        let credits = "SELECT count(*), sum(amount) FROM balance_ledger WHERE entry_type = 'CREDIT'";
        assert_eq!(place.rows(credits), ["1000 10.00"], "seed {seed}");
        assert_balanced(&place);
        for (campaign, cents) in expected {
            let spent = format!("{}.{:02}", cents / 100, cents % 100);
            let refunded = if campaign == 1 { "10.00" } else { "0.00" };
            assert_eq!(
                place.budget(campaign),
                (spent, refunded.to_owned()),
                "seed {seed}, campaign {campaign}"
            );
        }
    }
}

#[test]
fn two_processes_of_a_worker_share_the_partitions() {
    let Some(place) = Place::new(4) else { return };
    let clicks = |count: u32| (0..count).map(|second| click(second, 1, 1)).collect::<Vec<_>>();
    let owners = || place.rows("SELECT count(DISTINCT owner) FROM worker_offsets");
    let mut first = place.start("first", "worker balance");
    place.produce("ad-events", &clicks(1000));
    let debits = |count: &str| eventually(|| place.rows("SELECT count(*) FROM balance_ledger") == [count]);
    assert!(debits("1000"));
    let mut second = place.start("second", "worker balance");
    assert!(eventually(|| owners() == ["2"]), "the second got nothing");
    place.produce("ad-events", &clicks(1000));
    assert!(debits("2000"));
    // One goes in order: the other has all at once.
    assert!(!first.end(Signal::SIGTERM).contains("taken over"), "it was not told to let go");
    assert!(eventually(|| owners() == ["1"]), "the first's partitions were not taken over");
    place.produce("ad-events", &clicks(1000));
    assert!(debits("3000"));
    second.end(Signal::SIGTERM);
    assert_balanced(&place);
}

#[test]
fn a_process_that_lost_a_partition_changes_nothing_and_finds_back() {
    let Some(place) = Place::new(1) else { return };
    let mut running = place.start("zombie", "worker balance");
    place.produce("ad-events", &[click(0, 1, 1)]);
    let debits = |count: &str| eventually(|| place.rows("SELECT count(*) FROM balance_ledger") == [count]);
    assert!(debits("1"));
    place.execute("UPDATE worker_offsets SET owner = 'another'");
    place.produce("ad-events", &[click(1, 1, 1)]);
    assert!(eventually(|| running.log().contains("another process has taken over a partition")));
    assert!(debits("2"), "it did not join anew");
    running.end(Signal::SIGTERM);
    assert_eq!(place.rows("SELECT balance FROM advertisers"), ["-0.02"]);
    assert_balanced(&place);
}

#[test]
fn connections_that_break_are_opened_again() {
    let Some(place) = Place::new(4) else { return };
    let mut running = place.start("balance", "worker balance");
    for round in 0..20 {
        place.produce("ad-events", &(0..500).map(|second| click(second, 1 + round, 1)).collect::<Vec<_>>());
        place.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE application_name = 'adtide balance' AND datname = current_database()",
        );
    }
    assert!(
        eventually(|| place.rows("SELECT count(*) FROM balance_ledger") == ["10000"]),
        "{}",
        running.log()
    );
    running.end(Signal::SIGTERM);
    assert_eq!(place.rows("SELECT balance FROM advertisers"), ["-100.00"]);
    assert_balanced(&place);
}

#[test]
fn records_that_are_gone_are_not_passed_over() {
    let Some(place) = Place::new(1) else { return };
    place.produce("ad-events", &[click(0, 1, 1)]);
    place.run("worker balance --until-end");
    place.execute("UPDATE worker_offsets SET next_offset = 5");
    let error = place.fails("worker balance --until-end");
    for word in ["ad-events/0", "offset 5 comes next, but only 0 to 1 are there", "worker_offsets"] {
        assert!(error.contains(word), "{word:?} is not in: {error}");
    }
}

#[test]
fn topics_that_were_made_anew_are_refused() {
    let Some(place) = Place::new(1) else { return };
    let fill = |seconds: std::ops::Range<u32>| {
        place.produce("ad-events", &seconds.clone().map(|second| click(second, 1, 50)).collect::<Vec<_>>());
        let refunds = seconds.clone().map(|second| refund(&format!("r-{second}"), 1, "0.25"));
        place.produce("compensation-events", &refunds.collect::<Vec<_>>());
        let campaigns =
            seconds.map(|second| campaign_event("CAMPAIGN_UPDATE", &format!("09:00:{second:02}"), 1, "1.25"));
        place.produce("campaign-events", &campaigns.collect::<Vec<_>>());
    };
    let effects = || {
        let tables = ["balance_ledger", "campaigns", "worker_offsets"].map(|table| {
            let columns =
                "string_agg((to_jsonb(t) - ARRAY['owner', 'updated_at'])::text, '' ORDER BY t::text)";
            place.rows(&format!("SELECT count(*), {columns} FROM {table} t"))
        });
        (tables, place.budget(1))
    };
    // Read on, what is the same is no obstacle.
    for seconds in [0..3, 3..4] {
        fill(seconds);
        place.run("worker all --until-end");
    }
    let before = effects();
    assert_eq!(before.1, ("2.00".to_owned(), "1.00".to_owned()));
    place.make_topics_anew();
    fill(10..20);
    for (worker, topic) in [
        ("balance", "ad-events"),
        ("budget", "-events"),
        ("campaign-status", "campaign-events"),
        ("compensation", "compensation-events"),
    ] {
        let error = place.fails(&format!("worker {worker} --until-end"));
        for word in [&format!("{topic}/0 holds another record at offset 3"), "created anew", "postgres.url"] {
            assert!(error.contains(word), "{worker}: {word:?} is not in: {error}");
        }
        assert_eq!(effects(), before, "{worker}");
    }
    // Offsets that were committed without a mark are read on as ever.
    place.execute("UPDATE worker_offsets SET mark = NULL");
    place.run("worker balance --until-end");
    assert_eq!(place.rows("SELECT count(*) FROM balance_ledger WHERE entry_type = 'DEBIT'"), ["10"]);
}

#[test]
fn a_demonstration_is_filled_in_once() {
    let Some(place) = Place::new(1) else { return };
    place.produce("ad-events", &[click(0, 1, 1)]);
    place.run("worker balance --until-end");
    let init = "init-demo --set generator.ad_events=20000 --set generator.campaigns=300 \
                --set generator.campaign_events=300";
    place.run(init);
    let tables = || {
        ["advertisers", "campaigns", "product_metrics_cache", "product_meta_data"].map(|table| {
            place.rows(&format!(
                "SELECT count(*), md5(string_agg((to_jsonb(t) - 'updated_at')::text, '' ORDER BY t)) FROM {table} t"
            ))
        })
    };
    let first = tables();
    place.run(init);
    assert_eq!(tables(), first);
    assert_balanced(&place);
    assert_eq!(
        place.rows("SELECT balance - opening_balance FROM advertisers WHERE advertiser_id = 1"),
        ["-0.01"]
    );
    assert_eq!(place.rows("SELECT count(*) FROM campaigns WHERE budget > 0"), ["300"]);
}
