//! Output topics as files: `compensation-events`, `late-events` and `dead-letter`.
//!
//! Each commit appends to the files and then replaces the progress file, which holds how long each of them is; the
//! replacement is the atomic step. What lies beyond the length that the progress file names was never committed.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use adtide_dataflows::model::Epoch;
use adtide_dataflows::operators::{PartitionReport, Watermarks};
use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::{Change, Commit, Progress, Run, Sink, Stored, TOPICS, by_partition, cannot};
use crate::json;

/// The progress file's name, beside the topics.
const PROGRESS: &str = ".adtide-progress.json";

/// The output topics of one folder.
pub struct TopicSink {
    folder: PathBuf,
    topics: Vec<TopicFile>,
    stored: Option<Stored>,
}

struct TopicFile {
    path: PathBuf,
    file: File,
    length: u64,
    buffer: Vec<u8>,
}

/// The progress file.
#[derive(Serialize, Deserialize)]
struct ProgressFile {
    epoch: Epoch,
    watermarks: Option<Watermarks>,
    partitions: Vec<PartitionReport>,
    /// How long each topic's file is.
    lengths: BTreeMap<String, u64>,
}

impl TopicSink {
    /// Opens the files `FOLDER/<topic>.ndjson`. With `resume`, what was not committed is cut off; otherwise they are
    /// emptied.
    ///
    /// # Errors
    /// The folder or a file in it can't be written, or the progress can't be read.
    pub fn open(folder: &Path, run: &Run, resume: bool) -> anyhow::Result<TopicSink> {
        std::fs::create_dir_all(folder).with_context(|| format!("can't create the folder {}", folder.display()))?;
        if !resume {
            forget(folder)?;
        }
        let stored = read(folder)?;
        let length = |topic: &str| stored.as_ref().and_then(|stored| stored.lengths.get(topic)).copied().unwrap_or(0);
        let open = |topic: &str| TopicFile::open(folder.join(format!("{topic}.ndjson")), length(topic));
        let topics = TOPICS.into_iter().map(open).collect::<anyhow::Result<_>>()?;
        let stored = stored.map(|file| Stored { run: run.clone(), progress: file.into() });
        Ok(TopicSink { folder: folder.to_owned(), topics, stored })
    }

    fn write_progress(&self, progress: &Progress) -> anyhow::Result<()> {
        let lengths = TOPICS.iter().zip(&self.topics).map(|(topic, file)| ((*topic).to_owned(), file.length)).collect();
        let stored = ProgressFile {
            epoch: progress.epoch,
            watermarks: progress.watermarks,
            partitions: progress.partitions.values().copied().collect(),
            lengths,
        };
        let temporary = self.folder.join(format!("{PROGRESS}.new"));
        std::fs::write(&temporary, serde_json::to_vec(&stored)?)?;
        Ok(std::fs::rename(&temporary, self.folder.join(PROGRESS))?)
    }
}

impl Sink for TopicSink {
    fn name(&self) -> &'static str {
        "topics"
    }

    fn stored(&self) -> Option<Stored> {
        self.stored.clone()
    }

    fn commit(&mut self, commit: Commit) -> anyhow::Result<()> {
        let now = crate::now();
        for change in commit.epochs.into_iter().flatten() {
            let (topic, line) = match change {
                Change::Compensation(row) => (0, json::compensation(&row, now, usize::MAX)),
                Change::Late(event) => (1, json::late_event(&event, usize::MAX)),
                Change::Dead(letter) => (2, json::dead_letter(&letter, usize::MAX)),
                _ => continue,
            };
            self.topics[topic].buffer.extend_from_slice(line.as_bytes());
            self.topics[topic].buffer.push(b'\n');
        }
        for topic in &mut self.topics {
            topic.flush().map_err(|error| cannot("append to", &topic.path, error))?;
        }
        self.write_progress(&commit.progress).map_err(|error| cannot("write", &self.folder.join(PROGRESS), error))
    }
}

/// How far the topics of a folder have got; None if they are new.
///
/// # Errors
/// The progress file can't be read.
pub fn committed(folder: &Path) -> anyhow::Result<Option<Progress>> {
    Ok(read(folder)?.map(Progress::from))
}

/// As [`committed`], with how many bytes of each topic that is; what lies beyond may be cut off again.
///
/// # Errors
/// The progress file can't be read.
pub fn committed_lengths(folder: &Path) -> anyhow::Result<Option<(Progress, BTreeMap<String, u64>)>> {
    let stored = read(folder)?;
    Ok(stored.map(|mut file| {
        let lengths = std::mem::take(&mut file.lengths);
        (file.into(), lengths)
    }))
}

/// How many bytes of a topic of this folder are committed.
///
/// # Errors
/// The progress file can't be read.
pub fn committed_length(folder: &Path, topic: &str) -> anyhow::Result<u64> {
    Ok(read(folder)?.and_then(|stored| stored.lengths.get(topic).copied()).unwrap_or(0))
}

fn read(folder: &Path) -> anyhow::Result<Option<ProgressFile>> {
    let path = folder.join(PROGRESS);
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("can't read {}", path.display())),
    };
    let stored = serde_json::from_slice(&text);
    stored
        .map(Some)
        .with_context(|| format!("{} is no progress of this version; start over with --fresh", path.display()))
}

/// Forgets what is committed in a folder, for a run that starts over.
///
/// # Errors
/// The progress file can't be removed.
pub fn forget(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join(PROGRESS);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("can't remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

impl From<ProgressFile> for Progress {
    fn from(stored: ProgressFile) -> Progress {
        let ProgressFile { epoch, watermarks, partitions, .. } = stored;
        Progress { epoch, watermarks, partitions: by_partition(partitions) }
    }
}

impl TopicFile {
    /// Opens or creates a file of which the first `length` bytes are committed.
    fn open(path: PathBuf, length: u64) -> anyhow::Result<TopicFile> {
        let open = || -> std::io::Result<File> {
            let mut file = OpenOptions::new().create(true).write(true).truncate(false).open(&path)?;
            if file.metadata()?.len() < length {
                return Err(std::io::Error::other("it is shorter than what was committed; start over with --fresh"));
            }
            file.set_len(length)?;
            file.seek(SeekFrom::Start(length))?;
            Ok(file)
        };
        let file = open().with_context(|| format!("can't write {}", path.display()))?;
        Ok(TopicFile { path, file, length, buffer: Vec::new() })
    }

    fn flush(&mut self) -> std::io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        self.file.write_all(&self.buffer)?;
        self.file.sync_data()?;
        self.length += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}
