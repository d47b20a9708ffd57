//! The four workers on topic files and SQLite.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{Place, campaign, click, eventually, impression};

const ALL: &str = "worker --from in --data-dir out --until-end";

/// What the ledger holds: type, number, sum in cents.
const LEDGER: &str =
    "SELECT entry_type, count(*), sum(CAST(replace(amount, '.', '') AS INTEGER)) FROM balance_ledger
     GROUP BY entry_type ORDER BY entry_type DESC";

/// Advertisers whose balance is not opening balance - debits + credits, in cents.
const UNBALANCED: &str = "SELECT advertiser_id FROM advertisers a
     WHERE CAST(replace(balance, '.', '') AS INTEGER) <> CAST(replace(opening_balance, '.', '') AS INTEGER) + (
         SELECT coalesce(sum((CASE entry_type WHEN 'CREDIT' THEN 1 ELSE -1 END) * CAST(replace(amount, '.', '') AS INTEGER)), 0)
         FROM balance_ledger l WHERE l.advertiser_id = a.advertiser_id)";

/// Writes the compensations of the statements: three clicks of one device are two too many, which is 1.00.
fn with_refund() -> Place {
    let place = Place::new();
    let clicks =
        [click("10:00:00", 1, "d-1"), click("10:00:01", 1, "d-1"), click("10:00:02", 1, "d-1")].concat();
    place.write("in/ad-events.ndjson", clicks + &click("10:00:03", 2, "d-2") + &impression("10:06:00", 1));
    place.write(
        "in/campaign-events.ndjson",
        campaign("09:00:00", 1, "1.25") + &campaign("09:00:00", 2, "1.25"),
    );
    place
}

fn set_budget(place: &Place, campaign: u32, budget: &str) {
    let sql = format!(
        "INSERT INTO campaigns (campaign_id, budget, updated_at) VALUES ({campaign}, '{budget}', '')
         ON CONFLICT DO UPDATE SET budget = excluded.budget"
    );
    rusqlite::Connection::open(place.path("out/adtide.db")).unwrap().execute(&sql, []).unwrap();
}

/// What the workers have said in a file of campaign-events.
fn told(place: &Place, file: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(place.path(file)).unwrap_or_default();
    let events = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    events.filter(|event| event["source"] == "adtide-campaign-status").collect()
}

#[test]
fn a_click_of_the_statements_is_a_click_of_the_ledger_in_whatever_form_it_comes() {
    let place = Place::new();
    let time = "\"2026-01-05 10:00:00\"";
    let form = |old: &str, new: &str| {
        let click = click("10:00:00", 1, "d-1");
        assert!(click.contains(old), "{old}");
        click.replacen(old, new, 1)
    };
    let good = [
        form("{", "\u{feff}{"),
        form("0.50", "\"5e-1\""),
        form("0.50", "0.5000"),
        form("\"advertiser_id\":1", "\"advertiser_id\":1.0"),
        form(time, "\"2026-01-05t19:00:00.0004+0900\""),
        form(time, "1767607200000"),
        form("\"campaign_id\":1", "\"campaign_id\":\"none\""),
        form("\"d-1\"", "\"\""),
        form("\"d-1\"", "\"00000000-0000-0000-0000-000000000000\""),
        form("\"toys\"", "[]"),
    ];
    let bad = [
        form(time, "1767607200"),
        form(time, "\"2026-01-05 10:00\""),
        form("\"advertiser_id\":1", "\"advertiser_id\":\"N/A\""),
        form("\"product_id\":7", "\"product_id\":\"\""),
        form("0.50", "0.505"),
        form("{", "{\"payload\":{").replace('}', "}}"),
    ];
    place.write("in/ad-events.ndjson", good.concat() + &bad.concat() + &impression("10:06:00", 1));
    place.run("--from in --data-dir out").succeeded();
    assert_eq!(place.topic("dead-letter").len(), bad.len());
    let spend = "SELECT sum(click_count), sum(total_spend) FROM ad_performance_metrics_realtime";
    assert_eq!(place.rows(spend), ["9 4.5"], "one has no campaign");
    let outcome = place.run(ALL).succeeded();
    assert!(outcome.stderr.contains(&format!("bad={}", bad.len())), "{}", outcome.stderr);
    // Duplicates are the seven of campaign 1 and device d-1.
    assert_eq!(place.rows(LEDGER), ["DEBIT 10 500", "CREDIT 1 300"]);
    assert_eq!(place.rows(UNBALANCED), [""; 0]);
    place.run("verify --from in --data-dir out").verified(&[
        "performance",
        "refunds",
        "dead letters",
        "debits",
        "credits",
    ]);
}

