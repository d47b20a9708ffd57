//! The ledger of a small run, written by hand: right entries pass, wrong ones are told.

use super::Report;
use super::compare_tests::{compensation, compensation_id, verified};

/// Three clicks at 1.50, two of them paid back by one compensation.
fn ledger() -> String {
    format!(
        "DROP TABLE advertisers; DROP TABLE campaigns; DROP TABLE balance_ledger; DROP TABLE worker_offsets;
         DROP TABLE campaign_budget;
         CREATE TABLE advertisers(advertiser_id INTEGER, opening_balance TEXT, balance TEXT);
         CREATE TABLE campaigns(campaign_id INTEGER, debits TEXT, credits TEXT, last_entry TEXT, status TEXT, state_time TEXT,
             state_partition INTEGER, state_offset INTEGER, advertiser_id INTEGER, product_id INTEGER, placement TEXT,
             category TEXT, bid_price TEXT);
         CREATE TABLE balance_ledger(entry_id INTEGER PRIMARY KEY, entry_type TEXT, advertiser_id INTEGER,
             campaign_id INTEGER, amount TEXT, event_time TEXT, topic TEXT, partition INTEGER, \"offset\" INTEGER, compensation_id TEXT);
         CREATE TABLE worker_offsets(worker TEXT, topic TEXT, partition INTEGER, next_offset INTEGER);
         CREATE TABLE campaign_budget(campaign_id INTEGER, spent TEXT, refunded TEXT);
         INSERT INTO advertisers VALUES (9, '1.00', '-0.50'), (10, '7.00', '7.00');
         INSERT INTO campaigns VALUES (5, '4.50', '3.00', '1970-01-01 00:00:03.000', 'ACTIVE', '1970-01-01 00:00:00.001', 0, 0,
                 9, 7, 'top', 'toys', '2.00'),
             (6, '0.00', '0.00', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
         INSERT INTO balance_ledger VALUES (1, 'DEBIT', 9, 5, '1.50', '1970-01-01 00:00:01.000', 'ad-events', 0, 1, NULL),
             (2, 'DEBIT', 9, 5, '1.50', '1970-01-01 00:00:03.000', 'ad-events', 0, 2, NULL), (3, 'DEBIT', 9, 5, '1.50', '1970-01-01 00:00:02.000', 'ad-events', 0, 3, NULL),
             (4, 'CREDIT', 9, 5, '3.00', '1970-01-01 00:00:00.000', 'compensation-events', 0, 0, '{}');
         INSERT INTO worker_offsets VALUES ('balance', 'ad-events', 0, 7), ('campaign-status', 'campaign-events', 0, 1), ('compensation', 'compensation-events', 0, 1),
             ('budget', 'ad-events', 0, 3), ('budget', 'compensation-events', 0, 0);
         INSERT INTO campaign_budget VALUES (5, '3.00', '0.00');",
        compensation_id(3)
    )
}

/// Verifies it with a change; how many differences balances, debits, credits and budgets have.
fn differences(sql: &str) -> ([u64; 4], Report) {
    let report = verified(&(ledger() + sql), &[compensation(3, "3.00")]);
    let ledger = report.ledger.clone().unwrap();
    let sections = [&ledger.balances, &ledger.debits, &ledger.credits, &ledger.budgets];
    (sections.map(|section| section.differences()), report)
}

#[track_caller]
fn assert_found(sql: &str, expected: [u64; 4], words: &str) {
    let (found, report) = differences(sql);
    assert_eq!(found, expected, "{sql}: {report}");
    assert!(report.to_string().contains(words), "{words:?} is not in {report}");
}

#[test]
fn a_right_ledger_is_verified() {
    let (found, report) = differences("");
    assert!(report.ok() && found == [0; 4], "{report}");
    let ledger = report.ledger.unwrap();
    let sections = [ledger.balances, ledger.debits, ledger.credits, ledger.budgets];
    assert_eq!(sections.map(|section| section.compared), [2, 3, 1, 3]);
}

#[test]
fn without_a_ledger_the_report_says_so() {
    let report = verified("", &[compensation(3, "3.00")]);
    assert_eq!(report.ledger, None);
    assert!(report.to_string().contains("ledger: there is none"), "{report}");
}

#[test]
fn a_balance_is_the_opening_balance_less_debits_plus_credits() {
    let wrong = "UPDATE advertisers SET balance = '0.50' WHERE advertiser_id = 9";
    assert_found(wrong, [1, 0, 0, 0], "expected a balance of 1.00 - 4.50 + 3.00 = -0.50, found 0.50");
    assert_found(
        "UPDATE advertisers SET balance = '7' WHERE advertiser_id = 10",
        [1, 0, 0, 0],
        "two amounts",
    );
    assert_found(
        "DELETE FROM advertisers WHERE advertiser_id = 9",
        [1, 0, 0, 0],
        "debits of 4.50 and credits of 3.00",
    );
}

#[test]
fn each_click_before_the_workers_offset_is_debited_once() {
    // Each changes the sums too.
    assert_found(
        "DELETE FROM balance_ledger WHERE entry_id = 2",
        [1, 1, 0, 1],
        r#"["ad-events",0,2]: expected"#,
    );
    let again =
        "INSERT INTO balance_ledger SELECT 9, entry_type, advertiser_id, campaign_id, amount, event_time,
        topic, partition, \"offset\", compensation_id FROM balance_ledger WHERE entry_id = 2";
    assert_found(again, [1, 1, 0, 1], "it once more");
    let other = "UPDATE balance_ledger SET amount = '1.49' WHERE entry_id = 2";
    assert_found(other, [1, 1, 0, 1], r#"expected amount="1.50", found amount="1.49""#);
    let elsewhere = "UPDATE balance_ledger SET advertiser_id = 10, campaign_id = 6 WHERE entry_id = 2";
    assert_found(elsewhere, [2, 1, 0, 2], "advertiser_id=9");
    let impression = "UPDATE balance_ledger SET \"offset\" = 0 WHERE entry_id = 1";
    assert_found(impression, [0, 2, 0, 0], r#"["ad-events",0,0]: expected nothing"#);
    // A worker that is not so far owes less.
    assert_found(
        "UPDATE worker_offsets SET next_offset = 3 WHERE worker = 'balance'",
        [0, 1, 0, 0],
        "expected nothing",
    );
    assert_found(
        "UPDATE balance_ledger SET entry_type = 'GIFT' WHERE entry_id = 1",
        [0, 2, 0, 0],
        "an entry of type",
    );
}

#[test]
fn each_compensation_before_the_workers_offset_is_credited_once_and_no_group_gets_more_than_it_is_owed() {
    assert_found("DELETE FROM balance_ledger WHERE entry_id = 4", [1, 0, 1, 1], "missing: 1");
    let invented = "INSERT INTO balance_ledger VALUES (9, 'CREDIT', 9, 5, '0.01', '1970-01-01 00:00:00.000',
        'compensation-events', 0, 5, 'x')";
    assert_found(invented, [1, 0, 1, 1], r#""x": expected nothing"#);
    let again =
        "INSERT INTO balance_ledger SELECT 9, entry_type, advertiser_id, campaign_id, amount, event_time,
        topic, partition, \"offset\", compensation_id FROM balance_ledger WHERE entry_id = 4";
    assert_found(again, [1, 0, 2, 1], "expected credits of at most 3.00, found 6.00");
    let behind = "UPDATE worker_offsets SET next_offset = 0 WHERE worker = 'compensation'";
    assert_found(behind, [0, 0, 1, 0], "expected nothing");
}

#[test]
fn campaigns_and_budgets_sum_up_what_their_workers_have_taken() {
    assert_found(
        "UPDATE campaigns SET debits = '4.51' WHERE campaign_id = 5",
        [0, 0, 0, 1],
        "debits=\"4.50\"",
    );
    assert_found("DELETE FROM campaigns WHERE campaign_id = 5", [0, 0, 0, 1], "found nothing");
    assert_found("UPDATE campaign_budget SET spent = '3.01'", [0, 0, 0, 1], r#"expected spent="3.00""#);
    assert_found("DELETE FROM campaign_budget", [0, 0, 0, 1], "missing: 1");
    let further = "UPDATE worker_offsets SET next_offset = next_offset + 1 WHERE worker = 'budget'";
    assert_found(further, [0, 0, 0, 1], r#"expected spent="4.50", refunded="3.00""#);
}

#[test]
fn the_times_of_entries_and_all_that_owners_want_are_compared() {
    let debit = "UPDATE balance_ledger SET event_time = '1970-01-01 00:00:01.001' WHERE entry_id = 1";
    assert_found(debit, [0, 1, 0, 0], "event_time=\"1970-01-01 00:00:01.000\"");
    let credit = "UPDATE balance_ledger SET event_time = '1970-01-01 00:00:00.001' WHERE entry_id = 4";
    assert_found(credit, [0, 0, 1, 0], "event_time=\"1970-01-01 00:00:00.000\"");
    for change in [
        "last_entry = '1970-01-01 00:00:02.999'",
        "status = 'PAUSED'",
        "state_time = '1970-01-01 00:00:00.000'",
        "state_partition = 1",
        "state_offset = 1",
        "advertiser_id = 8",
        "product_id = 8",
        "placement = 'side'",
        "category = NULL",
        "bid_price = '2.01'",
    ] {
        let column = change.split(' ').next().unwrap();
        assert_found(&format!("UPDATE campaigns SET {change} WHERE campaign_id = 5"), [0, 0, 0, 1], column);
    }
    let before = "UPDATE worker_offsets SET next_offset = 0 WHERE worker = 'campaign-status'";
    assert_found(before, [0, 0, 0, 1], "expected status=null");
    assert_found("DELETE FROM campaigns WHERE campaign_id = 5", [0, 0, 0, 1], "missing");
}
