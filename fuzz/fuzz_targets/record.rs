//! Any bytes as a record of each topic: nothing panics, and the flat scanner gives what the full parser
//! gives, also after the records before, whose shape it remembers: fields, ad events, and reasons of bad
//! ones. Records are separated by line feeds.

#![no_main]

use adtide_dataflows::model::{EventTime, Topic};
use adtide_dataflows::record::{Scanner, ad_event};
use adtide_dataflows::{Ingest, Settings};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut scanner = Scanner::default();
    let settings = Settings::default();
    let mut ingest = Ingest::new(&settings);
    ingest.set_clock(EventTime::LAST);
    let partitions = Topic::ALL.map(|topic| ingest.add_partition(topic, 0, 0));
    for (record, offset) in data.split(|byte| *byte == b'\n').zip(0..) {
        let flat = scanner.read(record, |fields| Ok(format!("{fields:?}")));
        let full = scanner.read_full(record, |fields| Ok(format!("{fields:?}")));
        assert_eq!(flat, full);
        let unknown = &settings.unknown_ids;
        let flat = scanner.read(record, |fields| ad_event(fields, unknown).map(|event| format!("{event:?}")));
        let full = scanner.read_full(record, |fields| ad_event(fields, unknown).map(|event| format!("{event:?}")));
        assert_eq!(flat, full);
        for partition in partitions {
            ingest.record(partition, offset, record);
        }
    }
});
