//! PostgreSQL.

use std::net::SocketAddr;
use std::time::Duration;

use adtide::connect::postgres::PostgresConfig;
use adtide::connect::text::stored_text;
use adtide::connect::{Url, migrate};
use adtide::sink::postgres::{PostgresSink, stored};
use adtide::sink::{Change, Sink};
use adtide_dataflows::conversion_matcher::AttributionRow;
use adtide_dataflows::model::{AdId, Money};
use postgres::{Client, NoTls};

use super::proxy::Proxy;
use super::{TEXTS, address, attribution, commit, performance, run, says, unique};

/// A database that goes away with the test.
struct Database {
    server: String,
    name: String,
}

impl Database {
    /// None if there is no server.
    fn create() -> Option<Database> {
        let database = Database { server: address("ADTIDE_TEST_POSTGRES_URL")?, name: unique() };
        database.admin(&format!("CREATE DATABASE {}", database.name));
        Some(database)
    }

    fn admin(&self, statement: &str) {
        Client::connect(&self.server, NoTls).unwrap().batch_execute(statement).unwrap();
    }

    fn url(&self) -> String {
        let (server, _) = self.server.rsplit_once('/').unwrap();
        format!("{server}/{}", self.name)
    }

    fn config(&self) -> PostgresConfig {
        config(&self.url())
    }

    fn client(&self) -> Client {
        Client::connect(&self.url(), NoTls).unwrap()
    }

    fn open(&self) -> PostgresSink {
        PostgresSink::open(&self.config(), "adtide", run()).unwrap()
    }

    /// The rows of a query as text.
    fn rows(&self, query: &str) -> Vec<String> {
        let rows = self
            .client()
            .query(&format!("SELECT row_to_json(line)::text FROM ({query}) AS line"), &[])
            .unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }

    fn clicks(&self) -> Vec<String> {
        self.rows(
            "SELECT placement AS p, click_count AS n FROM ad_performance_metrics_realtime ORDER BY placement",
        )
    }

    fn orders(&self) -> Vec<String> {
        self.rows("SELECT order_id AS o, ad_id AS ad FROM conversion_attribution_results ORDER BY order_id")
    }

    fn stored(&self) -> Option<adtide::sink::Stored> {
        stored(&mut self.config().connect("test").unwrap(), "adtide").unwrap()
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.admin(&format!("DROP DATABASE {} WITH (FORCE)", self.name));
    }
}

fn config(url: &str) -> PostgresConfig {
    PostgresConfig {
        url: Url::new(url.to_owned()),
        connect_timeout: Duration::from_secs(20),
        ..PostgresConfig::default()
    }
}

