//! A sink of your own: attributions to standard output, with the progress that each commit stands for.
//!
//! ```text
//! cargo run -- generate --to /tmp/topics
//! cargo run --example custom_sink -- /tmp/topics
//! ```

use std::path::PathBuf;
use std::time::Duration;

use adtide::sink::{Change, Commit, Sink, Stored, attach, on_thread, progress, tables};
use adtide::source::file::{FileSource, FileSourceConfig};
use adtide::source::{Poll, Source, Start};
use adtide_dataflows::model::Epoch;
use adtide_dataflows::{Ingest, Settings, dataflow};
use timely::dataflow::operators::Concat;

/// Prints what it gets. A commit can be repeated after a crash, so a real sink stores `commit.progress` with
/// its rows.
struct Printer;

impl Sink for Printer {
    fn name(&self) -> &'static str {
        "printer"
    }

    /// Nothing is remembered, so every run starts over.
    fn stored(&self) -> Option<Stored> {
        None
    }

    fn commit(&mut self, commit: Commit) -> anyhow::Result<()> {
        for change in commit.epochs.into_iter().flatten() {
            if let Change::Attribution(row, diff) = change {
                let sign = if diff > 0 { '+' } else { '-' };
                println!(
                    "{sign} order {} {} -> campaign {:?}",
                    row.order_id, row.revenue_amount, row.campaign_id
                );
            }
        }
        println!("  committed epoch {}", commit.progress.epoch);
        Ok(())
    }
}

fn main() -> anyhow::Result<()> {
    let folder = std::env::args().nth(1).map(PathBuf::from);
    let folder = folder.ok_or_else(|| anyhow::anyhow!("name the folder of topics"))?;
    timely::execute_directly(move |worker| {
        let settings = Settings::default();
        let (mut inputs, state) = worker.dataflow(|scope| {
            let (inputs, outputs, state) = dataflow(scope, &settings);
            let first = outputs.late.scope().index() == 0;
            attach(
                tables(&outputs).concat(progress(&outputs)),
                0,
                first.then(|| on_thread(Box::new(Printer))),
                false,
            );
            (inputs, state)
        });
        let mut ingest = Ingest::new(&settings);
        ingest.set_clock(adtide::now());
        let config = FileSourceConfig {
            folder,
            follow: false,
            idle_timeout: Duration::from_secs(5),
            idle_advance: false,
            hold: None,
        };
        let mut source = FileSource::new(config, 0, 1);
        source.start(&mut ingest, &Start::default())?;
        for epoch in 1.. {
            inputs.send(ingest.batch());
            inputs.advance_to(epoch as Epoch);
            worker.step();
            if source.poll(&mut ingest, epoch, &state.watermarks.borrow())? == Poll::Finished {
                break;
            }
            source.report(&mut ingest);
        }
        source.report(&mut ingest);
        inputs.send(ingest.batch());
        Ok(())
    })
}
