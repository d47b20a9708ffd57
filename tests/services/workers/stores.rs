//! The guard of each store: who may commit, and what a commit that is told twice does.

use std::collections::BTreeMap;

use adtide::connect::Url;
use adtide::connect::postgres::PostgresConfig;
use adtide::connect::redis::RedisConfig;
use adtide::ledger::feed::{Mark, Partition};
use adtide::ledger::store::postgres::PostgresLedger;
use adtide::ledger::store::redis::RedisBudgets;
use adtide::ledger::store::sqlite::SqliteStore;
use adtide::ledger::store::{
    Advance, BudgetChanges, Budgets, Entry, EntryType, Ledger, Offsets, Outcome, Posted, Refund, Step,
};
use adtide_dataflows::model::{EventTime, Money};
use adtide_dataflows::operators::Fingerprint;
use std::time::Duration;

use super::place::Place;

const EIGHT: EventTime = EventTime(1_767_600_000_000);

fn partition() -> Partition {
    Partition { topic: "ad-events".to_owned(), number: 0 }
}

fn advance(expected: u64, next: u64) -> [Advance; 1] {
    let mark = Some(Mark::Record(Fingerprint { offset: next - 1, hash: u64::MAX }));
    [Advance { partition: partition(), expected, next, mark }]
}

fn step<'a>(owner: &'a str, advances: &'a [Advance]) -> Step<'a> {
    Step { worker: "test-balance", owner, advances }
}

fn credit(offset: u64, id: &str) -> Entry {
    Entry {
        entry_type: EntryType::Credit,
        advertiser_id: 1,
        campaign_id: Some(1),
        amount: Money(150),
        event_time: EIGHT,
        partition: partition(),
        offset,
        compensation_id: Some(id.to_owned()),
    }
}

/// What every ledger must do.
fn check_ledger(mut one: impl Ledger, mut other: impl Ledger) {
    let posted = |entries, cents, new_advertisers| {
        Outcome::Applied(Posted { entries, amount: Money(cents), new_advertisers })
    };
    assert_eq!(one.claim("test-balance", "one", &partition(), 3).unwrap(), 3);
    let advances = advance(3, 5);
    let entries = [credit(3, "r-1"), credit(4, "r-1")];
    assert_eq!(
        one.post(step("one", &advances), &entries).unwrap(),
        posted(1, 150, 1),
        "a repeat in one batch"
    );
    assert_eq!(
        one.post(step("one", &advances), &entries).unwrap(),
        Outcome::AppliedBefore,
        "the answer was lost"
    );

    // The other goes on where the one has committed. From then on the one is a zombie.
    assert_eq!(other.claim("test-balance", "other", &partition(), 0).unwrap(), 5);
    assert_eq!(other.mark("test-balance", &partition()).unwrap(), advances[0].mark);
    let advances = advance(5, 6);
    assert_eq!(one.post(step("one", &advances), &[credit(5, "r-2")]).unwrap(), Outcome::Fenced);
    let wrong = advance(4, 6);
    assert_eq!(
        other.post(step("other", &wrong), &[credit(5, "r-2")]).unwrap(),
        Outcome::Fenced,
        "not where it stands"
    );
    let repeat = [credit(5, "r-1")];
    assert_eq!(
        other.post(step("other", &advances), &repeat).unwrap(),
        posted(0, 0, 0),
        "a repeat in a later batch"
    );
    let advances = advance(6, 7);
    let debit =
        Entry { entry_type: EntryType::Debit, compensation_id: None, amount: Money(1), ..credit(6, "") };
    assert_eq!(other.post(step("other", &advances), &[debit]).unwrap(), posted(1, 1, 0));
    // Only part of a step's partitions is no step at all.
    let both = [
        advance(7, 8),
        [Advance { partition: Partition { number: 1, ..partition() }, expected: 0, next: 1, mark: None }],
    ];
    assert_eq!(other.post(step("other", both.as_flattened()), &[credit(7, "r-3")]).unwrap(), Outcome::Fenced);
    assert_eq!(other.claim("test-balance", "other", &partition(), 0).unwrap(), 7);
}

