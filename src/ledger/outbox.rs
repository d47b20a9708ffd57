//! The way out to `campaign-events`.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use adtide_dataflows::record::MAX_RECORD_BYTES;
use anyhow::{Context, anyhow, ensure};

use super::CAMPAIGN_EVENTS;
use super::publish::Publisher;
use super::store::Waiting;
use super::store::sqlite::SqliteStore;
use crate::connect::Fault;
use crate::source::file::topic_files;

/// Publishes campaign events.
pub trait Outbox {
    /// Appends the events, in order. If it fails, some may have been; doing it again is harmless, as an event
    /// carries its own time.
    ///
    /// # Errors
    /// They can't be written.
    fn publish(&mut self, events: &[Waiting]) -> Result<(), Fault>;
}

/// To Kafka.
pub struct KafkaOutbox(pub Publisher);

impl Outbox for KafkaOutbox {
    fn publish(&mut self, events: &[Waiting]) -> Result<(), Fault> {
        let records = events.iter().map(|event| (event.campaign_id.to_string(), event.event.clone()));
        self.0.publish(CAMPAIGN_EVENTS, records)
    }
}

/// To topic files: where the topic is a folder, to a partition of its own, where it is one file, to that.
pub struct FileOutbox {
    folder: PathBuf,
    store: SqliteStore,
    /// A write has failed, so the file may end within a line.
    is_torn: bool,
    /// A line that its owner has not finished: the file's length, and since when it has it.
    unfinished: Option<(u64, Instant)>,
}

/// How long an owner may take to write the rest of a line.
const UNFINISHED: Duration = Duration::from_secs(10);

impl FileOutbox {
    /// The outbox of a folder of topics. Which partition is its own stands in the database.
    ///
    /// # Errors
    /// The database can't be opened.
    pub fn new(folder: &Path, database: &Path) -> anyhow::Result<FileOutbox> {
        let (folder, store) = (folder.to_owned(), SqliteStore::open(database)?);
        Ok(FileOutbox { folder, store, is_torn: false, unfinished: None })
    }

    /// The file to append to, and whether nobody else does.
    fn target(&mut self) -> Result<(PathBuf, bool), Fault> {
        let name = CAMPAIGN_EVENTS;
        let single = self.folder.join(format!("{name}.ndjson"));
        if single.is_file() {
            return Ok((single, false));
        }
        let folder = &self.folder;
        let number = self.store.own_partition(|| {
            let files = topic_files(folder)?;
            let taken =
                files.into_iter().filter(|(topic, _, _)| topic.name() == name).map(|(_, number, _)| number);
            taken.max().map_or(Ok(0), |last| last.checked_add(1).context("no partition number is free"))
        })?;
        Ok((self.folder.join(name).join(format!("{number}.ndjson")), true))
    }

    fn append(&mut self, path: &Path, is_own: bool, events: &[Waiting]) -> anyhow::Result<()> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let mut file = OpenOptions::new().create(true).append(true).read(true).open(path)?;
        let mut lines = Vec::new();
        // An empty line is no record. A torn line becomes a bad record, but takes no good one with it.
        let end = last_line(&mut file)?;
        if self.is_torn || end != End::Line {
            ensure!(self.is_torn || is_own || self.may_end_line(end), "its last line is not finished yet");
            lines.push(b'\n');
        }
        for event in events {
            lines.extend_from_slice(event.event.as_bytes());
            lines.push(b'\n');
        }
        // One write, so that no other writer's lines come in between.
        self.is_torn = true;
        let written = file.write(&lines)?;
        anyhow::ensure!(written == lines.len(), "only a part could be written; is the disk full?");
        file.sync_data()?;
        self.is_torn = false;
        Ok(())
    }
}

impl FileOutbox {
    /// Whether a line feed may be put behind what an owner has written: a record without one is complete, but
    /// what is only a part of a record may still get its rest. One that does not get it in time never will.
    fn may_end_line(&mut self, end: End) -> bool {
        let End::Within { length, is_record } = end else { return true };
        let since = self
            .unfinished
            .filter(|(known, _)| *known == length)
            .map_or_else(Instant::now, |(_, since)| since);
        self.unfinished = Some((length, since));
        is_record || since.elapsed() >= UNFINISHED
    }
}

/// How a file of records ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// With a line feed, or it is empty.
    Line,
    /// Without one, so long, and what follows the last line feed is a whole record.
    Within { length: u64, is_record: bool },
}

fn last_line(file: &mut File) -> anyhow::Result<End> {
    let length = file.metadata()?.len();
    // What is longer is no record.
    let start = length.saturating_sub(MAX_RECORD_BYTES as u64 + 1);
    file.seek(SeekFrom::Start(start))?;
    let mut tail = Vec::new();
    Read::by_ref(file).take(length - start).read_to_end(&mut tail)?;
    if tail.last().is_none_or(|last| *last == b'\n') {
        return Ok(End::Line);
    }
    let line = memchr::memrchr(b'\n', &tail).map_or(&tail[..], |end| &tail[end + 1..]);
    let is_record = serde_json::from_slice::<serde::de::IgnoredAny>(line).is_ok();
    Ok(End::Within { length, is_record })
}

impl Outbox for FileOutbox {
    fn publish(&mut self, events: &[Waiting]) -> Result<(), Fault> {
        let (path, is_own) = self.target()?;
        let appended = self.append(&path, is_own, events);
        // Room on the disk may come back; an effect of the ledger waits for it in the outbox.
        appended.map_err(|error| Fault::Passing(anyhow!("can't append to {}: {error:#}", path.display())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_line_of_an_owner_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("campaign-events.ndjson");
        let mut outbox = FileOutbox::new(folder.path(), &folder.path().join("adtide.db")).unwrap();
        let events = [Waiting { event_id: 1, campaign_id: 1, event: "{\"own\":1}".to_owned() }];
        std::fs::write(&path, "{\"one\":1}\n{\"tw").unwrap();
        assert!(matches!(outbox.publish(&events), Err(Fault::Passing(_))));
        std::fs::write(&path, "{\"one\":1}\n{\"two\":2}").unwrap();
        outbox.publish(&events).unwrap();
        let whole = "{\"one\":1}\n{\"two\":2}\n{\"own\":1}\n";
        assert_eq!(std::fs::read_to_string(&path).unwrap(), whole);
        // Its rest never comes.
        std::fs::write(&path, "{\"tw").unwrap();
        assert!(outbox.publish(&events).is_err());
        outbox.unfinished =
            outbox.unfinished.map(|(length, since)| (length, since.checked_sub(UNFINISHED).unwrap()));
        outbox.publish(&events).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"tw\n{\"own\":1}\n");
    }
}
