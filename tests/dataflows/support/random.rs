//! Random histories, small enough in their keys that everything collides.

use std::collections::BTreeMap;

use adtide_dataflows::model::{EventTime, Topic};
use adtide_dataflows::{Emit, MetricsSource, Settings, Statement, StatementPlan};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::Value;

use super::{
    HOUR, History, Line, MINUTE, SECOND, Step, campaign, click, impression, metrics, no_metrics, no_price,
    price, sale, small, sold,
};

/// How far out of order a history is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disorder {
    /// Event times only grow, and no two are the same.
    None,
    /// Also beyond the bounds and the allowed lateness, with many ties, and bad records among the good ones.
    Any,
}

/// The statements' settings, with the small times of [`small`].
pub fn settings() -> impl Strategy<Value = Settings> {
    let lateness = select(vec![0, MINUTE, 4 * MINUTE]);
    let limit = select(vec![0usize, 1, 3]);
    let product_metrics = select(vec![MetricsSource::Topic, MetricsSource::Live { windows: 2 }]);
    let emit = select(vec![Emit::OnUpdate, Emit::OnClose]);
    // Orders come again and again: some within it, some after it, some just at its end.
    let repeat_within = select(vec![None, Some(0), Some(10 * SECOND), Some(3 * MINUTE), Some(20 * MINUTE)]);
    (lateness, limit, product_metrics, emit, repeat_within, plans()).prop_map(
        |(allowed_lateness, ranking_limit, product_metrics, emit, repeat_within, plan)| Settings {
            allowed_lateness,
            ranking_limit,
            product_metrics,
            emit,
            repeat_within,
            plan,
            ..small()
        },
    )
}

/// Every other statement runs by its definition.
fn plans() -> impl Strategy<Value = BTreeMap<Statement, StatementPlan>> {
    subsequence(&Statement::ALL, 0..=Statement::ALL.len()).prop_map(|defined| {
        defined.into_iter().map(|statement| (statement, StatementPlan::Definition)).collect()
    })
}

/// When histories start: numbers are times from 2000 on only.
const START: i64 = 946_684_800_000 + HOUR;

/// Histories of about an hour: up to `most` records, in two partitions a topic, and random epochs.
pub fn histories(most: usize, disorder: Disorder) -> impl Strategy<Value = History> {
    prop::collection::vec(arrival(disorder), 0..most).prop_map(move |arrivals| {
        let mut clock = START;
        let mut steps = Vec::new();
        for arrival in arrivals {
            clock += arrival.advance;
            steps.push(arrival.step(clock - arrival.delay));
            if arrival.cut {
                steps.push(Step::Cut);
            }
        }
        History { steps }
    })
}

/// A record before it has its event time.
#[derive(Clone, Debug)]
struct Arrival {
    /// How much later than the one before it happens what is in time.
    advance: i64,
    /// How much earlier it happened than what is in time.
    delay: i64,
    what: What,
    partition: u32,
    /// Whether an epoch ends after it.
    cut: bool,
    /// Which of the forms of times and ids it is written in.
    form: usize,
}

#[derive(Clone, Debug)]
enum What {
    /// Of a topic with times.
    Event(Line),
    /// Of a topic without times.
    Upsert(Line),
    Bad(Topic, &'static str),
}

impl Arrival {
    fn step(&self, time: i64) -> Step {
        let line = match &self.what {
            What::Event(line) => self.at(line, time),
            What::Upsert(line) => line.clone(),
            What::Bad(topic, text) => {
                return Step::Record((*topic, self.partition), text.as_bytes().to_vec());
            }
        };
        Step::from(line.to(self.partition))
    }