#[test]
fn clicks_are_debited_and_refunds_credited_once() {
    let place = with_refund();
    place.append("in/ad-events.ndjson", "no record\n\n");
    place.run("--from in --data-dir out").succeeded();
    let outcome = place.run(ALL).succeeded();
    assert!(outcome.stderr.contains("bad=1"), "{}", outcome.stderr);
    assert_eq!(place.rows(LEDGER), ["DEBIT 4 200", "CREDIT 1 100"]);
    assert_eq!(place.rows("SELECT * FROM campaign_budget").len(), 2);
    let budgets = "SELECT campaign_id, spent, refunded FROM campaign_budget ORDER BY 1";
    assert_eq!(place.rows(budgets), ["1 1.50 1.00", "2 0.50 0.00"]);
    assert_eq!(place.rows("SELECT balance FROM advertisers"), ["-1.00"]);
    // Once more: nothing. More clicks, one of them without a line feed yet: those.
    place.run(ALL).succeeded();
    place.append("in/ad-events.ndjson", click("10:07:00", 1, "d-1") + click("10:07:01", 1, "d-1").trim_end());
    place.run(ALL).succeeded();
    assert_eq!(place.rows(LEDGER), ["DEBIT 6 300", "CREDIT 1 100"]);
    assert_eq!(place.rows(budgets), ["1 2.50 1.00", "2 0.50 0.00"]);
    assert_eq!(place.rows(UNBALANCED), Vec::<String>::new());
}

#[test]
fn only_committed_refunds_are_paid() {
    let place = with_refund();
    place.run("--from in --data-dir out").succeeded();
    let more = std::fs::read_to_string(place.path("out/topics/compensation-events.ndjson")).unwrap();
    place.append(
        "out/topics/compensation-events.ndjson",
        more.replace("\"compensation_id\":\"", "\"compensation_id\":\"x"),
    );
    place.run(ALL).succeeded();
    assert_eq!(place.rows(LEDGER), ["DEBIT 4 200", "CREDIT 1 100"]);
}

#[test]
fn an_exhausted_campaign_leaves_its_ranking_and_a_refund_brings_it_back() {
    let place = with_refund();
    // Only campaign-status knows of the refund when it is told to look again.
    place.run("worker balance --from in --data-dir out --until-end").succeeded();
    set_budget(&place, 1, "1.00");
    set_budget(&place, 2, "0.51");
    place.run("worker campaign-status --from in --data-dir out --until-end").succeeded();
    let paused = told(&place, "in/campaign-events.ndjson");
    assert_eq!(paused.len(), 1, "{paused:?}");
    assert_eq!(paused[0]["event_type"], "CAMPAIGN_PAUSE");
    assert_eq!(paused[0]["campaign_id"], 1);
    let ranked = || {
        place.rows(
            "SELECT json_extract(value, '$.campaign_id') FROM rtb_ranking_cache, json_each(ranking_list)",
        )
    };
    place.run("--from in --data-dir out").succeeded();
    assert_eq!(ranked(), ["2"]);

    place.run(ALL).succeeded();
    let told = told(&place, "in/campaign-events.ndjson");
    assert_eq!(told.len(), 2, "{told:?}");
    assert_eq!(told[1]["event_type"], "CAMPAIGN_ACTIVATE");
    assert_eq!(told[1]["bid_price"].to_string(), "1.25");
    assert_eq!(place.rows("SELECT budget_status FROM campaigns WHERE campaign_id = 1"), ["WITHIN_BUDGET"]);
    place.run("--from in --data-dir out").succeeded();
    assert_eq!(ranked(), ["1", "2"]);
    place.run("verify --from in --data-dir out").succeeded();
}

