//! A topic as files: `DIR/<topic>/<partition>.ndjson` or `DIR/<topic>.ndjson`, as the statements read it.
//!
//! Offsets are line numbers. Where a line starts is known only while the file is open; a worker that starts counts the
//! lines once.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use adtide_dataflows::model::EventTime;
use adtide_dataflows::record::{BadRecord, MAX_RECORD_BYTES};
use anyhow::{Context, anyhow};

use super::{Change, Feed, Partition, Record};
use crate::connect::Fault;
use crate::sink::topics::committed_length;
use crate::source::file::topic_files;

/// How much is read at once.
const CHUNK: usize = 256 * 1024;

/// How much of one partition is read before the next one has its turn.
const TURN: u64 = 4 * CHUNK as u64;

/// How often the folder is searched for new files.
const RESCAN: Duration = Duration::from_secs(1);

/// How long to wait at the end of all files.
const PAUSE: Duration = Duration::from_millis(20);

/// One topic of a folder.
pub struct FileFeed {
    folder: PathBuf,
    topic: String,
    max_future_skew: i64,
    /// Take a last line that has no line feed.
    until_end: bool,
    /// The file is written by adtide itself: what lies behind its committed length may be cut off again.
    committed_only: bool,
    last_scan: Option<Instant>,
    found: Vec<(Partition, PathBuf)>,
    places: Vec<Place>,
}

/// A file that is read.
struct Place {
    partition: Partition,
    path: PathBuf,
    reader: BufReader<File>,
    /// How many of its bytes were taken.
    position: u64,
    /// Which of them may be taken.
    limit: u64,
    next_offset: u64,
    /// The beginning of a line whose end was not read yet.
    line: Vec<u8>,
    /// How long that line is so far; more than is kept of one that is too large.
    length: u64,
    at_end: bool,
    has_been_at_end: bool,
}

impl FileFeed {
    /// The topic `topic` in `folder`; it need not be there yet.
    pub fn new(folder: &Path, topic: &str, max_future_skew: i64, until_end: bool, committed_only: bool) -> FileFeed {
        FileFeed {
            folder: folder.to_owned(),
            topic: topic.to_owned(),
            max_future_skew,
            until_end,
            committed_only,
            last_scan: None,
            found: Vec::new(),
            places: Vec::new(),
        }
    }

    /// Looks for files that are not read yet.
    fn scan(&mut self) -> anyhow::Result<()> {
        self.last_scan = Some(Instant::now());
        let single = self.folder.join(format!("{}.ndjson", self.topic));
        let files = if self.committed_only {
            single.is_file().then_some((0, single)).into_iter().collect()
        } else {
            let mine = topic_files(&self.folder)?.into_iter().filter(|(topic, _, _)| topic.name() == self.topic);
            mine.map(|(_, number, path)| (number, path)).collect::<Vec<_>>()
        };
        for (number, path) in files {
            let partition = Partition { topic: self.topic.clone(), number };
            let known = self.places.iter().any(|place| place.partition == partition)
                || self.found.iter().any(|(found, _)| *found == partition);
            if !known {
                self.found.push((partition, path));
            }
        }
        Ok(())
    }

