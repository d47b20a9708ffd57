//! Redis.

use std::time::{Duration, Instant};

use adtide::connect::Url;
use adtide::connect::redis::RedisConfig;
use adtide::sink::redis::{RedisSink, ranking_key, rankings_key, stored};
use adtide::sink::{Change, Sink};
use adtide_dataflows::model::{Money, Score};
use adtide_dataflows::rtb_cache_updater::{RankingEntry, RankingRow};
use redis::{Commands, Connection};
use serde_json::Value;

use super::proxy::Proxy;
use super::{TEXTS, address, commit, run, says, unique};

/// A database of the tests' own.
const DATABASE: u32 = 7;

/// A deployment, whose keys go away with the test.
struct Place {
    url: String,
    /// Of the deployment, and a part of its placements.
    name: String,
}

impl Place {
    /// None if there is no server.
    fn new() -> Option<Place> {
        let address = address("ADTIDE_TEST_REDIS_URL")?;
        let (server, _) = address.rsplit_once('/').unwrap();
        Some(Place { url: format!("{server}/{DATABASE}"), name: unique() })
    }

    fn config(&self, ttl: Duration) -> RedisConfig {
        RedisConfig { url: Url::new(self.url.clone()), ttl, connect_timeout: Duration::from_secs(20) }
    }

    fn open(&self) -> RedisSink {
        RedisSink::open(&self.config(Duration::ZERO), &self.name, run()).unwrap()
    }

    fn connection(&self) -> Connection {
        redis::Client::open(self.url.as_str()).unwrap().get_connection().unwrap()
    }

    /// A ranking of one placement of this test.
    fn ranking(&self, placement: &str, bid: i64) -> RankingRow {
        let entry = RankingEntry {
            product_id: 8,
            score: Score(0.125),
            bid_price: Money(bid),
            campaign_id: 7,
            advertiser_id: 9,
        };
        let placement = format!("{}{placement}", self.name).into();
        RankingRow { placement, category: "shoes".into(), list: vec![entry], total_campaigns: 3 }
    }

    fn set(&self, placement: &str, bid: i64) -> Vec<Change> {
        vec![Change::Ranking(self.ranking(placement, bid), 1)]
    }

    fn key(&self, placement: &str) -> String {
        ranking_key(&format!("{}{placement}", self.name), "shoes")
    }

    fn get(&self, placement: &str) -> Option<Value> {
        let text: Option<String> = self.connection().get(self.key(placement)).unwrap();
        text.map(|text| serde_json::from_str(&text).unwrap())
    }

    fn bid(&self, placement: &str) -> Option<String> {
        self.get(placement).map(|ranking| ranking["ranking"][0]["bid_price"].to_string())
    }

    fn stored(&self) -> Option<adtide::sink::Stored> {
        stored(&mut self.connection(), &self.name).unwrap()
    }

    /// Milliseconds that a ranking has left.
    fn left(&self, placement: &str) -> i64 {
        redis::cmd("PTTL").arg(self.key(placement)).query(&mut self.connection()).unwrap()
    }

    /// All rankings that the deployment knows of.
    fn known(&self) -> Vec<String> {
        let mut keys: Vec<String> = self.connection().hkeys(rankings_key(&self.name)).unwrap();
        keys.sort();
        keys
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut connection = self.connection();
        let keys: Vec<String> = connection.keys(format!("*{}*", self.name)).unwrap();
        if !keys.is_empty() {
            let _: () = connection.del(keys).unwrap();
        }
    }
}

#[test]
fn a_ranking_is_one_json_text() {
    let Some(place) = Place::new() else { return };
    let mut sink = place.open();
    assert_eq!(sink.stored(), None);
    sink.commit(commit(1, vec![place.set("top", 250)])).unwrap();
    let key = format!("rtb:ranking:{}top:shoes", place.name);
    let text: String = place.connection().get(&key).unwrap();
    let list =
        r#""ranking":[{"product_id":8,"score":0.125,"bid_price":2.50,"campaign_id":7,"advertiser_id":9}]}"#;
    assert!(text.ends_with(list), "{text}");
    let ranking: Value = serde_json::from_str(&text).unwrap();
    let placement = format!("{}top", place.name);
    assert_eq!(ranking["placement"], placement);
    assert_eq!(ranking["category"], "shoes");
    assert_eq!(ranking["total_campaigns"].to_string(), "3");
    assert_eq!(ranking["updated_at"].as_str().unwrap().len(), "2026-01-05 08:00:00.000".len());
    assert_eq!(place.left("top"), -1, "for ever");
}

