//! Any bytes as a record of each topic: nothing panics, and the flat scanner gives what the full parser gives, also
//! after the records before, whose shape it remembers. Records are separated by line feeds.

#![no_main]

use adtide_dataflows::model::{EventTime, Topic};
use adtide_dataflows::record::Scanner;
use adtide_dataflows::{Ingest, Settings};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut scanner = Scanner::default();
    let mut ingest = Ingest::new(&Settings::default());
    let partitions = Topic::ALL.map(|topic| ingest.add_partition(topic, 0, 0));
    for (record, offset) in data.split(|byte| *byte == b'\n').zip(0..) {
        let flat = scanner.read(record, |fields| Ok(format!("{fields:?}")));
        let full = scanner.read_full(record, |fields| Ok(format!("{fields:?}")));
        assert_eq!(flat, full);
        for partition in partitions {
            ingest.record(partition, offset, record, EventTime::LAST);
        }
    }
});