    fn read(&mut self, take: &mut dyn FnMut(Record<'_>)) -> anyhow::Result<bool> {
        if self.last_scan.is_none_or(|last| last.elapsed() >= RESCAN) {
            self.scan()?;
        }
        let committed = if self.committed_only { committed_length(&self.folder, &self.topic)? } else { u64::MAX };
        let latest = crate::now().plus(self.max_future_skew);
        let mut any = false;
        for place in &mut self.places {
            place.limit = committed;
            any |= place.read(latest, self.until_end, take).with_context(|| format!("{}", place.path.display()))?;
        }
        Ok(any)
    }
}

impl Feed for FileFeed {
    fn poll(&mut self, wait: Duration, take: &mut dyn FnMut(Record<'_>)) -> Result<(), Fault> {
        let any = self.read(take).map_err(Fault::Lasting)?;
        if !any && self.found.is_empty() {
            std::thread::sleep(wait.min(PAUSE));
        }
        Ok(())
    }

    fn change(&mut self) -> Option<Change> {
        let found = self.found.iter().map(|(partition, _)| partition.clone());
        (!self.found.is_empty()).then(|| Change::Gained(found.collect()))
    }

    fn earliest(&mut self, _partition: &Partition) -> Result<u64, Fault> {
        Ok(0)
    }

    fn start(&mut self, partitions: &[(Partition, u64)]) -> Result<(), Fault> {
        for (partition, path) in std::mem::take(&mut self.found) {
            let next = partitions.iter().find(|(claimed, _)| *claimed == partition).map_or(0, |(_, next)| *next);
            let opened = Place::open(partition, path.clone(), next);
            let opened = opened.with_context(|| format!("can't go on in {}", path.display()));
            self.places.push(opened.map_err(Fault::Lasting)?);
        }
        Ok(())
    }

    fn release(&mut self) -> Result<(), Fault> {
        self.places.clear();
        self.last_scan = None;
        Ok(())
    }

    fn rejoin(&mut self) -> Result<(), Fault> {
        Err(Fault::Lasting(anyhow!(
            "another process has taken over {} in {}; files have one reader: stop one of them",
            self.topic,
            self.folder.display()
        )))
    }

    fn at_end(&self) -> bool {
        self.last_scan.is_some() && self.found.is_empty() && self.places.iter().all(|place| place.at_end)
    }

    fn has_been_at_end(&self) -> bool {
        self.last_scan.is_some() && self.found.is_empty() && self.places.iter().all(|place| place.has_been_at_end)
    }

    fn lag(&mut self) -> Result<u64, Fault> {
        // Lines that were not read can't be counted; an average line of those that were tells about how many they are.
        let lag = self.places.iter().map(|place| {
            let length = place.reader.get_ref().metadata().map_or(0, |metadata| metadata.len()).min(place.limit);
            let line = (place.position / place.next_offset.max(1)).max(1);
            length.saturating_sub(place.position).div_ceil(line)
        });
        Ok(lag.sum())
    }
}

impl Place {
    /// Opens a file and goes to the line `next_offset`.
    fn open(partition: Partition, path: PathBuf, next_offset: u64) -> anyhow::Result<Place> {
        let reader = BufReader::with_capacity(CHUNK, File::open(&path)?);
        let mut place = Place {
            partition,
            path,
            reader,
            position: 0,
            limit: u64::MAX,
            next_offset: 0,
            line: Vec::new(),
            length: 0,
            at_end: false,
            has_been_at_end: false,
        };
        while place.next_offset < next_offset {
            let buffer = place.reader.fill_buf()?;
            if buffer.is_empty() {
                // A last line without line feed may have been taken.
                anyhow::ensure!(
                    place.next_offset + 1 == next_offset && place.length > 0,
                    "it holds {} lines, but {next_offset} have been read before; a topic may only grow: start over with \
                     another data folder",
                    place.next_offset
                );
                place.next_offset = next_offset;
                break;
            }
            let (taken, is_line) = match memchr::memchr(b'\n', buffer) {
                Some(end) => (end + 1, true),
                None => (buffer.len(), false),
            };
            place.length = if is_line { 0 } else { place.length + taken as u64 };
            place.next_offset += u64::from(is_line);
            place.reader.consume(taken);
            place.position += taken as u64;
        }
        place.length = 0;
        Ok(place)
    }

    /// Hands over lines, up to a turn of them. Whether there were any.
    fn read(&mut self, latest: EventTime, until_end: bool, take: &mut dyn FnMut(Record<'_>)) -> anyhow::Result<bool> {
        let end = self.position.saturating_add(TURN);
        let before = self.position;
        self.at_end = false;
        while self.position < end {
            let room = usize::try_from(self.limit.saturating_sub(self.position)).unwrap_or(usize::MAX);
            let buffer = self.reader.fill_buf()?;
            let buffer = &buffer[..buffer.len().min(room)];
            if buffer.is_empty() {
                self.reach_end(latest, until_end, take)?;
                break;
            }
            let line = memchr::memchr(b'\n', buffer);
            let taken = line.unwrap_or(buffer.len());
            if line.is_some() && self.length == 0 {
                // The usual case: the whole line is in the buffer.
                hand_over(&self.partition, self.next_offset, latest, &buffer[..taken], taken as u64, take);
                self.next_offset += 1;
            } else {
                let keep = (MAX_RECORD_BYTES + 1).saturating_sub(self.line.len()).min(taken);
                self.line.extend_from_slice(&buffer[..keep]);
                self.length += taken as u64;
                if line.is_some() {
                    self.end_line(latest, take);
                }
            }
            let consumed = taken + usize::from(line.is_some());
            self.reader.consume(consumed);
            self.position += consumed as u64;
        }
        Ok(self.position > before)
    }

    fn end_line(&mut self, latest: EventTime, take: &mut dyn FnMut(Record<'_>)) {
        hand_over(&self.partition, self.next_offset, latest, &self.line, self.length, take);
        self.next_offset += 1;
        self.line.clear();
        self.length = 0;
    }

    fn reach_end(
        &mut self,
        latest: EventTime,
        until_end: bool,
        take: &mut dyn FnMut(Record<'_>),
    ) -> anyhow::Result<()> {
        let length = self.reader.get_ref().metadata()?.len();
        anyhow::ensure!(
            length >= self.position,
            "it has become shorter while it was read; a topic may only grow: start over with another data folder"
        );
        if until_end && self.length > 0 {
            self.end_line(latest, take);
        }
        self.at_end = true;
        self.has_been_at_end = true;
        Ok(())
    }
}

/// Hands over a line of `length` bytes, of which `line` is all or, if it is too large, the beginning.
fn hand_over(
    partition: &Partition,
    offset: u64,
    latest: EventTime,
    line: &[u8],
    length: u64,
    take: &mut dyn FnMut(Record<'_>),
) {
    let (line, length) = match line.strip_suffix(b"\r") {
        Some(stripped) => (stripped, length - 1),
        None => (line, length),
    };
    let value = match length {
        0 => None,
        length if length > MAX_RECORD_BYTES as u64 => Some(Err(BadRecord::TooLarge(length))),
        _ => Some(Ok(line)),
    };
    take(Record { partition, offset, latest, value });
}