#[test]
fn in_a_folder_of_partitions_the_workers_have_one_of_their_own() {
    let place = with_refund();
    std::fs::remove_file(place.path("in/campaign-events.ndjson")).unwrap();
    place.write("in/campaign-events/0.ndjson", campaign("09:00:00", 1, "1.25"));
    place.write("in/campaign-events/3.ndjson", campaign("09:00:00", 2, "1.25"));
    place.run(ALL).succeeded();
    set_budget(&place, 1, "1.00");
    place.run(ALL).succeeded();
    assert_eq!(told(&place, "in/campaign-events/4.ndjson").len(), 1);
    // A line that a crash has torn takes none with it; and the partition stays the same one.
    place.append("in/campaign-events/4.ndjson", "{\"event_ty");
    place.write("in/campaign-events/5.ndjson", "");
    set_budget(&place, 2, "0.10");
    place.run(ALL).succeeded();
    let text = std::fs::read_to_string(place.path("in/campaign-events/4.ndjson")).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert!(lines[2].contains("\"campaign_id\":2"), "{text}");
}

#[test]
fn an_owners_last_line_without_line_feed_stays_whole() {
    let place = with_refund();
    let owners = campaign("09:00:00", 1, "1.25") + &campaign("09:00:00", 2, "1.25");
    place.write("in/campaign-events.ndjson", owners.trim_end());
    place.run(ALL).succeeded();
    set_budget(&place, 1, "1.00");
    place.run(ALL).succeeded();
    let text = std::fs::read_to_string(place.path("in/campaign-events.ndjson")).unwrap();
    assert!(text.starts_with(&owners), "{text}");
    assert_eq!(told(&place, "in/campaign-events.ndjson").len(), 1);
    assert_eq!(
        place.rows("SELECT campaign_id FROM campaigns WHERE status = 'ACTIVE' ORDER BY 1"),
        ["1", "2"]
    );
}

#[test]
fn what_is_left_out_is_kept_and_large_refunds_and_odd_texts_are_not() {
    let place = with_refund();
    place.append("in/ad-events.ndjson", "no record\n");
    place.append("in/campaign-events.ndjson", campaign("09:00:00", 3, "1.25").replace("top", "t\\u0000p"));
    place.run("--from in --data-dir out").succeeded();
    // Refunds as nobody but adtide writes them, and behind what it has committed: the progress is made to
    // cover them.
    let path = "out/topics/compensation-events.ndjson";
    let first = std::fs::read_to_string(place.path(path)).unwrap();
    let refund = |id: &str, amount: &str| {
        first
            .replace("1.00", amount)
            .replace("\"compensation_id\":\"", &format!("\"compensation_id\":\"{id}"))
    };
    let large = "10000000000000.01";
    let more = [
        refund(&"x".repeat(9000), large),
        refund("y\\u0000", large),
        refund("z", "92233720368547758.08"),
        refund("w", "-1.00"),
        first.replace("\"compensation_id\":\"", "\"compensation\":\""),
    ];
    place.append(path, more.concat());
    let progress = std::fs::read_to_string(place.path("out/topics/.adtide-progress.json")).unwrap();
    let mut progress: Value = serde_json::from_str(&progress).unwrap();
    progress["lengths"]["compensation-events"] = std::fs::metadata(place.path(path)).unwrap().len().into();
    std::fs::write(place.path("out/topics/.adtide-progress.json"), progress.to_string()).unwrap();
    let outcome = place.run(ALL).succeeded();
    assert!(
        outcome.stderr.contains("WARN") && outcome.stderr.contains("worker_dead_letters"),
        "{}",
        outcome.stderr
    );
    let credits =
        "SELECT amount FROM balance_ledger WHERE entry_type = 'CREDIT' ORDER BY partition, \"offset\"";
    assert_eq!(place.rows(credits), ["1.00", large, large]);
    assert_eq!(place.rows("SELECT balance FROM advertisers"), ["19999999999999.02"]);
    let left_out = "SELECT worker, topic, \"offset\", reason FROM worker_dead_letters ORDER BY 1, 2, 3";
    let of = |worker: &str| {
        let refunds = ["3 bad_money", "4 negative_money", "5 ill_typed_field"];
        refunds.map(|refund| format!("{worker} compensation-events {refund}"))
    };
    let ads = |worker: &str| format!("{worker} ad-events 5 not_json");
    let mut expected = vec![ads("balance"), ads("budget")];
    expected.extend(of("budget"));
    expected.extend(of("compensation"));
    assert_eq!(place.rows(left_out), expected);
    let record = "SELECT json_extract(record, '$.value') FROM worker_dead_letters WHERE worker = 'balance'";
    assert_eq!(place.rows(record), ["no record"]);
    assert_eq!(place.rows("SELECT count(*) FROM campaigns WHERE status = 'ACTIVE'"), ["3"]);
    place.run(ALL).succeeded();
    assert_eq!(place.rows(left_out), expected);
    assert_eq!(place.rows(UNBALANCED), Vec::<String>::new());
}