    fn at(&self, line: &Line, time: i64) -> Line {
        let line = line.clone().with("timestamp_field", written(time, self.form % TIME_FORMS));
        // A BIGINT may come as a text or as a decimal number.
        let product = line.get("product_id").to_string();
        match self.form / TIME_FORMS {
            0 => line,
            1 => line.with("product_id", product),
            _ => line.with("product_id", json_number(&format!("{product}.0"))),
        }
    }
}

/// How many forms of times there are.
const TIME_FORMS: usize = 11;

/// A time in one of its forms.
fn written(time: i64, form: usize) -> Value {
    let at = |minutes: i64| EventTime(time + minutes * MINUTE).to_string();
    let text = at(0);
    let text = match form {
        0 => return time.into(),
        1 => text,
        2 => text.replace(' ', "T"),
        3 => format!("{}Z", text.replace(' ', "T")),
        4 => format!("{}z", text.replace(' ', "t")),
        5 => format!("{text}9999999"),
        6 => format!("{}+05:30", at(330)),
        7 => format!("{}+0100", at(60).replace(' ', "T")),
        8 => format!("{}-18", at(-18 * 60)),
        9 => format!("{}-0030", at(-30)),
        _ => text.strip_suffix(".000").unwrap_or(&text).to_owned(),
    };
    text.into()
}

/// A number as it is written.
fn json_number(text: &str) -> Value {
    text.parse().map(Value::Number).expect("a number")
}

fn arrival(disorder: Disorder) -> impl Strategy<Value = Arrival> {
    let (advance, delay) = match disorder {
        Disorder::None => ((1..40 * SECOND).boxed(), Just(0).boxed()),
        Disorder::Any => (advance().boxed(), delay().boxed()),
    };
    let what = match disorder {
        Disorder::None => good().boxed(),
        Disorder::Any => prop_oneof![30 => good(), 1 => bad()].boxed(),
    };
    (advance, delay, what, 0..2u32, prop::bool::weighted(0.25), 0..3 * TIME_FORMS).prop_map(
        |(advance, delay, what, partition, cut, form)| Arrival { advance, delay, what, partition, cut, form },
    )
}

/// Mostly nothing or some seconds, so that times meet; now and then a whole window.
fn advance() -> impl Strategy<Value = i64> {
    prop_oneof![8 => Just(0), 8 => (0..15i64).prop_map(|s| s * SECOND), 4 => (0..60i64).prop_map(|s| s * SECOND), 1 => Just(5 * MINUTE)]
}

/// Mostly nothing, else within the bounds, within the allowed lateness, or beyond; on the second or just
/// before it.
fn delay() -> impl Strategy<Value = i64> {
    let seconds = prop_oneof![8 => Just(0i64), 4 => 0..=10i64, 2 => 0..=100i64, 1 => 0..=900i64];
    (seconds, prop::bool::weighted(0.2)).prop_map(|(seconds, before)| seconds * SECOND + i64::from(before))
}

fn good() -> impl Strategy<Value = What> {
    prop_oneof![
        10 => ad_event().prop_map(What::Event),
        4 => conversion().prop_map(What::Event),
        2 => campaign_event().prop_map(What::Event),
        1 => upsert().prop_map(What::Upsert),
    ]
}

/// One of these values, the first more often than the others together.
fn skewed<V: Into<Value> + Clone + 'static>(values: Vec<V>) -> impl Strategy<Value = Value> {
    let values: Vec<Value> = values.into_iter().map(Into::into).collect();
    prop_oneof![2 => Just(values[0].clone()), 1 => select(values)]
}

/// A device or a session: one of these, or one of the texts that stand for none.
fn visitor(first: Value) -> impl Strategy<Value = Value> {
    let zero = "00000000-0000-0000-0000-000000000000";
    let known =
        vec![first.clone(), Value::Null, "x".into(), "y".into(), "z".into(), json_number("7"), "7".into()];
    let none = vec!["", "null", "N/A", "Unknown", "undefined", "NONE", zero];
    prop_oneof![
        8 => Just(first),
        4 => select(known),
        1 => select(none).prop_map(Value::from),
    ]
}

fn ad_event() -> impl Strategy<Value = Line> {
    let line = select(vec![click(0), click(0), click(0), impression(0), sold(0)]);
    let price = skewed(vec!["1.50", "1.500", "15e-1", "2", "0.01", "-0"]);
    let ids = (
        skewed(vec![
            Value::from(1),
            "1".into(),
            json_number("1.0"),
            2.into(),
            "a".into(),
            Value::Null,
            "".into(),
        ]),
        skewed(vec![Value::from(5), "5".into(), 6.into(), Value::Null, "none".into(), "".into()]),
        skewed(vec![9, 8]),
        skewed(vec![7, 8]),
        skewed(vec!["top", "side"]),
        visitor("x".into()),
        visitor(Value::Null),
    );
    (line, price, ids).prop_map(
        |(line, price, (ad, campaign, advertiser, product, placement, device, session))| {
            let line =
                if line.get("actual_price").is_null() { line } else { line.with("actual_price", price) };
            line.with("ad_id", ad)
                .with("campaign_id", campaign)
                .with("advertiser_id", advertiser)
                .with("product_id", product)
                .with("placement", placement)
                .with("device_id", device)
                .with("session_id", session)
        },
    )
}

