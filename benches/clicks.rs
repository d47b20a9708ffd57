//! Statement 3: what a live click costs in memory, all state counted, by this process's own resident memory.

use adtide_dataflows::model::{EventTime, Topic};
use adtide_dataflows::operators::PartitionState;
use adtide_dataflows::{Ingest, Settings, Statement, dataflow};
use timely::dataflow::operators::probe::Handle;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const CLICKS: u64 = 1_000_000;
/// Clicks an epoch.
const BATCH: u64 = 10_000;

fn main() {
    let settings = Settings { statements: vec![Statement::ConversionMatcher], ..Settings::default() };
    timely::execute_directly(move |worker| {
        let probe = Handle::new();
        let (mut inputs, state) = worker.dataflow(|scope| {
            let (inputs, outputs, state) = dataflow(scope, &settings);
            outputs.attributions.probe_with(&probe);
            (inputs, state)
        });
        let mut ingest = Ingest::new(&settings);
        ingest.set_clock(EventTime::LAST);
        let partition = ingest.add_partition(Topic::AdEvents, 0, 0);
        let before = resident();
        for click in 0..CLICKS {
            // Over twenty hours, so that all are live at the end; half of the devices click twice.
            let record = format!(
                r#"{{"event_type":"CLICK","timestamp_field":{},"ad_id":{},"campaign_id":{},"advertiser_id":{},"product_id":{},"placement":"home","device_id":"d-{:08x}","session_id":"s-{:08x}-{}","actual_price":0.25}}"#,
                1_700_000_000_000 + click * 72,
                click % 30_011,
                click % 10_007,
                click % 1009,
                click % 5003,
                click * 7919 % 750_000,
                click * 7919 % 750_000,
                click / 100_000,
            );
            ingest.record(partition, click, record.as_bytes());
            if click % BATCH == BATCH - 1 {
                ingest.report(partition, PartitionState::Active);
                let epoch = inputs.epoch();
                inputs.send(ingest.batch());
                inputs.advance_to(epoch + 1);
                worker.step_while(|| probe.less_equal(&epoch));
            }
        }
        let (live, index) = (state.matcher.as_of.candidates.get(), state.matcher.as_of.candidate_bytes.get());
        assert_eq!(live as u64, CLICKS, "every click is live");
        println!("{live} live clicks of statement 3");
        println!("  resident memory    {:>6.1} bytes a click", (resident() - before) as f64 / live as f64);
        println!("  the store's tables {:>6.1} bytes a click", index as f64 / live as f64);
    });
}

/// Resident memory of this process in bytes, by Linux's own account.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or_default() * 1024
}
