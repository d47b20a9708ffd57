//! Output topics as files: `compensation-events`, `late-events` and `dead-letter`.
//!
//! Each commit appends to the files and then replaces the progress file, which holds how long each of them is; the
//! replacement is the atomic step. What lies beyond the length that the progress file names was never committed.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::json;

use super::{Change, Commit, Progress, Sink};
use crate::json;

/// The output topics.
pub const TOPICS: [&str; 3] = ["compensation-events", "late-events", "dead-letter"];

/// The progress file's name, beside the topics.
const PROGRESS: &str = ".adtide-progress.json";

/// The output topics of one folder.
pub struct TopicSink {
    folder: PathBuf,
    topics: Vec<TopicFile>,
}

struct TopicFile {
    path: PathBuf,
    file: File,
    length: u64,
    buffer: Vec<u8>,
}

impl TopicSink {
    /// Creates the files `FOLDER/<topic>.ndjson`, empty: a run without a checkpoint computes all results again.
    ///
    /// # Errors
    /// The folder or a file in it can't be written.
    pub fn open(folder: &Path) -> anyhow::Result<TopicSink> {
        std::fs::create_dir_all(folder).with_context(|| format!("can't create the folder {}", folder.display()))?;
        let open = |topic: &str| -> anyhow::Result<TopicFile> {
            let path = folder.join(format!("{topic}.ndjson"));
            let file = OpenOptions::new().create(true).write(true).truncate(true).open(&path);
            let file = file.with_context(|| format!("can't write {}", path.display()))?;
            Ok(TopicFile { path, file, length: 0, buffer: Vec::new() })
        };
        let topics = TOPICS.into_iter().map(open).collect::<anyhow::Result<_>>()?;
        Ok(TopicSink { folder: folder.to_owned(), topics })
    }

    fn write_progress(&self, progress: &Progress) -> anyhow::Result<()> {
        let lengths: serde_json::Map<_, _> =
            TOPICS.iter().zip(&self.topics).map(|(topic, file)| ((*topic).to_owned(), json!(file.length))).collect();
        let text = json!({
            "epoch": progress.epoch,
            "watermarks": progress.watermarks,
            "partitions": progress.partitions.values().collect::<Vec<_>>(),
            "lengths": lengths,
        });
        let temporary = self.folder.join(format!("{PROGRESS}.new"));
        std::fs::write(&temporary, text.to_string())?;
        Ok(std::fs::rename(&temporary, self.folder.join(PROGRESS))?)
    }
}

impl Sink for TopicSink {
    fn name(&self) -> &'static str {
        "topics"
    }

    fn commit(&mut self, commit: Commit) -> anyhow::Result<()> {
        let now = crate::now();
        for change in commit.epochs.into_iter().flatten() {
            let (topic, line) = match change {
                Change::Compensation(row) => (0, json::compensation(&row, now)),
                Change::Late(event) => (1, json::late_event(&event)),
                Change::Dead(letter) => (2, json::dead_letter(&letter)),
                _ => continue,
            };
            self.topics[topic].buffer.extend_from_slice(line.as_bytes());
            self.topics[topic].buffer.push(b'\n');
        }
        for topic in &mut self.topics {
            topic.flush().with_context(|| format!("can't append to {}; is the disk full?", topic.path.display()))?;
        }
        self.write_progress(&commit.progress)
            .with_context(|| format!("can't write {}; is the disk full?", self.folder.join(PROGRESS).display()))
    }
}

impl TopicFile {
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