fn conversion() -> impl Strategy<Value = Line> {
    let ids = (
        visitor("x".into()),
        visitor(Value::Null),
        skewed(vec![7, 8]),
        select(vec!["a", "b", "c"]),
        skewed(vec!["6.00", "7.5"]),
    );
    ids.prop_map(|(device, session, product, order, revenue)| {
        sale(order, 0)
            .with("device_id", device)
            .with("session_id", session)
            .with("product_id", product)
            .with("revenue_amount", revenue)
    })
}

fn campaign_event() -> impl Strategy<Value = Line> {
    let types = select(vec![
        "CAMPAIGN_CREATE",
        "CAMPAIGN_UPDATE",
        "CAMPAIGN_UPDATE",
        "CAMPAIGN_ACTIVATE",
        "CAMPAIGN_PAUSE",
        "CAMPAIGN_DELETE",
    ]);
    let fields = (
        skewed(vec![7, 8]),
        skewed(vec!["top", "side"]),
        skewed(vec!["toys", "books"]),
        skewed(vec!["1.00", "2.00", "0.50"]),
        skewed(vec!["ACTIVE", "DRAFT"]),
    );
    (types, 1..6i64, fields).prop_map(|(event_type, id, (product, placement, category, bid, status))| {
        campaign(id, 0)
            .with("event_type", event_type)
            .with("product_id", product)
            .with("placement", placement)
            .with("category", category)
            .with("bid_price", bid)
            .with("status", status)
    })
}

fn upsert() -> impl Strategy<Value = Line> {
    let product = select(vec![7, 8]);
    let rates = (product.clone(), select(vec![0.0, 0.02, 0.5]), select(vec![0.0, 0.25]));
    prop_oneof![
        3 => rates.prop_map(|(product, ctr, cvr)| metrics(product, ctr, cvr)),
        1 => product.clone().prop_map(no_metrics),
        3 => (product.clone(), select(vec!["0", "99.90", "1000"])).prop_map(|(product, amount)| price(product, amount)),
        1 => product.prop_map(no_price),
    ]
}

fn bad() -> impl Strategy<Value = What> {
    let text = select(vec![
        "{",
        "not json",
        "\u{feff}{}",
        r#"{"payload":{"event_type":"CLICK"}}"#,
        "\0\0\0\0\u{7}Avro",
        r#"{"event_type":"CLICK","timestamp_field":946688400,"product_id":7,"placement":"top","advertiser_id":9,"actual_price":1}"#,
        r#"{"event_type":"CLICK","timestamp_field":"2000-01-01 01:00:00","product_id":7,"placement":"top","advertiser_id":"n/a","actual_price":1}"#,
        r#"{"event_type":"CONVERSION","timestamp_field":"2000-01-01 01:00:00","product_id":7,"order_id":"Null","revenue_amount":1}"#,
        "[]",
        "{}",
        r#"{"event_type":"CLICK","timestamp_field":946688400000,"product_id":7,"placement":"top","advertiser_id":9,"actual_price":-1}"#,
        r#"{"event_type":"IMPRESSION","timestamp_field":"2999-01-01 00:00:00","product_id":7,"placement":"top"}"#,
        r#"{"event_type":"VIEW","timestamp_field":946688400000,"product_id":7,"placement":"top"}"#,
        r#"{"event_type":"CONVERSION","timestamp_field":99999999999999,"product_id":7,"order_id":"a","revenue_amount":1}"#,
        r#"{"event_type":"CAMPAIGN_CREATE","timestamp_field":"2999-01-01 00:00:00","campaign_id":1}"#,
        r#"{"product_id":"seven","ctr":0.5,"cvr":0.5,"product_price":1}"#,
    ]);
    (select(Topic::ALL.to_vec()), text).prop_map(|(topic, text)| What::Bad(topic, text))
}
