//! The whole of it at work: traffic, the run, the workers, and verification of what all of them have done.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::sys::signal::Signal;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use serde_json::Value;

use crate::deployment::{Addresses, DEADLINE, Deployment, compared, eventually};

/// In Redis. Keys of rankings and budgets have no prefix, so one test at a time.
const DATABASE: u64 = 14;
static ALONE: Mutex<()> = Mutex::new(());

/// The right to be alone in the database in Redis, and a deployment, which must go first; None without the
/// servers.
pub fn deploy(settings: &str) -> Option<(MutexGuard<'static, ()>, Deployment)> {
    let addresses = Addresses::find(|name| std::env::var(name).ok())?;
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    Some((alone, Deployment::new(&addresses, DATABASE, settings)))
}

/// The values of all committed records of a topic.
pub fn committed(deployment: &Deployment, topic: &str) -> Vec<Value> {
    let name = format!("{}-{topic}", deployment.name);
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", deployment.brokers())
        .set("group.id", &name)
        .set("isolation.level", "read_committed")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .create()
        .unwrap();
    let metadata = consumer.fetch_metadata(Some(&name), DEADLINE).unwrap();
    let partitions = metadata.topics()[0].partitions();
    let mut assignment = TopicPartitionList::new();
    for partition in partitions {
        assignment.add_partition_offset(&name, partition.id(), Offset::Beginning).unwrap();
    }
    consumer.assign(&assignment).unwrap();
    let (mut values, mut open) = (Vec::new(), partitions.len());
    while open > 0 {
        match consumer.poll(DEADLINE).expect("no answer from Kafka") {
            Ok(message) => values.push(serde_json::from_slice(message.payload().unwrap()).unwrap()),
            Err(KafkaError::PartitionEOF(_)) => open -= 1,
            Err(error) => panic!("{error}"),
        }
    }
    values
}

/// The campaigns that are in a ranking.
fn ranked(deployment: &Deployment) -> BTreeSet<i64> {
    let mut redis = deployment.redis();
    let keys: Vec<String> = redis::cmd("KEYS").arg("rtb:ranking:*").query(&mut redis).unwrap();
    let mut ranked = BTreeSet::new();
    for key in keys {
        let value: Option<String> = redis::cmd("GET").arg(key).query(&mut redis).unwrap();
        let ranking: Value = value.map_or(Value::Null, |value| serde_json::from_str(&value).unwrap());
        let list = ranking["ranking"].as_array().into_iter().flatten();
        ranked.extend(list.map(|entry| entry["campaign_id"].as_i64().unwrap()));
    }
    ranked
}

/// The campaigns that have spent their budget, of which `campaign-events` has been told.
fn exhausted(deployment: &Deployment) -> BTreeSet<i64> {
    let told = "SELECT campaign_id FROM campaigns WHERE budget_status = 'BUDGET_EXHAUSTED' \
                AND announced = 'CAMPAIGN_PAUSE'";
    deployment.postgres().query(told, &[]).unwrap().iter().map(|row| row.get(0)).collect()
}

#[test]
fn from_traffic_to_rankings_accounts_and_refunds() {
    let Some((_alone, deployment)) = deploy("epoch_interval = '20ms'") else { return };
    let mut traffic = deployment.start("generate", "generate --to-kafka --speed 600");
    let mut run = deployment.start("run", "run -w 2");
    let mut workers = deployment.start("workers", "worker all");
    assert!(eventually(|| !ranked(&deployment).is_empty()), "{}", run.stderr());
    let mut seen = BTreeSet::new();
    let mut verified = 0;
    let complete = eventually(|| {
        seen.extend(ranked(&deployment));
        // At its cut, whatever goes on.
        let report = deployment.run("verify").succeeded().stdout;
        assert!(report.starts_with("verified"), "{report}");
        // Before the workers have claimed their first partition there is no ledger to report on.
        let rows = |section| compared(&report).get(section).copied().unwrap_or(0);
        verified += usize::from(rows("performance") > 0 && rows("debits") > 0);
        // However fast the traffic was: the run and the workers go on after its end.
        traffic.ended().is_some() && verified > 0
    });
    assert!(complete, "verified {verified} times: {}", traffic.stderr());
    traffic.finish().succeeded();
    // A campaign that has spent its budget has left its ranking, though its owner wants it there.
    let paused =
        || exhausted(&deployment).intersection(&seen).any(|campaign| !ranked(&deployment).contains(campaign));
    assert!(eventually(paused), "none of {:?} has left", exhausted(&deployment));
    workers.end(Signal::SIGTERM).succeeded();
    run.end(Signal::SIGTERM).succeeded();

    deployment.run("run -w 2 --until-end").succeeded();
    let (exhausted, ranked) = (exhausted(&deployment), ranked(&deployment));
    assert_eq!(
        exhausted.intersection(&ranked).collect::<Vec<_>>(),
        Vec::<&i64>::new(),
        "they are still ranked"
    );
    deployment.run("worker all --until-end").succeeded();
    let report = deployment.verified();

    let mut times: BTreeMap<String, u32> = BTreeMap::new();
    for record in committed(&deployment, "compensation-events") {
        *times.entry(record["compensation_id"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    assert_eq!(times.len() as u64, compared(&report)["refunds"]);
    times.retain(|_, times| *times > 1);
    assert_eq!(times, BTreeMap::new(), "refunds that were told more than once");
}

#[test]
fn of_two_runs_of_one_name_the_first_is_fenced() {
    let Some((_alone, deployment)) = deploy("epoch_interval = '20ms'") else { return };
    let mut traffic = deployment.start("generate", "generate --to-kafka --speed 1200");
    let mut first = deployment.start("first", "run -w 2");
    assert!(eventually(|| !ranked(&deployment).is_empty()), "{}", first.stderr());
    let mut second = deployment.start("second", "run -w 1");
    let outcome =
        first.finish().failed_saying(&["another run named \"adtide\" has taken over", "(key name)"]);
    assert!(!outcome.stderr.contains("panicked"), "{}", outcome.stderr);
    assert!(eventually(|| traffic.ended().is_some()), "{}", traffic.stderr());
    assert_eq!(second.ended(), None, "{}", second.stderr());
    second.end(Signal::SIGTERM).succeeded();
    deployment.run("run -w 2 --until-end").succeeded();
    deployment.run("worker all --until-end").succeeded();
    deployment.verified();
}
