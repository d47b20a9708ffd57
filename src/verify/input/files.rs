//! Topics as files: a line is a record, its number the offset.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind};
use std::path::{Path, PathBuf};

use adtide_dataflows::Stamp;
use adtide_dataflows::model::Topic;
use adtide_dataflows::operators::FileMark;
use anyhow::{Context, bail, ensure};

use super::{Ends, Input, Offsets, TopicRecord};
use crate::connect::kafka::Bounds;
use crate::source::lines::{self, Parts};

/// The input topics of a folder.
#[derive(Debug)]
pub struct TopicFiles {
    dir: PathBuf,
    marks: Marks,
}

/// The files that the partitions were read from last.
pub type Marks = BTreeMap<(Topic, u32), FileMark>;

impl TopicFiles {
    /// The topics in `dir`.
    ///
    /// # Errors
    /// There is no such folder.
    pub fn new(dir: &Path) -> anyhow::Result<TopicFiles> {
        ensure!(
            dir.is_dir(),
            "{}: no such folder; name the one with the topic files that the run read",
            dir.display()
        );
        Ok(TopicFiles { dir: dir.to_owned(), marks: Marks::new() })
    }

    /// The same, where a run has read these files last: there may be others before and behind them.
    pub fn read_last(self, marks: Marks) -> TopicFiles {
        TopicFiles { marks, ..self }
    }
}

impl Input for TopicFiles {
    fn each_record(
        &mut self,
        topic: Topic,
        until: &Offsets,
        each: &mut dyn FnMut(TopicRecord<'_>),
    ) -> anyhow::Result<()> {
        let mut files = topic_files(&self.dir, topic.name())?;
        for (&partition, &until) in until.iter().filter(|(_, until)| **until > 0) {
            let path = files.remove(&partition);
            let name = || format!("partition {partition} of {} in {}", topic.name(), self.dir.display());
            let path =
                path.with_context(|| format!("{} is not there any more, but results rest on it", name()))?;
            let mut lines = 0;
            for part in parts(&path, self.marks.get(&(topic, partition)))? {
                lines = each_line(&part, lines, until, |offset, value| {
                    each(TopicRecord {
                        partition,
                        offset,
                        key: None,
                        value: Some(value),
                        stamp: Stamp::None,
                    });
                })?;
            }
            ensure!(
                lines >= until,
                "{} holds {lines} records, but results rest on {until}; name the topics that the run read",
                path.display()
            );
        }
        Ok(())
    }

    fn ends(&mut self, topic: Topic) -> anyhow::Result<Ends> {
        let end = |(partition, path): (u32, PathBuf)| {
            let mut end = 0;
            for part in parts(&path, self.marks.get(&(topic, partition)))? {
                end = each_line(&part, end, u64::MAX, |_, _| {})?;
            }
            Ok((partition, Bounds { start: 0, end }))
        };
        topic_files(&self.dir, topic.name())?.into_iter().map(end).collect()
    }
}

/// The files of a partition that results rest on. Those that were rotated away must all be there: there must
/// be as many lines in them as the run had counted.
fn parts(path: &Path, mark: Option<&FileMark>) -> anyhow::Result<Vec<PathBuf>> {
    let Parts { mut older, first, newer } = lines::parts(path, mark)?;
    let (mut parts, mut missing) = (newer, first);
    while missing > 0 {
        let Some(part) = older.pop() else {
            bail!(
                "{}: {missing} of the records that results rest on were in files that have been rotated away and are not beside it \
                 any more, so they can't be verified; put those files back, uncompressed",
                path.display()
            )
        };
        missing = missing.saturating_sub(each_line(&part, 0, u64::MAX, |_, _| ())?);
        parts.insert(0, part);
    }
    Ok(parts)
}

/// Calls `each` with the lines before line `until` that are not empty; the first one is line `first`. Which
/// line comes next.
fn each_line(path: &Path, first: u64, until: u64, mut each: impl FnMut(u64, &[u8])) -> anyhow::Result<u64> {
    let unreadable = || format!("{}: can't be read", path.display());
    let mut reader = BufReader::with_capacity(1 << 16, File::open(path).with_context(unreadable)?);
    let mut line = Vec::new();
    for offset in first..until {
        line.clear();
        if reader.read_until(b'\n', &mut line).with_context(unreadable)? == 0 {
            return Ok(offset);
        }
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        if !text.is_empty() {
            each(offset, text);
        }
    }
    Ok(until.max(first))
}

/// The files of a topic by partition: `DIR/<topic>/<partition>.ndjson`, or `DIR/<topic>.ndjson` as partition
/// 0.
fn topic_files(dir: &Path, topic: &str) -> anyhow::Result<BTreeMap<u32, PathBuf>> {
    let file = dir.join(format!("{topic}.ndjson"));
    let mut files = partition_files(&dir.join(topic))?;
    if file.is_file() {
        if !files.is_empty() {
            bail!("{}: the topic is there as a file and as a folder of partitions: keep one", file.display());
        }
        files.insert(0, file);
    }
    Ok(files)
}

fn partition_files(folder: &Path) -> anyhow::Result<BTreeMap<u32, PathBuf>> {
    let unreadable = || format!("{}: can't be listed", folder.display());
    let mut files = BTreeMap::new();
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(files),
        Err(error) => return Err(error).with_context(unreadable),
    };
    for entry in entries {
        let path = entry.with_context(unreadable)?.path();
        if let Some(partition) = partition_of(&path)
            && let Some(other) = files.insert(partition, path.clone())
        {
            bail!("{} and {} are the same partition: keep one", other.display(), path.display());
        }
    }
    Ok(files)
}

/// Other files in the folder are nobody's partition.
fn partition_of(path: &Path) -> Option<u32> {
    let stem = path.file_name()?.to_str()?.strip_suffix(".ndjson")?;
    if stem.bytes().all(|byte| byte.is_ascii_digit()) { stem.parse().ok() } else { None }
}