#[test]
fn rows_are_written_with_every_column() {
    let Some(database) = Database::create() else { return };
    let mut sink = database.open();
    assert_eq!(sink.stored(), None);
    let rows = vec![
        Change::Performance(performance("top", 2), 1),
        Change::Attribution(attribution("o1", Some(AdId::Number(4))), 1),
        Change::Attribution(attribution("o2", None), 1),
    ];
    sink.commit(commit(1, vec![rows])).unwrap();
    let performance = database.rows("SELECT * FROM ad_performance_metrics_realtime");
    let [row] = performance.as_slice() else { panic!("{performance:?}") };
    let start = r#"{"id":1,"campaign_id":7,"product_id":8,"placement":"top","metric_time":"2026-01-05T08:00:00","impression_count":3,"click_count":2,"conversion_count":1,"total_spend":12.34,"total_revenue":0.05,"ctr":66.66666666666666,"cvr":50,"roas":0.004051863857374392,"updated_at":""#;
    assert!(row.starts_with(start) && row.ends_with(r#"","is_final":false}"#), "{row}");
    let attributions = database.rows("SELECT * FROM conversion_attribution_results ORDER BY order_id");
    let [with_ad, without] = attributions.as_slice() else { panic!("{attributions:?}") };
    let start = r#"{"ad_id":"4","campaign_id":7,"advertiser_id":9,"product_id":8,"order_id":"o1","revenue_amount":999.50,"time_to_conversion":61,"attribution_model":"LAST_CLICK","click_time":"2026-01-05T08:00:00","conversion_time":"2026-01-05T08:01:01.999","processed_at":""#;
    assert!(with_ad.starts_with(start), "{with_ad}");
    assert!(without.contains(r#""ad_id":null,"campaign_id":null"#), "{without}");
    let ages = "SELECT now() - updated_at < '1 minute' AS fresh FROM ad_performance_metrics_realtime";
    assert_eq!(database.rows(ages), [r#"{"fresh":true}"#]);
}

#[test]
fn epochs_of_a_commit_merge_into_the_rows_at_its_end() {
    let Some(database) = Database::create() else { return };
    let mut sink = database.open();
    let (one, two, three) = (performance("top", 1), performance("top", 2), performance("top", 3));
    sink.commit(commit(1, vec![vec![Change::Performance(one.clone(), 1)]])).unwrap();
    assert_eq!(database.clicks(), [r#"{"p":"top","n":1}"#]);
    let second = vec![Change::Performance(two.clone(), 1), Change::Performance(one, -1)];
    let third = vec![Change::Performance(two, -1), Change::Performance(three, 1)];
    let come = vec![
        Change::Attribution(attribution("stays", None), 1),
        Change::Attribution(attribution("goes", None), 1),
    ];
    let go = vec![Change::Attribution(attribution("goes", None), -1)];
    sink.commit(commit(3, vec![[second, come].concat(), [third, go].concat()])).unwrap();
    assert_eq!(database.clicks(), [r#"{"p":"top","n":3}"#]);
    assert_eq!(database.orders(), [r#"{"o":"stays","ad":null}"#]);
    let better = attribution("stays", Some(AdId::Text("ad".into())));
    let change =
        vec![Change::Attribution(attribution("stays", None), -1), Change::Attribution(better.clone(), 1)];
    sink.commit(commit(4, vec![change])).unwrap();
    assert_eq!(database.orders(), [r#"{"o":"stays","ad":"ad"}"#]);
    sink.commit(commit(5, vec![vec![Change::Attribution(better, -1)]])).unwrap();
    assert_eq!(database.orders(), [""; 0]);
}

#[test]
fn the_newest_conversion_of_an_order_is_the_result_and_the_one_before_it_when_that_goes() {
    let Some(database) = Database::create() else { return };
    let row = |seconds: i64, revenue: i64| {
        let row = attribution("o", None);
        let conversion_time = row.click_time.plus(seconds * 1000);
        AttributionRow { conversion_time, revenue_amount: Money(revenue), ..row }
    };
    let mut sink = database.open();
    let mut epoch = 0;
    let mut revenue_after = |changes: Vec<(AttributionRow, isize)>| {
        epoch += 1;
        let changes = changes.into_iter().map(|(row, diff)| Change::Attribution(row, diff)).collect();
        sink.commit(commit(epoch, vec![changes])).unwrap();
        database.rows("SELECT revenue_amount::text AS r FROM conversion_attribution_results").join(" ")
    };
    let is = |revenue: &str| format!(r#"{{"r":"{revenue}"}}"#);
    assert_eq!(revenue_after(vec![(row(1, 1), 1)]), is("0.01"));
    assert_eq!(revenue_after(vec![(row(3, 3), 1)]), is("0.03"));
    assert_eq!(revenue_after(vec![(row(2, 2), 1)]), is("0.03"));
    assert_eq!(
        revenue_after(vec![(row(3, 3), -1), (row(3, 4), 1), (row(1, 1), -1), (row(1, 5), 1)]),
        is("0.04")
    );
    assert_eq!(revenue_after(vec![(row(3, 4), -1)]), is("0.02"));
    assert_eq!(revenue_after(vec![(row(4, 6), 1), (row(5, 7), 1), (row(6, 8), 1)]), is("0.08"));
    assert_eq!(revenue_after(vec![(row(6, 8), -1), (row(5, 7), -1)]), is("0.06"));
    assert_eq!(revenue_after(vec![(row(4, 6), -1), (row(2, 2), -1)]), is("0.05"));
    assert_eq!(revenue_after(vec![(row(1, 5), -1)]), "");
    assert_eq!(database.rows("SELECT * FROM adtide_superseded_attributions"), [""; 0]);
}

#[test]
fn what_was_committed_is_read_back() {
    let Some(database) = Database::create() else { return };
    assert_eq!(database.stored(), None, "not even a table");
    let mut sink = database.open();
    assert_eq!(database.stored(), None, "a number only");
    for epoch in [1, 2] {
        sink.commit(commit(epoch, vec![])).unwrap();
        assert_eq!(database.stored(), super::stored(epoch));
    }
    drop(sink);
    let mut sink = database.open();
    assert_eq!(sink.stored(), super::stored(2));
    sink.commit(commit(3, vec![])).unwrap();
    assert_eq!(database.stored(), super::stored(3));
    assert_eq!(stored(&mut database.config().connect("test").unwrap(), "another").unwrap(), None);
}

#[test]
fn a_later_run_fences_an_earlier_one() {
    let Some(database) = Database::create() else { return };
    let mut first = database.open();
    first.commit(commit(1, vec![vec![Change::Performance(performance("top", 1), 1)]])).unwrap();
    let mut second = database.open();
    assert_eq!(second.stored(), super::stored(1));
    let error =
        first.commit(commit(2, vec![vec![Change::Performance(performance("top", 2), 1)]])).unwrap_err();
    says(&error, &[&"another run named \"adtide\" has taken over", &"(key name)"]);
    assert_eq!(database.clicks(), [r#"{"p":"top","n":1}"#]);
    assert_eq!(database.stored(), super::stored(1));
    second.commit(commit(2, vec![vec![Change::Performance(performance("top", 5), 1)]])).unwrap();
    let error =
        first.commit(commit(2, vec![vec![Change::Performance(performance("top", 2), 1)]])).unwrap_err();
    says(&error, &[&"has taken over"]);
    assert_eq!(database.clicks(), [r#"{"p":"top","n":5}"#]);
    let mut other = PostgresSink::open(&database.config(), "other", run()).unwrap();
    other.commit(commit(1, vec![])).unwrap();
    second.commit(commit(3, vec![])).unwrap();
}

/// A row that can't be written takes the whole commit with it.
#[test]
fn rows_and_progress_are_one() {
    let Some(database) = Database::create() else { return };
    let mut sink = database.open();
    sink.commit(commit(1, vec![])).unwrap();
    database
        .client()
        .batch_execute("ALTER TABLE conversion_attribution_results ADD CHECK (order_id <> 'bad')")
        .unwrap();
    let rows =
        vec![Change::Performance(performance("top", 1), 1), Change::Attribution(attribution("bad", None), 1)];
    let error = sink.commit(commit(2, vec![rows])).unwrap_err();
    says(&error, &[&"violates check constraint"]);
    assert_eq!(database.clicks(), [""; 0]);
    assert_eq!(database.stored(), super::stored(1));
}

#[test]
fn a_commit_whose_answer_was_lost_is_not_done_twice() {
    let Some(database) = Database::create() else { return };
    let direct: postgres::Config = database.url().parse().unwrap();
    let server = format!("127.0.0.1:{}", direct.get_ports()[0]);
    let proxy = Proxy::start(&server, b"COMMIT");
    let mut sink =
        PostgresSink::open(&config(&through(&database.url(), proxy.address)), "adtide", run()).unwrap();
    sink.commit(commit(1, vec![])).unwrap();
    // Counts how often the progress moves.
    database
        .client()
        .batch_execute(
            "CREATE TABLE moves (epoch bigint);
             CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
                 'BEGIN INSERT INTO moves VALUES (new.epoch); RETURN new; END';
             CREATE TRIGGER note AFTER UPDATE ON adtide_progress FOR EACH ROW EXECUTE FUNCTION note()",
        )
        .unwrap();
    proxy.arm();
    sink.commit(commit(2, vec![vec![Change::Performance(performance("top", 1), 1)]])).unwrap();
    assert!(proxy.has_cut());
    sink.commit(commit(3, vec![])).unwrap();
    assert_eq!(database.rows("SELECT epoch FROM moves ORDER BY 1"), [r#"{"epoch":2}"#, r#"{"epoch":3}"#]);
    assert_eq!(database.clicks(), [r#"{"p":"top","n":1}"#]);
}

/// The URL with the proxy's port.
fn through(url: &str, proxy: SocketAddr) -> String {
    let (credentials, place) = url.rsplit_once('@').unwrap();
    let (_, database) = place.rsplit_once('/').unwrap();
    format!("{credentials}@{proxy}/{database}")
}

#[test]
fn a_column_that_is_missing_is_found() {
    let Some(database) = Database::create() else { return };
    let config = database.config();
    let mut client = config.connect("test").unwrap();
    migrate::apply(&mut client, &config).unwrap();
    assert_eq!(migrate::missing_columns(&mut client, &config).unwrap(), Vec::<String>::new());
    client.batch_execute("ALTER TABLE campaigns DROP COLUMN bid_price; DROP TABLE worker_offsets").unwrap();
    let missing = migrate::missing_columns(&mut client, &config).unwrap().join("\n");
    assert!(missing.starts_with("table campaigns lacks the column bid_price numeric(10,2)\n"), "{missing}");
    assert!(missing.contains("table worker_offsets lacks the column next_offset"), "{missing}");
}

#[test]
fn a_statement_that_is_not_answered_fails_by_its_deadline() {
    let Some(database) = Database::create() else { return };
    let config = PostgresConfig { statement_timeout: Duration::from_secs(2), ..database.config() };
    let mut client = config.connect("test").unwrap();
    let started = std::time::Instant::now();
    assert!(client.execute("SELECT pg_sleep(100)", &[]).is_err());
    assert!(started.elapsed() < Duration::from_secs(60));
    assert!(client.is_closed());
    let mut client = config.connect("test").unwrap();
    let mut transaction = client.transaction().unwrap();
    assert!(transaction.query("SELECT pg_sleep(100)", &[]).is_err());
}

#[test]
fn a_connection_that_breaks_is_replaced() {
    let Some(database) = Database::create() else { return };
    let mut sink = database.open();
    sink.commit(commit(1, vec![])).unwrap();
    database
        .client()
        .batch_execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'adtide sink'
                            AND datname = current_database()",
        )
        .unwrap();
    sink.commit(commit(2, vec![vec![Change::Performance(performance("top", 1), 1)]])).unwrap();
    assert_eq!(database.stored(), super::stored(2));
    assert_eq!(database.clicks().len(), 1);
}

#[test]
fn progress_that_went_back_is_noticed() {
    let Some(database) = Database::create() else { return };
    let mut sink = database.open();
    for epoch in [1, 2] {
        sink.commit(commit(epoch, vec![])).unwrap();
    }
    database.client().batch_execute("UPDATE adtide_progress SET epoch = 1").unwrap();
    let error =
        sink.commit(commit(3, vec![vec![Change::Performance(performance("top", 1), 1)]])).unwrap_err();
    says(&error, &[&"holds epoch 1, though epoch 2 had been committed", &"start adtide again"]);
    assert_eq!(database.clicks(), [""; 0]);
}

#[test]
fn every_text_can_be_written() {
    let Some(database) = Database::create() else { return };
    let mut sink = database.open();
    let long: String = (0..300_000u32)
        .map(|i| char::from_u32(0x4E00 + i.wrapping_mul(2_654_435_761) % 0x5000).unwrap())
        .collect();
    let longer = format!("{long}!");
    let odd = ["a\0b", "a\u{FFFD}b", &long, &longer];
    let texts: Vec<&str> = TEXTS.into_iter().chain(odd).collect();
    let changes = |text: &&str| {
        let ad = AdId::Text((*text).into());
        [Change::Performance(performance(text, 1), 1), Change::Attribution(attribution(text, Some(ad)), 1)]
    };
    for epoch in [1, 2] {
        sink.commit(commit(epoch, vec![texts.iter().flat_map(changes).collect()])).unwrap();
    }
    let mut client = database.client();
    let mut held = |query: &str| -> Vec<String> {
        let mut texts: Vec<String> = client.query(query, &[]).unwrap().iter().map(|row| row.get(0)).collect();
        texts.sort();
        texts
    };
    let mut wanted: Vec<_> = texts.iter().map(|text| stored_text(text).into_owned()).collect();
    wanted.sort();
    assert_eq!(held("SELECT placement FROM ad_performance_metrics_realtime"), wanted);
    assert_eq!(held("SELECT order_id FROM conversion_attribution_results"), wanted);
    assert_eq!(held("SELECT ad_id FROM conversion_attribution_results"), wanted);
    for text in TEXTS {
        assert_eq!(stored_text(text), text);
    }
    assert!(stored_text("a\0b").starts_with("a\u{FFFD}b…"));
    let gone = texts.iter().map(|text| Change::Attribution(attribution(text, None), -1)).collect();
    sink.commit(commit(3, vec![gone])).unwrap();
    assert_eq!(held("SELECT order_id FROM conversion_attribution_results"), [""; 0]);
}

#[test]
fn the_greatest_amounts_fit() {
    let Some(database) = Database::create() else { return };
    let mut sink = database.open();
    let mut row = performance("top", i64::MAX);
    (row.sums.spend, row.sums.revenue) = (Money(i64::MAX), Money(i64::MAX));
    let mut sale = attribution("o", None);
    sale.revenue_amount = Money::MAX_REVENUE;
    sink.commit(commit(1, vec![vec![Change::Performance(row, 1), Change::Attribution(sale, 1)]])).unwrap();
    let sums = database
        .rows("SELECT total_spend::text AS s, total_revenue::text AS r FROM ad_performance_metrics_realtime");
    assert_eq!(sums, [r#"{"s":"92233720368547758.07","r":"92233720368547758.07"}"#]);
    let revenue = database.rows("SELECT revenue_amount::text AS r FROM conversion_attribution_results");
    assert_eq!(revenue, [r#"{"r":"9999999999999.99"}"#]);
}

#[test]
fn what_does_not_pass_by_itself_is_said_at_once() {
    let Some(database) = Database::create() else { return };
    let open = |url: &str| PostgresSink::open(&config(url), "adtide", run()).err().unwrap();
    let parsed: postgres::Config = database.url().parse().unwrap();
    let password = String::from_utf8(parsed.get_password().unwrap().to_vec()).unwrap();
    let error = open(&database.url().replace(&format!(":{password}@"), ":wr0ng@"));
    says(&error, &[&"check the user and the password in postgres.url", &":***@"]);
    assert!(!format!("{error:#}").contains("wr0ng"));
    says(&open(&format!("{}x", database.url())), &[&"create the database, or name another in postgres.url"]);
    says(&open("nonsense"), &[&"postgres.url"]);
    let mut sink = database.open();
    database.client().batch_execute("DROP TABLE conversion_attribution_results").unwrap();
    let error =
        sink.commit(commit(1, vec![vec![Change::Attribution(attribution("o", None), 1)]])).unwrap_err();
    says(&error, &[&"run `adtide migrate`"]);
}

#[test]
fn a_database_of_another_encoding_is_refused() {
    let Some(database) = Database::create() else { return };
    let latin = Database { server: database.server.clone(), name: unique() };
    latin.admin(&format!("CREATE DATABASE {} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0", latin.name));
    let error = PostgresSink::open(&latin.config(), "adtide", run()).err().unwrap();
    says(&error, &[&"encoded in LATIN1", &"WITH ENCODING 'UTF8'"]);
}

#[test]
fn migrations_run_once_however_many_start() {
    let Some(database) = Database::create() else { return };
    let apply =
        || migrate::apply(&mut database.config().connect("test").unwrap(), &database.config()).unwrap();
    let applied: Vec<String> = std::thread::scope(|scope| {
        let starts: Vec<_> = (0..4).map(|_| scope.spawn(apply)).collect();
        starts.into_iter().flat_map(|start| start.join().unwrap()).collect()
    });
    assert_eq!(applied.first().map(String::as_str), Some("V1__results"));
    let book = database.rows("SELECT count(*) AS n FROM refinery_schema_history");
    assert_eq!(book, [format!(r#"{{"n":{}}}"#, applied.len())]);
    assert!(apply().is_empty());
    database.client().batch_execute("UPDATE refinery_schema_history SET checksum = '1'").unwrap();
    let error = PostgresSink::open(&database.config(), "adtide", run()).err().unwrap();
    says(&error, &[&"another version of adtide"]);
}

/// Tables as the first version made them, with a row each.
const OLDER: &str = "
    INSERT INTO ad_performance_metrics_realtime (campaign_id, product_id, placement, window_start, window_end,
        impression_count, click_count, conversion_count, total_spend, total_revenue, ctr, cvr, roas, is_final, updated_at)
    VALUES (7, 8, 'top', '2026-01-05 08:00', '2026-01-05 08:05', 3, 1, 1, 12.34, 0.05, 1, 2, 3, true, '2026-01-05 08:06Z'),
        (7, 8, 'side', '2026-01-05 08:05', '2026-01-05 08:10', 0, 0, 0, 0, 0, 0, 0, 0, false, '2026-01-05 08:06Z');
    INSERT INTO conversion_attribution_results VALUES ('o1', 8, 'LAST_CLICK', '4', 7, 9, 999.50, 61,
        '2026-01-05 08:00', '2026-01-05 08:01:01.999', '2026-01-05 08:06Z');
    GRANT SELECT ON ad_performance_metrics_realtime, conversion_attribution_results TO PUBLIC";

#[test]
fn tables_of_an_older_version_get_the_columns_of_this_one_and_keep_their_rows_and_grants() {
    let Some(database) = Database::create() else { return };
    let step = |name, sql| refinery::Migration::unapplied(name, sql).unwrap();
    let steps = [
        step("V1__results", include_str!("../../../migrations/V1__results.sql")),
        step("V2__ledger", include_str!("../../../migrations/V2__ledger.sql")),
    ];
    let connect = || database.config().connect("test").unwrap();
    connect().migrate(&refinery::Runner::new(&steps).set_grouped(true)).unwrap();
    database.client().batch_execute(OLDER).unwrap();
    let applied = migrate::apply(&mut connect(), &database.config()).unwrap();
    assert_eq!(applied.first().map(String::as_str), Some("V3__columns"));
    database.admin(&format!("ALTER DATABASE {} SET timezone TO 'UTC'", database.name));
    assert_eq!(
        database.rows("SELECT * FROM ad_performance_metrics_realtime ORDER BY id"),
        [
            r#"{"id":1,"campaign_id":7,"product_id":8,"placement":"top","metric_time":"2026-01-05T08:00:00","impression_count":3,"click_count":1,"conversion_count":1,"total_spend":12.34,"total_revenue":0.05,"ctr":1,"cvr":2,"roas":3,"updated_at":"2026-01-05T08:06:00+00:00","is_final":true}"#,
            r#"{"id":2,"campaign_id":7,"product_id":8,"placement":"side","metric_time":"2026-01-05T08:05:00","impression_count":0,"click_count":0,"conversion_count":0,"total_spend":0.00,"total_revenue":0.00,"ctr":0,"cvr":0,"roas":0,"updated_at":"2026-01-05T08:06:00+00:00","is_final":false}"#
        ]
    );
    assert_eq!(
        database.rows("SELECT * FROM conversion_attribution_results"),
        [
            r#"{"ad_id":"4","campaign_id":7,"advertiser_id":9,"product_id":8,"order_id":"o1","revenue_amount":999.50,"time_to_conversion":61,"attribution_model":"LAST_CLICK","click_time":"2026-01-05T08:00:00","conversion_time":"2026-01-05T08:01:01.999","processed_at":"2026-01-05T08:06:00+00:00"}"#
        ]
    );
    let grants = "SELECT relname AS t FROM pg_class
        WHERE relacl::text LIKE '%,=r/%' AND relnamespace = 'public'::regnamespace ORDER BY 1";
    let granted = r#"{"t":"ad_performance_metrics_realtime"},{"t":"conversion_attribution_results"}"#;
    assert_eq!(database.rows(grants).join(","), granted);
    // The keys hold: rows of the same key are updated, and others are numbered on.
    let mut sink = database.open();
    let rows = ["top", "end"].map(|placement| Change::Performance(performance(placement, 2), 1));
    let attribution = Change::Attribution(attribution("o1", None), 1);
    sink.commit(commit(1, vec![rows.into_iter().chain([attribution]).collect()])).unwrap();
    let rows = "SELECT id, placement AS p, click_count AS n FROM ad_performance_metrics_realtime ORDER BY id";
    assert_eq!(
        database.rows(rows).join(""),
        r#"{"id":1,"p":"top","n":2}{"id":2,"p":"side","n":0}{"id":3,"p":"end","n":2}"#
    );
    let attributed = database.rows("SELECT order_id AS o, ad_id AS a FROM conversion_attribution_results");
    assert_eq!(attributed, [r#"{"o":"o1","a":null}"#]);
}