#[test]
fn rankings_are_replaced_and_emptied_ones_deleted() {
    let Some(place) = Place::new() else { return };
    let mut sink = place.open();
    sink.commit(commit(1, vec![[place.set("stays", 1), place.set("goes", 1)].concat()])).unwrap();
    assert_eq!(place.known(), [place.key("goes"), place.key("stays")]);
    let second = vec![
        Change::Ranking(place.ranking("stays", 2), 1),
        Change::Ranking(place.ranking("stays", 1), -1),
        Change::Ranking(place.ranking("goes", 1), -1),
        Change::Ranking(place.ranking("goes", 2), 1),
    ];
    let third = vec![Change::Ranking(place.ranking("goes", 2), -1)];
    sink.commit(commit(3, vec![second, third])).unwrap();
    assert_eq!(place.bid("stays").as_deref(), Some("0.02"));
    assert_eq!(place.get("goes"), None);
    assert_eq!(place.known(), [place.key("stays")]);
}

#[test]
fn what_was_committed_is_read_back() {
    let Some(place) = Place::new() else { return };
    assert_eq!(place.stored(), None);
    let mut sink = place.open();
    assert_eq!(place.stored(), None, "a number only");
    for epoch in [1, 2] {
        sink.commit(commit(epoch, vec![])).unwrap();
        assert_eq!(place.stored(), super::stored(epoch));
    }
    drop(sink);
    let mut sink = place.open();
    assert_eq!(sink.stored(), super::stored(2));
    sink.commit(commit(3, vec![])).unwrap();
    assert_eq!(place.stored(), super::stored(3));
}

#[test]
fn a_later_run_fences_an_earlier_one() {
    let Some(place) = Place::new() else { return };
    let mut first = place.open();
    first.commit(commit(1, vec![place.set("top", 1)])).unwrap();
    let mut second = place.open();
    assert_eq!(second.stored(), super::stored(1));
    let error = first.commit(commit(2, vec![place.set("top", 2)])).unwrap_err();
    says(&error, &[&format!("another run named {:?} has taken over", place.name), &"(key name)"]);
    assert_eq!(place.bid("top").as_deref(), Some("0.01"));
    assert_eq!(place.stored(), super::stored(1));
    second.commit(commit(2, vec![place.set("top", 5)])).unwrap();
    let error = first.commit(commit(2, vec![place.set("top", 2)])).unwrap_err();
    says(&error, &[&"has taken over"]);
    assert_eq!(place.bid("top").as_deref(), Some("0.05"));
}

#[test]
fn a_commit_whose_answer_was_lost_is_not_done_twice() {
    let Some(place) = Place::new() else { return };
    let (credentials, server) = place.url.rsplit_once('@').unwrap();
    let (server, _) = server.rsplit_once('/').unwrap();
    let proxy = Proxy::start(server, b"EVALSHA");
    let url = Url::new(format!("{credentials}@{}/{DATABASE}", proxy.address));
    let config = RedisConfig { url, ..place.config(Duration::ZERO) };
    let mut sink = RedisSink::open(&config, &place.name, run()).unwrap();
    sink.commit(commit(1, vec![])).unwrap();
    proxy.arm();
    sink.commit(commit(2, vec![place.set("top", 1)])).unwrap();
    assert!(proxy.has_cut());
    assert_eq!(place.stored(), super::stored(2));
    assert_eq!(place.bid("top").as_deref(), Some("0.01"));
    sink.commit(commit(3, vec![place.set("top", 2)])).unwrap();
    assert_eq!(place.stored(), super::stored(3));
    assert_eq!(place.bid("top").as_deref(), Some("0.02"));
}

#[test]
fn progress_that_went_back_is_noticed() {
    let Some(place) = Place::new() else { return };
    let mut sink = place.open();
    for epoch in [1, 2] {
        sink.commit(commit(epoch, vec![])).unwrap();
    }
    let progress = format!("adtide:progress:{}", place.name);
    let _: () = place.connection().hset(&progress, "epoch", 1).unwrap();
    let error = sink.commit(commit(3, vec![place.set("top", 1)])).unwrap_err();
    says(&error, &[&"holds epoch 1, though epoch 2 had been committed"]);
    assert_eq!(place.get("top"), None);
    let _: () = place.connection().del(&progress).unwrap();
    let error = sink.commit(commit(3, vec![place.set("top", 1)])).unwrap_err();
    says(&error, &[&"holds no epoch, though epoch 2 had been committed", &"was it emptied"]);
    assert_eq!(place.get("top"), None);
}

