//! How long it takes from an event's being appended to Kafka until its row is committed in PostgreSQL, and
//! its key in Redis.
//!
//! `scripts/bench latency` runs it beside a running adtide and a load. It appends impressions of campaigns
//! that nobody else has, one at a time, and asks PostgreSQL for the row until it is there; and campaigns of a
//! category of their own, and asks Redis for their ranking. What is measured ends when the answer is here, so
//! it includes half a pause between two questions. The configuration is the running adtide's, named by the
//! variable ADTIDE_BENCH_CONFIG.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use adtide::config::Config;
use adtide_dataflows::model::{EventTime, Topic};
use anyhow::{Context, ensure};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use redis::Commands;

/// How many events of each kind are followed.
const PROBES: u32 = 400;

/// Between two probes: not in step with the epochs.
const PAUSE: Duration = Duration::from_millis(67);

/// Between two questions.
const POLL: Duration = Duration::from_millis(1);

/// After this long an event counts as lost.
const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> anyhow::Result<()> {
    let Some(file) = std::env::var_os("ADTIDE_BENCH_CONFIG").map(PathBuf::from) else {
        eprintln!("set ADTIDE_BENCH_CONFIG to the config of a running adtide, or use scripts/bench latency");
        return Ok(());
    };
    let config = Config::load(Some(&file), &[])?;
    let mut bench = Bench::new(&config)?;
    let rows = bench.measure("an event to its row in PostgreSQL", Bench::row)?;
    let keys = bench.measure("a campaign to its key in Redis", Bench::key)?;
    println!("| from its append to Kafka          |    p50 |    p90 |    p99 |    max |");
    println!("|-----------------------------------|--------|--------|--------|--------|");
    for (name, times) in [rows, keys] {
        let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_millis();
        println!(
            "| {name:<33} | {:>3} ms | {:>3} ms | {:>3} ms | {:>3} ms |",
            at(50),
            at(90),
            at(99),
            at(100)
        );
    }
    Ok(())
}

struct Bench {
    producer: BaseProducer,
    postgres: adtide::connect::postgres::Client,
    redis: redis::Connection,
    prefix: String,
    /// Ids of campaigns that no traffic has, other ones in each run.
    next_campaign: i64,
}

impl Bench {
    fn new(config: &Config) -> anyhow::Result<Bench> {
        let kafka = config.kafka();
        let producer = kafka.client().set("linger.ms", "0").create().context("no producer")?;
        let postgres = config.postgres().connect("adtide-bench").map_err(|fault| fault.into_error())?;
        let redis = config.redis().connect().map_err(|fault| fault.into_error())?;
        let next_campaign = 1_000_000_000_000 + adtide::now().0;
        Ok(Bench { producer, postgres, redis, prefix: kafka.prefix, next_campaign })
    }

    /// The times of all probes, ascending.
    fn measure(
        &mut self,
        name: &'static str,
        probe: fn(&mut Bench, i64) -> anyhow::Result<Duration>,
    ) -> anyhow::Result<(&'static str, Vec<Duration>)> {
        let mut times = Vec::new();
        for _ in 0..PROBES {
            self.next_campaign += 1;
            times.push(probe(self, self.next_campaign)?);
            std::thread::sleep(PAUSE);
        }
        times.sort();
        Ok((name, times))
    }

    fn row(&mut self, campaign: i64) -> anyhow::Result<Duration> {
        let time = adtide::now();
        let event = format!(
            r#"{{"event_type":"IMPRESSION","timestamp_field":"{time}","ad_id":1,"campaign_id":{campaign},"advertiser_id":1,"product_id":1,"placement":"probe","category":"probe","device_id":"probe"}}"#
        );
        let appended = self.append(Topic::AdEvents, campaign, &event, time)?;
        let question = "SELECT count(*) FROM ad_performance_metrics_realtime
             WHERE metric_time = $1::text::timestamp AND campaign_id = $2 AND product_id = 1 AND placement = 'probe'";
        let window = time.window_start().to_string();
        until(appended, || Ok(self.postgres.query_one(question, &[&window, &campaign])?.get::<_, i64>(0) > 0))
    }

    fn key(&mut self, campaign: i64) -> anyhow::Result<Duration> {
        let time = adtide::now();
        let event = format!(
            r#"{{"event_type":"CAMPAIGN_CREATE","timestamp_field":"{time}","campaign_id":{campaign},"advertiser_id":1,"product_id":1,"placement":"probe","category":"{campaign}","bid_price":1.00,"status":"ACTIVE"}}"#
        );
        let appended = self.append(Topic::CampaignEvents, campaign, &event, time)?;
        let key = format!("rtb:ranking:probe:{campaign}");
        until(appended, || Ok(self.redis.exists(&key)?))
    }

    /// The moment at which the broker has acknowledged the event.
    fn append(&self, topic: Topic, key: i64, event: &str, time: EventTime) -> anyhow::Result<Instant> {
        let topic = format!("{}{}", self.prefix, topic.name());
        let key = key.to_string();
        let record = BaseRecord::to(&topic).key(&key).payload(event).timestamp(time.0);
        self.producer.send(record).map_err(|(error, _)| error)?;
        while self.producer.in_flight_count() > 0 {
            self.producer.poll(POLL);
        }
        Ok(Instant::now())
    }
}

fn until(since: Instant, mut is_there: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<Duration> {
    while !is_there()? {
        ensure!(since.elapsed() < PATIENCE, "an event had no effect within {PATIENCE:?}; does adtide run?");
        std::thread::sleep(POLL);
    }
    Ok(since.elapsed())
}
