//! The records as topic files.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use adtide_dataflows::model::Topic;
use anyhow::{Context, bail};

use super::{GeneratorConfig, Traffic};
use crate::clock::steady_now;

const BUFFER: usize = 256 * 1024;
/// How many ad events there are between two reports of progress.
const REPORT: u64 = 1 << 16;

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Generated {
    /// Number of records, bad ones included, in the order of [`Topic::ALL`].
    pub records: [u64; Topic::ALL.len()],
    /// Bytes in all files.
    pub bytes: u64,
}

/// Writes all input topics as `topics`/`<topic>`/`<partition>.ndjson`, in place of such files that are there.
///
/// `progress` gets the number of ad events written and that of all, from time to time and at the end.
///
/// # Errors
/// Says which value of the configuration can't be, or which file can't be written. A topic that has more
/// partitions already is an error too: the records of another run would be read together with these.
pub fn generate(
    config: &GeneratorConfig,
    topics: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> anyhow::Result<Generated> {
    let mut traffic = Traffic::new(config)?;
    let mut files = Files::create(topics, config.partitions)?;
    let mut generated = Generated::default();
    let mut line = Vec::with_capacity(1024);
    let mut ads = 0;
    while let Some(arrival) = traffic.next(&mut line) {
        line.push(b'\n');
        files.write(arrival.topic, arrival.partition, &line)?;
        generated.records[arrival.topic as usize] += 1;
        generated.bytes += line.len() as u64;
        if arrival.topic == Topic::AdEvents {
            ads += 1;
            if ads % REPORT == 0 {
                progress(ads, config.ad_events);
            }
        }
    }
    files.finish()?;
    progress(ads, config.ad_events);
    Ok(generated)
}

/// Writes the traffic in real time: each record when the clock reaches its arrival, until the span ends or
/// `stop` says so.
///
/// # Errors
/// As [`generate`].
pub fn live(config: &GeneratorConfig, topics: &Path, stop: &dyn Fn() -> bool) -> anyhow::Result<()> {
    const PAUSE: Duration = Duration::from_millis(20);
    let mut traffic = Traffic::new(config)?;
    let mut files = Files::create(topics, config.partitions)?;
    let mut line = Vec::with_capacity(1024);
    while let Some(arrival) = traffic.next(&mut line) {
        while arrival.at > steady_now() {
            files.finish()?;
            if stop() {
                return Ok(());
            }
            std::thread::sleep(PAUSE);
        }
        line.push(b'\n');
        files.write(arrival.topic, arrival.partition, &line)?;
    }
    files.finish()
}

/// The open files of all topics: those of the first topic, those of the second, ...
struct Files {
    partitions: u32,
    open: Vec<(PathBuf, BufWriter<File>)>,
}

impl Files {
    fn create(topics: &Path, partitions: u32) -> anyhow::Result<Files> {
        let mut open = Vec::new();
        for topic in Topic::ALL {
            let folder = topics.join(topic.name());
            fs::create_dir_all(&folder).with_context(|| format!("can't create {}", folder.display()))?;
            refuse_leftover(&folder, partitions)?;
            for partition in 0..partitions {
                let path = folder.join(format!("{partition}.ndjson"));
                let file = File::create(&path).with_context(|| format!("can't create {}", path.display()))?;
                open.push((path, BufWriter::with_capacity(BUFFER, file)));
            }
        }
        Ok(Files { partitions, open })
    }

    #[inline]
    fn write(&mut self, topic: Topic, partition: u32, line: &[u8]) -> anyhow::Result<()> {
        let index = topic as usize * self.partitions as usize + partition as usize;
        let (path, file) = &mut self.open[index];
        file.write_all(line).with_context(|| format!("can't write {}", path.display()))
    }

    fn finish(&mut self) -> anyhow::Result<()> {
        for (path, file) in &mut self.open {
            file.flush().with_context(|| format!("can't write {}", path.display()))?;
        }
        Ok(())
    }
}

/// Partitions are numbered from 0 without a gap: if the one after the last is there, there are too many.
fn refuse_leftover(folder: &Path, partitions: u32) -> anyhow::Result<()> {
    let next = folder.join(format!("{partitions}.ndjson"));
    if next.exists() {
        bail!(
            "{} is left from a run with more partitions: remove it or choose another folder",
            next.display()
        );
    }
    Ok(())
}
