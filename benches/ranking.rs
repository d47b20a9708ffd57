//! Statement 1: a batch of campaign events, and one bid change in a ranking of 10,000 campaigns until the
//! changed ranking is out.

use std::time::{Duration, Instant};

use adtide_dataflows::model::{EventTime, Topic};
use adtide_dataflows::{Ingest, Inputs, Settings, dataflow};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use timely::dataflow::operators::probe::Handle;
use timely::worker::Worker;

const CAMPAIGNS: u64 = 10_000;
const EVENTS: u64 = 60_000;

/// The dataflow of one worker with 10,000 campaigns in one ranking, all with rates and prices.
struct Bench {
    inputs: Inputs,
    ingest: Ingest,
    probe: Handle<u64>,
    offset: u64,
}

impl Bench {
    fn new(worker: &mut Worker) -> Bench {
        let settings = Settings::default();
        let probe = Handle::new();
        let inputs = worker.dataflow(|scope| {
            let (inputs, outputs, _state) = dataflow(scope, &settings);
            outputs.rankings.probe_with(&probe);
            inputs
        });
        let mut ingest = Ingest::new(&settings);
        ingest.set_clock(EventTime::LAST);
        let metrics = ingest.add_partition(Topic::ProductMetrics, 0, 0);
        let meta = ingest.add_partition(Topic::ProductMeta, 0, 0);
        for product in 0..1000 {
            let rates = format!(r#"{{"product_id":{product},"ctr":0.0{},"cvr":0.01}}"#, 1 + product % 9);
            ingest.record(metrics, product, rates.as_bytes());
            let price = format!(r#"{{"product_id":{product},"product_price":{}.99}}"#, 1 + product % 300);
            ingest.record(meta, product, price.as_bytes());
        }
        let mut bench = Bench { inputs, ingest, probe, offset: 0 };
        // The partition of campaign events, number 2.
        bench.ingest.add_partition(Topic::CampaignEvents, 0, 0);
        bench
    }

    /// Sets a campaign's bid, later than all bids before.
    fn bid(&mut self, campaign: u64, cents: u64) {
        let partition = self.ingest.partition(Topic::CampaignEvents, 0).expect("it was added");
        let record = format!(
            r#"{{"event_type":"CAMPAIGN_UPDATE","timestamp_field":{},"campaign_id":{campaign},"advertiser_id":{},"product_id":{},"placement":"home","category":"shoes","bid_price":{}.{:02},"status":"ACTIVE"}}"#,
            1_700_000_000_000 + self.offset,
            campaign / 10,
            campaign % 1000,
            cents / 100,
            cents % 100,
        );
        self.ingest.record(partition, self.offset, record.as_bytes());
        self.offset += 1;
    }

    /// Ends the epoch and waits until its changes are out.
    fn step(&mut self, worker: &mut Worker) {
        let epoch = self.inputs.epoch();
        self.inputs.send(self.ingest.batch());
        self.inputs.advance_to(epoch + 1);
        worker.step_while(|| self.probe.less_equal(&epoch));
    }
}

/// Measures in a worker how long `work` takes.
fn measure(work: impl Fn(&mut Worker) -> Duration + Send + Sync + 'static) -> Duration {
    timely::execute_directly(work)
}

fn ranking(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("rtb_cache_updater");
    group.bench_function("one bid change in a ranking of 10,000", |bencher| {
        bencher.iter_custom(|changes| {
            measure(move |worker| {
                let mut bench = Bench::new(worker);
                (0..CAMPAIGNS).for_each(|campaign| bench.bid(campaign, 100 + campaign % 900));
                bench.step(worker);
                let started = Instant::now();
                for change in 0..changes {
                    // Always among the best hundred, so that the ranking changes each time.
                    bench.bid(change * 7919 % CAMPAIGNS, 5000 + change % 4999);
                    bench.step(worker);
                }
                started.elapsed()
            })
        });
    });
    group.throughput(Throughput::Elements(EVENTS));
    group.sample_size(20);
    group.bench_function("60,000 campaign events in batches of 1,000", |bencher| {
        bencher.iter_custom(|times| {
            measure(move |worker| {
                (0..times)
                    .map(|_| {
                        let mut bench = Bench::new(worker);
                        bench.step(worker);
                        let started = Instant::now();
                        for event in 0..EVENTS {
                            bench.bid(event * 7919 % CAMPAIGNS, 100 + event * 31 % 9000);
                            if event % 1000 == 999 {
                                bench.step(worker);
                            }
                        }
                        started.elapsed()
                    })
                    .sum()
            })
        });
    });
}

criterion_group!(benches, ranking);
criterion_main!(benches);
