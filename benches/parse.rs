//! Parsing: the flat scanner against the full parser, and the whole way in.

use std::hint::black_box;

use adtide::source::generator::{GeneratorConfig, Traffic};
use adtide_dataflows::model::{EventTime, Topic, UnknownIds};
use adtide_dataflows::record::{Scanner, ad_event};
use adtide_dataflows::{Ingest, Settings};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// Generated ad events, as lines.
fn lines() -> Vec<Vec<u8>> {
    let config = GeneratorConfig { ad_events: 20_000, malformed: 0.0, ..GeneratorConfig::default() };
    let mut traffic = Traffic::new(&config).expect("the default configuration is right");
    let mut lines = Vec::new();
    let mut line = Vec::new();
    while let Some(arrival) = traffic.next(&mut line) {
        if arrival.topic == Topic::AdEvents {
            lines.push(line.clone());
        }
    }
    lines
}

fn parse(criterion: &mut Criterion) {
    let lines = lines();
    let mut group = criterion.benchmark_group("ad events");
    group.throughput(Throughput::Elements(lines.len() as u64));
    group.bench_function("flat scanner", |bencher| {
        let (mut scanner, unknown) = (Scanner::default(), UnknownIds::default());
        bencher.iter(|| {
            for line in &lines {
                black_box(scanner.read(line, |fields| ad_event(fields, &unknown).map(|event| event.time)))
                    .ok();
            }
        });
    });
    group.bench_function("serde_json to a value", |bencher| {
        bencher.iter(|| {
            for line in &lines {
                black_box(serde_json::from_slice::<serde_json::Value>(line)).ok();
            }
        });
    });
    group.bench_function("ingest", |bencher| {
        let mut ingest = Ingest::new(&Settings::default());
        ingest.set_clock(EventTime::LAST);
        let partition = ingest.add_partition(Topic::AdEvents, 0, 0);
        bencher.iter(|| {
            for (offset, line) in lines.iter().enumerate() {
                ingest.record(partition, offset as u64, line);
            }
            ingest.batch().clear();
        });
    });
}

criterion_group!(benches, parse);
criterion_main!(benches);