#[test]
fn workers_follow_files_that_grow() {
    let place = with_refund();
    let mut running = place.start("all", "worker --from in --data-dir out --set worker.status_interval=50ms");
    place.await_rows(LEDGER, &["DEBIT 4 200"]);
    set_budget(&place, 2, "1.00");
    // Half a line is no record yet.
    let next = click("10:07:00", 2, "d-3");
    place.append("in/ad-events.ndjson", &next[..50]);
    place.append("in/ad-events.ndjson", &next[50..]);
    place.await_rows(LEDGER, &["DEBIT 5 250"]);
    assert!(eventually(|| told(&place, "in/campaign-events.ndjson").len() == 1), "it is not paused");
    // The statements come later, on their own.
    place.run("--from in --data-dir out").succeeded();
    place.await_rows(LEDGER, &["DEBIT 5 250", "CREDIT 1 100"]);
    place.run("worker balance --from in --data-dir out").failed_saying(&["another", "out"]);
    running.end(Signal::SIGTERM).succeeded();
}

#[test]
fn killed_at_any_moment_no_click_is_lost_and_none_counted_twice() {
    let place = Place::new();
    place.run("generate --to in --ad-events 150000 --campaign-events 500 --campaigns 300").succeeded();
    place.run("--from in --data-dir out").succeeded();
    place.run("worker all --from in --data-dir whole --until-end").succeeded();
    let mut caught_at_work = 0;
    for seed in 1..=8_u64 {
        let running = place.start(&format!("crash-{seed}"), "worker all --from in --data-dir out");
        std::thread::sleep(Duration::from_millis(20 + seed * 7919 % 300));
        drop(running);
        let done = place.rows("SELECT count(*) FROM balance_ledger").concat().parse::<u64>().unwrap_or(0);
        caught_at_work += u64::from((1..4000).contains(&done));
    }
    assert!(caught_at_work > 0, "it was never killed at work");
    place.run("worker all --from in --data-dir out --until-end").succeeded();
    assert_eq!(place.rows(UNBALANCED), Vec::<String>::new());
    let entries =
        "SELECT topic, partition, \"offset\", advertiser_id, campaign_id, amount FROM balance_ledger
         WHERE entry_type = 'DEBIT' ORDER BY 1, 2, 3";
    let whole = place.rows_in("whole", entries);
    assert!(whole.len() > 4000, "{}", whole.len());
    assert!(place.rows(entries) == whole, "other debits than of one run without a crash");
    let spent = "SELECT campaign_id, spent FROM campaign_budget ORDER BY 1";
    assert_eq!(place.rows(spent), place.rows_in("whole", spent));
    let refunds = place.topic("compensation-events").len();
    assert!(refunds > 0);
    assert_eq!(
        place.rows("SELECT count(*) FROM balance_ledger WHERE entry_type = 'CREDIT'"),
        [refunds.to_string()]
    );
}

#[test]
fn the_demonstration_exhausts_some_budgets() {
    let place = Place::new();
    place.run("generate --to in").succeeded();
    place.run("--from in --data-dir out").succeeded();
    place.run("init-demo --data-dir out").succeeded();
    let before = place.rows("SELECT count(*), sum(CAST(replace(budget, '.', '') AS INTEGER)) FROM campaigns");
    place.run("init-demo --data-dir out").succeeded();
    assert_eq!(
        place.rows("SELECT count(*), sum(CAST(replace(budget, '.', '') AS INTEGER)) FROM campaigns"),
        before
    );
    // First the debits alone, so that those are seen which refunds bring back.
    let exhausted = || {
        let rows = place.rows("SELECT count(*) FROM campaigns WHERE budget_status = 'BUDGET_EXHAUSTED'");
        rows[0].parse::<usize>().unwrap()
    };
    for worker in ["balance", "campaign-status"] {
        place.run(&format!("worker {worker} --from in --data-dir out --until-end")).succeeded();
    }
    let first = exhausted();
    assert!((100..=200).contains(&first), "{first} of 2000");
    place.run(ALL).succeeded();
    assert!(exhausted() + 5 < first, "refunds bring none back: {first} before, {} after", exhausted());
    // Also what verify recomputes of the ledger.
    let outcome = place.run("verify --from in --data-dir out").succeeded();
    outcome.says(&["verified", "balances", "debits", "credits", "budgets"]);
}

