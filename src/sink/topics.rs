//! Output topics as files: `compensation-events`, `late-events` and `dead-letter`.
//!
//! Each commit appends to the files and then replaces the progress file, which holds how long each of them
//! is; the replacement is the atomic step. What lies beyond the length that the progress file names was never
//! committed.
//!
//! A run that starts over makes new files, and a new *generation* of them: whoever has the old ones open
//! reads nothing of the new run as if it were of the old one. Without a progress file there is no generation,
//! and nothing to be read.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use adtide_dataflows::model::Epoch;
use adtide_dataflows::operators::{PartitionReport, Watermarks};
use anyhow::Context;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Change, Commit, Progress, Run, Sink, Stored, TOPICS, by_partition, cannot};
use crate::{files, json};

/// The progress file's name, beside the topics.
const PROGRESS: &str = ".adtide-progress.json";

/// The output topics of one folder.
pub struct TopicSink {
    folder: PathBuf,
    generation: String,
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
    /// Which files they are: another one since a run has started over.
    #[serde(default)]
    generation: String,
    /// How long each topic's file is.
    lengths: BTreeMap<String, u64>,
}

impl TopicSink {
    /// Opens the files `FOLDER/<topic>.ndjson`. With `resume`, what was not committed is cut off; otherwise,
    /// or if nothing was committed, they are made anew.
    ///
    /// # Errors
    /// The folder or a file in it can't be written, or the progress can't be read.
    pub fn open(folder: &Path, run: &Run, resume: bool) -> anyhow::Result<TopicSink> {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("can't create the folder {}", folder.display()))?;
        files::sweep(folder).with_context(|| format!("can't write to {}", folder.display()))?;
        if !resume {
            forget(folder)?;
        }
        let stored = read(folder)?;
        let length =
            |topic: &str| stored.as_ref().map(|stored| stored.lengths.get(topic).copied().unwrap_or(0));
        let open = |topic: &str| TopicFile::open(folder.join(format!("{topic}.ndjson")), length(topic));
        let topics = TOPICS.into_iter().map(open).collect::<anyhow::Result<_>>()?;
        let generation =
            stored.as_ref().map_or_else(|| Uuid::new_v4().to_string(), |stored| stored.generation.clone());
        let stored = stored.map(|file| Stored { run: run.clone(), progress: file.into() });
        Ok(TopicSink { folder: folder.to_owned(), generation, topics, stored })
    }

    fn write_progress(&self, progress: &Progress) -> anyhow::Result<()> {
        let lengths =
            TOPICS.iter().zip(&self.topics).map(|(topic, file)| ((*topic).to_owned(), file.length)).collect();
        let stored = ProgressFile {
            epoch: progress.epoch,
            watermarks: progress.watermarks,
            partitions: progress.partitions.values().cloned().collect(),
            generation: self.generation.clone(),
            lengths,
        };
        Ok(files::replace(&self.folder.join(PROGRESS), &serde_json::to_vec(&stored)?)?)
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
        self.write_progress(&commit.progress)
            .map_err(|error| cannot("write", &self.folder.join(PROGRESS), error))
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

/// Which generation a topic of this folder is of, and how many bytes of it are committed; None while nothing
/// is.
///
/// # Errors
/// The progress file can't be read.
pub fn committed_part(folder: &Path, topic: &str) -> anyhow::Result<Option<(String, u64)>> {
    let stored = read(folder)?;
    Ok(stored.map(|stored| (stored.generation, stored.lengths.get(topic).copied().unwrap_or(0))))
}

fn read(folder: &Path) -> anyhow::Result<Option<ProgressFile>> {
    let path = folder.join(PROGRESS);
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("can't read {}", path.display())),
    };
    let stored = serde_json::from_slice(&text);
    stored.map(Some).with_context(|| {
        format!("{} is no progress of this version; start over with --fresh", path.display())
    })
}

/// Forgets what is committed in a folder, for a run that starts over.
///
/// # Errors
/// The progress file can't be removed.
pub fn forget(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join(PROGRESS);
    let forget = || {
        files::remove(&path)?;
        if folder.is_dir() { files::sync_folder(&path) } else { Ok(()) }
    };
    forget().with_context(|| format!("can't remove {}", path.display()))
}

impl From<ProgressFile> for Progress {
    fn from(stored: ProgressFile) -> Progress {
        let ProgressFile { epoch, watermarks, partitions, .. } = stored;
        Progress { epoch, watermarks, partitions: by_partition(partitions) }
    }
}

impl TopicFile {
    /// Opens a file of which the first `length` bytes are committed; creates it if that is None.
    fn open(path: PathBuf, length: Option<u64>) -> anyhow::Result<TopicFile> {
        let open = |length: u64| -> std::io::Result<File> {
            let mut file = files::options().create(true).write(true).open(&path)?;
            if file.metadata()?.len() < length {
                return Err(std::io::Error::other(
                    "it is shorter than what was committed; start over with --fresh",
                ));
            }
            file.set_len(length)?;
            file.seek(SeekFrom::Start(length))?;
            Ok(file)
        };
        let file = length.map_or_else(|| files::create(&path), open);
        let file = file.with_context(|| format!("can't write {}", path.display()))?;
        Ok(TopicFile { path, file, length: length.unwrap_or(0), buffer: Vec::new() })
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