#[test]
fn every_text_can_be_written_and_has_its_own_key() {
    let Some(place) = Place::new() else { return };
    let mut sink = place.open();
    let texts: Vec<&str> = TEXTS.into_iter().chain(["a\0b", "a:b", "a%3Ab"]).collect();
    let changes = texts.iter().flat_map(|text| place.set(text, 1)).collect();
    sink.commit(commit(1, vec![changes])).unwrap();
    for text in &texts {
        assert_eq!(place.get(text).unwrap()["placement"], format!("{}{text}", place.name), "{text:?}");
    }
    assert_ne!(ranking_key("a:b", "c"), ranking_key("a", "b:c"));
    assert_eq!(ranking_key("home page", "shoes:men"), "rtb:ranking:home page:shoes:men");
}

/// Waits until it is so; fails after a while.
fn until(what: &str, so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !so() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn only_the_rankings_of_a_run_that_is_gone_expire() {
    let Some(place) = Place::new() else { return };
    let ttl = Duration::from_millis(1500);
    let mut sink = RedisSink::open(&place.config(ttl), &place.name, run()).unwrap();
    sink.commit(commit(1, vec![[place.set("still", 1), place.set("busy", 1)].concat()])).unwrap();
    assert!((1..=1500).contains(&place.left("still")));
    // Twice its time: commits that do not touch it, and then ticks.
    let start = Instant::now();
    for epoch in 2.. {
        sink.commit(commit(epoch, vec![place.set("busy", 2)])).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        if start.elapsed() > 2 * ttl {
            break;
        }
    }
    assert_eq!(place.bid("still").as_deref(), Some("0.01"));
    let start = Instant::now();
    while start.elapsed() < 2 * ttl {
        sink.tick().unwrap();
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(place.bid("still").as_deref(), Some("0.01"));
    drop(sink);
    until("expired", || place.get("still").is_none() && place.get("busy").is_none());
    // The next run knows that they had been committed, so no replay brings them: they must come back by
    // themselves.
    let sink = RedisSink::open(&place.config(ttl), &place.name, run()).unwrap();
    assert_eq!(place.bid("still").as_deref(), Some("0.01"));
    assert_eq!(place.bid("busy").as_deref(), Some("0.02"));
    drop(sink);
    until("expired again", || place.get("still").is_none());
    // And for ever, where no time is configured any more.
    let mut sink = place.open();
    assert_eq!(place.left("still"), -1);
    assert_eq!(place.bid("still").as_deref(), Some("0.01"));
    sink.commit(commit(10_000, vec![place.set("busy", 3)])).unwrap();
    assert_eq!(place.left("busy"), -1);
    drop(sink);
    let _sink = RedisSink::open(&place.config(ttl), &place.name, run()).unwrap();
    assert!(place.left("still") > 0 && place.left("busy") > 0);
    assert_eq!(place.bid("busy").as_deref(), Some("0.03"));
}

#[test]
fn a_ranking_that_expired_while_its_run_was_away_comes_back() {
    let Some(place) = Place::new() else { return };
    let ttl = Duration::from_millis(300);
    let mut sink = RedisSink::open(&place.config(ttl), &place.name, run()).unwrap();
    sink.commit(commit(1, vec![place.set("top", 1)])).unwrap();
    until("expired", || place.get("top").is_none());
    sink.tick().unwrap();
    assert_eq!(place.bid("top").as_deref(), Some("0.01"));
    assert!(place.left("top") > 0);
}

#[test]
fn what_does_not_pass_by_itself_is_said_at_once() {
    let Some(place) = Place::new() else { return };
    let (_, server) = place.url.rsplit_once('@').unwrap();
    let open = |url: String| {
        let config = RedisConfig { url: Url::new(url), ..place.config(Duration::ZERO) };
        RedisSink::open(&config, &place.name, run()).err().unwrap()
    };
    let error = open(format!("redis://default:wr0ng@{server}"));
    says(&error, &[&"check the user and the password in redis.url"]);
    assert!(!format!("{error:#}").contains("wr0ng"));
    says(&open(format!("redis://{server}")), &[&"check the user and the password in redis.url"]);
    says(&open("nonsense".to_owned()), &[&"redis.url is no address of Redis"]);
    let _: () = place.connection().set(format!("adtide:progress:{}", place.name), "somebody else's").unwrap();
    says(&open(place.url.clone()), &[&"in use by somebody else"]);
}
