//! A replay: the same records in one epoch and in many give the same refunds.
//!
//! ```text
//! cargo run --example replay
//! ```

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use adtide::source::generator::{GeneratorConfig, Traffic};
use adtide_dataflows::model::{EventTime, Money, Topic};
use adtide_dataflows::operators::PartitionState;
use adtide_dataflows::{Ingest, Settings, dataflow};

/// What each advertiser gets back.
type Refunds = BTreeMap<i64, Money>;

fn main() -> anyhow::Result<()> {
    let config = GeneratorConfig { ad_events: 50_000, partitions: 1, ..GeneratorConfig::default() };
    let mut traffic = Traffic::new(&config)?;
    let (mut clicks, mut line) = (Vec::new(), Vec::new());
    while let Some(arrival) = traffic.next(&mut line) {
        if arrival.topic == Topic::AdEvents {
            clicks.push(line.clone());
        }
    }
    let (at_once, bit_by_bit) = (refunds(clicks.clone(), usize::MAX), refunds(clicks, 100));
    let total: Money = at_once.values().copied().sum();
    println!("{} advertisers get {total} back", at_once.len());
    anyhow::ensure!(at_once == bit_by_bit, "the two replays differ");
    println!("in one epoch and in many: the same to the cent");
    Ok(())
}

/// Runs over the records, `batch` an epoch.
fn refunds(records: Vec<Vec<u8>>, batch: usize) -> Refunds {
    let refunds = Arc::new(Mutex::new(Refunds::new()));
    let collected = Arc::clone(&refunds);
    timely::execute_directly(move |worker| {
        let settings = Settings::default();
        let mut inputs = worker.dataflow(|scope| {
            let (inputs, outputs, _state) = dataflow(scope, &settings);
            outputs.compensations.inspect(move |(refund, _, _)| {
                let mut refunds = collected.lock().expect("nobody panics with it");
                *refunds.entry(refund.advertiser_id).or_default() += refund.refund_amount;
            });
            inputs
        });
        let mut ingest = Ingest::new(&settings);
        ingest.set_clock(EventTime::LAST);
        let partition = ingest.add_partition(Topic::AdEvents, 0, 0);
        ingest.report(partition, PartitionState::Active);
        let mut offset = 0;
        for records in records.chunks(batch) {
            for record in records {
                ingest.record(partition, offset, record);
                offset += 1;
            }
            ingest.report(partition, PartitionState::Active);
            inputs.send(ingest.batch());
            inputs.advance_to(inputs.epoch() + 1);
            worker.step();
        }
        ingest.report(partition, PartitionState::Finished);
        inputs.send(ingest.batch());
    });
    Arc::into_inner(refunds).and_then(|refunds| refunds.into_inner().ok()).unwrap_or_default()
}