#[test]
fn a_commit_counts_once_and_only_the_owners_in_postgresql() {
    let Some(place) = Place::new(1) else { return };
    let open = || {
        let url = Url::new(place.postgres.clone());
        PostgresLedger::new(PostgresConfig { url, ..PostgresConfig::default() }, "test")
    };
    check_ledger(open(), open());
    assert_eq!(place.rows("SELECT opening_balance, balance FROM advertisers"), ["0.00 1.49"]);
    assert_eq!(place.rows("SELECT debits, credits FROM campaigns"), ["0.01 1.50"]);
    assert_eq!(
        place.rows("SELECT entry_type, amount, \"offset\" FROM balance_ledger"),
        ["CREDIT 1.50 3", "DEBIT 0.01 6"]
    );
}

/// What every store of budgets must do.
fn check_budgets(mut one: impl Budgets, mut other: impl Budgets) {
    let refund = |id: &str, cents| Refund {
        compensation_id: id.to_owned(),
        window_start: EIGHT,
        campaign_id: i64::MAX,
        amount: Money(cents),
    };
    let changes =
        |cents, refunds| BudgetChanges { spent: BTreeMap::from([(i64::MAX, Money(cents))]), refunds };
    let some = changes(1234, vec![refund("r-1", 5), refund("r-1", 5)]);
    assert_eq!(one.claim("test-budget", "one", &partition(), 3).unwrap(), 3);
    let advances = advance(3, 5);
    let budget_step = |owner, advances| Step { worker: "test-budget", owner, advances };
    assert_eq!(one.change(budget_step("one", &advances), &some).unwrap(), Outcome::Applied((1, Money(5))));
    assert_eq!(one.change(budget_step("one", &advances), &some).unwrap(), Outcome::AppliedBefore);
    assert_eq!(other.claim("test-budget", "other", &partition(), 0).unwrap(), 5);
    assert_eq!(other.mark("test-budget", &partition()).unwrap(), advances[0].mark);
    let advances = advance(5, 6);
    assert_eq!(one.change(budget_step("one", &advances), &some).unwrap(), Outcome::Fenced);
    let more = changes(9_007_199_254_739_750, vec![refund("r-1", 5), refund("r-2", 7)]);
    assert_eq!(
        other.change(budget_step("other", &advances), &more).unwrap(),
        Outcome::Applied((1, Money(7)))
    );
}

#[test]
fn a_commit_counts_once_and_only_the_owners_in_redis() {
    let Some(place) = Place::new(1) else { return };
    let open = |name: &str| {
        let config = RedisConfig { url: Url::new(place.redis.clone()), ..RedisConfig::default() };
        RedisBudgets::new(config, name, Duration::from_secs(60))
    };
    check_budgets(open("test"), open("test"));
    let mut redis = redis::Client::open(&*place.redis).unwrap().get_connection().unwrap();
    let budget: (String, String) = redis::cmd("HMGET")
        .arg(&["budget:campaign:9223372036854775807", "spent", "refunded"])
        .query(&mut redis)
        .unwrap();
    assert_eq!(budget, ("90071992547409.84".to_owned(), "0.12".to_owned()), "exact below 2^53 cents");
    // Beyond what Lua's own numbers hold.
    let mut budgets = open("test");
    for (offset, cents) in [(6, 9_223_372_036_854_775_807), (7, 9_223_372_036_854_775_807), (8, 1)] {
        let changes =
            BudgetChanges { spent: BTreeMap::from([(i64::MAX, Money(cents))]), refunds: Vec::new() };
        let advances = advance(offset, offset + 1);
        let applied =
            budgets.change(Step { worker: "", owner: "other", advances: &advances }, &changes).unwrap();
        assert_eq!(applied, Outcome::Applied((0, Money(0))));
    }
    let spent: String =
        redis::cmd("HGET").arg(&["budget:campaign:9223372036854775807", "spent"]).query(&mut redis).unwrap();
    assert_eq!(spent, "184557512729642925.99");
    // Another deployment would count every click once more.
    let error = open("second").claim("", "third", &partition(), 0).unwrap_err().into_error().to_string();
    assert!(error.contains("\"test\"") && error.contains("redis.url"), "{error}");
}

#[test]
fn a_commit_counts_once_and_only_the_owners_in_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let open = || SqliteStore::open(&folder.path().join("adtide.db")).unwrap();
    check_ledger(open(), open());
    check_budgets(open(), open());
}
