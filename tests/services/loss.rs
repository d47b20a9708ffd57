//! Topics that are not what they were: records that the results came of are gone, or another topic has the
//! old one's name.

use std::collections::BTreeSet;

use adtide_dataflows::model::Topic;
use nix::sys::signal::Signal;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::Value;

use crate::deployment::{DEADLINE, Deployment, eventually};
use crate::end_to_end::{committed, deploy};

const SETTINGS: &str = "epoch_interval = '20ms'\ncheckpoint.interval = '300ms'";

fn client(deployment: &Deployment) -> ClientConfig {
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", deployment.brokers());
    client
}

/// Where a topic's partitions end.
fn ends(deployment: &Deployment, topic: &str) -> Vec<i64> {
    let (name, consumer) = (format!("{}-{topic}", deployment.name), client(deployment));
    let consumer: BaseConsumer = consumer.create().unwrap();
    let metadata = consumer.fetch_metadata(Some(&name), DEADLINE).unwrap();
    let numbers = metadata.topics()[0].partitions().iter().map(|partition| partition.id());
    numbers.map(|number| consumer.fetch_watermarks(&name, number, DEADLINE).unwrap().1).collect()
}

/// Follows the topics until all of them is in PostgreSQL, and stops.
fn read_all(deployment: &Deployment) {
    let there: i64 = Topic::ALL.iter().flat_map(|topic| ends(deployment, topic.name())).sum();
    let read = || -> i64 {
        let progress = "SELECT partitions FROM adtide_progress WHERE epoch IS NOT NULL";
        let row = deployment.postgres().query_opt(progress, &[]).unwrap();
        let partitions: Value = row.map_or(Value::Null, |row| row.get(0));
        partitions
            .as_array()
            .into_iter()
            .flatten()
            .map(|report| report["next_offset"].as_i64().unwrap())
            .sum()
    };
    let mut run = deployment.start("run", "run -w 2");
    assert!(eventually(|| read() == there), "{} of {there}: {}", read(), run.stderr());
    run.end(Signal::SIGTERM).succeeded();
}

/// Rows of statements 2 and 3, without what is of the clock or says that a window is closed.
fn rows(deployment: &Deployment) -> BTreeSet<String> {
    let rows =
        "SELECT (to_jsonb(t) - ARRAY['id', 'is_final', 'updated_at'])::text FROM ad_performance_metrics_realtime t
         UNION ALL SELECT (to_jsonb(t) - 'processed_at')::text FROM conversion_attribution_results t";
    deployment.postgres().query(rows, &[]).unwrap().iter().map(|row| row.get(0)).collect()
}

fn refunds(deployment: &Deployment) -> BTreeSet<String> {
    committed(deployment, "compensation-events").iter().map(Value::to_string).collect()
}

fn admin(deployment: &Deployment) -> (AdminClient<DefaultClientContext>, tokio::runtime::Runtime) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    (client(deployment).create().unwrap(), runtime)
}

/// Deletes the first half of each of a topic's partitions, as retention does.
fn delete_half(deployment: &Deployment, topic: &str) {
    let mut offsets = TopicPartitionList::new();
    for (number, end) in (0..).zip(ends(deployment, topic)) {
        let name = format!("{}-{topic}", deployment.name);
        offsets.add_partition_offset(&name, number, Offset::Offset(end / 2)).unwrap();
    }
    let (admin, runtime) = admin(deployment);
    runtime.block_on(admin.delete_records(&offsets, &AdminOptions::new())).unwrap();
}

#[test]
fn what_is_committed_survives_the_loss_of_its_input() {
    let Some((_alone, deployment)) = deploy(SETTINGS) else { return };
    deployment.run("generate --to-kafka --ad-events 20000").succeeded();
    read_all(&deployment);
    let (rows_before, refunds_before) = (rows(&deployment), refunds(&deployment));
    assert!(rows_before.len() > 100 && !refunds_before.is_empty(), "{} rows", rows_before.len());
    for topic in ["ad-events", "conversion-events", "campaign-events", "product-meta"] {
        delete_half(&deployment, topic);
    }
    // From the checkpoint nothing is missing.
    read_all(&deployment);
    assert_eq!((rows(&deployment), refunds(&deployment)), (rows_before.clone(), refunds_before.clone()));

    let refused = deployment.run("run -w 2 --until-end --from-checkpoint none").failed_saying(&[
        "ad-events [0]: offsets 0 to",
        "conversion-events [3]: offsets 0 to",
        "campaign-events [1]: offsets 0 to",
        "they happened up to 20",
        "--accept-loss",
    ]);
    assert!(!refused.stderr.contains("product-meta ["), "{}", refused.stderr);
    assert_eq!((rows(&deployment), refunds(&deployment)), (rows_before.clone(), refunds_before.clone()));

    let accepted = deployment.run("run -w 2 --until-end --from-checkpoint none --accept-loss").succeeded();
    assert!(accepted.stderr.contains("a loss is accepted"), "{}", accepted.stderr);
    let (rows, refunds) = (rows(&deployment), refunds(&deployment));
    let changed: Vec<_> = rows_before.difference(&rows).take(3).collect();
    assert!(changed.is_empty(), "rows were replaced: {changed:?}");
    assert!(refunds.is_superset(&refunds_before));
    let late = committed(&deployment, "late-events");
    assert!(late.iter().all(|late| late["reason"] != Value::Null), "{:?}", late.first());
}

/// Deletes a topic, creates it anew, and fills it with more than there was.
fn make_anew(deployment: &Deployment, topic: &str) {
    let before = ends(deployment, topic);
    let (admin, runtime) = admin(deployment);
    let name = format!("{}-{topic}", deployment.name);
    let deleted = runtime.block_on(admin.delete_topics(&[&name], &AdminOptions::new())).unwrap();
    assert_eq!(deleted, [Ok(name)]);
    deployment.run("topics create").succeeded();
    deployment.run("generate --to-kafka --ad-events 6000 --seed 7").succeeded();
    let after = ends(deployment, topic);
    assert!(after.iter().zip(&before).all(|(after, before)| after > before), "{before:?}, {after:?}");
}

#[test]
fn a_topic_that_was_made_anew_is_refused() {
    let Some((_alone, deployment)) = deploy(SETTINGS) else { return };
    deployment.run("generate --to-kafka --ad-events 3000").succeeded();
    read_all(&deployment);
    let rows_before = rows(&deployment);
    make_anew(&deployment, "ad-events");
    let refused = ["-ad-events [", "holds another record at offset", "created anew", "key name"];
    for from in ["newest", "none"] {
        for end in ["--until-end", "--follow"] {
            deployment.run(&format!("run -w 2 {end} --from-checkpoint {from}")).failed_saying(&refused);
            assert_eq!(rows(&deployment), rows_before);
        }
    }
}