#[test]
fn a_run_that_starts_over_beside_the_ledger_pays_each_refund_once() {
    let place = Place::new();
    // Refunds of 200 devices, in another order by each number of workers, and more that come late.
    let clicks = |at: &str, partition: u32| -> String {
        (0..200)
            .filter(|device| device % 4 == partition)
            .map(|device| click(at, 1, &format!("d-{device}")))
            .collect()
    };
    for partition in 0..4 {
        let on_time =
            clicks("10:00:00", partition) + &clicks("10:00:01", partition) + &impression("10:06:00", 1);
        let late = clicks("10:00:02", partition) + &impression("10:20:00", 1);
        place.write(&format!("in/ad-events/{partition}.ndjson"), on_time + &late);
    }
    place.write("in/campaign-events.ndjson", campaign("09:00:00", 1, "1.25"));
    let credited = "SELECT count(*) > 0, sum(CAST(replace(amount, '.', '') AS INTEGER)) FROM balance_ledger
         WHERE entry_type = 'CREDIT'";
    place.run("--from in --data-dir out -w 1").succeeded();
    let mut running = place.start("all", "worker --from in --data-dir out");
    place.await_rows(credited, &["1 20000"]);
    for workers in [3, 1, 2] {
        place.run(&format!("--from in --data-dir out -w {workers}")).succeeded();
        place.await_rows(credited, &["1 20000"]);
    }
    running.end(Signal::SIGTERM).succeeded();
    place.run(ALL).succeeded();
    assert_eq!(place.rows(UNBALANCED), Vec::<String>::new());
    assert_eq!(place.rows("SELECT spent, refunded FROM campaign_budget"), ["300.00 200.00"]);
    place.run("verify --from in --data-dir out").verified(&["refunds"]);
    // A ledger that has read a part of the old refunds, and is not there while the run starts over.
    place.run("--from in --data-dir out -w 4").succeeded();
    let outcome = place.run("verify --from in --data-dir out").succeeded();
    outcome.says(&["credits               0 compared"]);
    place.run(ALL).succeeded();
    assert_eq!(place.rows(credited), ["1 20000"]);
    place.run("verify --from in --data-dir out").verified(&["refunds"]);
}

#[test]
fn the_ledger_follows_files_that_are_rotated() {
    let place = with_refund();
    let mut running = place.start("all", "worker --from in --data-dir out");
    place.await_rows(LEDGER, &["DEBIT 4 200"]);
    place.rotate("in/ad-events.ndjson", 1);
    place.write("in/ad-events.ndjson", click("10:07:00", 1, "d-4"));
    place.await_rows(LEDGER, &["DEBIT 5 250"]);
    running.end(Signal::SIGTERM).succeeded();
    // While it is not running: more in the file that it knows, which is then rotated away.
    place.append("in/ad-events.ndjson", click("10:07:01", 1, "d-5"));
    place.rotate("in/ad-events.ndjson", 2);
    place.write("in/ad-events.ndjson", click("10:07:02", 1, "d-6"));
    place.run(ALL).succeeded();
    assert_eq!(place.rows(LEDGER), ["DEBIT 7 350"]);
    let offsets = "SELECT \"offset\" FROM balance_ledger ORDER BY 1";
    assert_eq!(place.rows(offsets), ["0", "1", "2", "3", "5", "6", "7"]);
}

#[test]
fn what_workers_cant_work_on_is_named() {
    let place = with_refund();
    place.run("worker --data-dir out").failed_saying(&["source.from", "--from"]);
    place.run("worker --from in --set sink.kind=none").failed_saying(&[
        "source.kind",
        "sink.kind",
        "embedded",
    ]);
    place.run(ALL).succeeded();
    place.write("in/ad-events.ndjson", click("10:00:00", 1, "d-1"));
    place.run(ALL).failed_saying(&["in/ad-events.ndjson", "written anew", "another data folder"]);
}
