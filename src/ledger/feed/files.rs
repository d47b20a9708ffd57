//! A topic as files: `DIR/<topic>/<partition>.ndjson` or `DIR/<topic>.ndjson`, as the statements read it.
//!
//! Offsets are line numbers. Where a line starts is known only while the file is open; a worker that starts
//! counts the lines once.
//!
//! Of the topic that adtide itself writes only what is committed is read, and only of the generation that it
//! was opened for: a run that starts over begins another one, with files of its own.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use adtide_dataflows::model::EventTime;
use adtide_dataflows::record::BadRecord;

use super::{Change, Feed, Mark, Partition, Positions, Record, Start};
use crate::clock::steady_now;
use crate::connect::Fault;
use crate::sink::topics::committed_part;
use crate::source::file::topic_files;
use crate::source::lines::{Line, Lines};

/// How much of one partition is read before the next one has its turn.
const TURN: u64 = 1024 * 1024;

/// How often the folder is searched for new files.
const RESCAN: Duration = Duration::from_secs(1);

/// How the workers start over.
const OVER: &str = "with another data folder";

/// How long to wait at the end of all files.
const PAUSE: Duration = Duration::from_millis(200);

/// One topic of a folder.
pub struct FileFeed {
    folder: PathBuf,
    topic: String,
    max_future_skew: i64,
    /// Take a last line that has no line feed.
    until_end: bool,
    /// The file is written by adtide itself: what lies behind its committed length may be cut off again.
    committed_only: bool,
    /// Of such a file: the generation that is read.
    generation: Option<String>,
    last_scan: Option<Instant>,
    found: Vec<(Partition, PathBuf)>,
    places: Vec<OpenFile>,
}

/// A file that is read.
struct OpenFile {
    partition: Partition,
    lines: Lines,
    at_end: bool,
    has_been_at_end: bool,
}

impl FileFeed {
    /// The topic `topic` in `folder`; it need not be there yet.
    pub fn new(
        folder: &Path,
        topic: &str,
        max_future_skew: i64,
        until_end: bool,
        committed_only: bool,
    ) -> FileFeed {
        FileFeed {
            folder: folder.to_owned(),
            topic: topic.to_owned(),
            max_future_skew,
            until_end,
            committed_only,
            generation: None,
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
            (self.generation.is_some() && single.is_file()).then_some((0, single)).into_iter().collect()
        } else {
            let mine =
                topic_files(&self.folder)?.into_iter().filter(|(topic, _, _)| topic.name() == self.topic);
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

    /// Looks how far the file is committed, and drops what is open if a run has started over.
    fn follow_commits(&mut self) -> anyhow::Result<()> {
        // While a run starts over nothing is committed, and what is open has been read to where it was.
        let Some((generation, length)) = committed_part(&self.folder, &self.topic)? else { return Ok(()) };
        if self.generation.as_ref() != Some(&generation) {
            self.generation = Some(generation);
            self.places.clear();
            self.found.clear();
            self.last_scan = None;
        }
        self.places.iter_mut().for_each(|place| place.lines.limit(length));
        Ok(())
    }

    fn read(&mut self, take: &mut dyn FnMut(Record<'_>)) -> anyhow::Result<bool> {
        if self.committed_only {
            self.follow_commits()?;
        }
        if self.last_scan.is_none_or(|last| last.elapsed() >= RESCAN) {
            self.scan()?;
        }
        let latest = steady_now().plus(self.max_future_skew);
        let mut any = false;
        for place in &mut self.places {
            any |= place.read(latest, self.until_end, take)?;
        }
        Ok(any)
    }

    /// Opens a file at the line from which it is read. None if a run has started over meanwhile.
    fn open(&self, path: &Path, from: &Start) -> anyhow::Result<Option<Lines>> {
        let mut lines = match &from.mark {
            Some(Mark::File(mark)) => Lines::reopen(path, mark, OVER)?,
            _ => Lines::open(path, OVER)?,
        };
        if self.committed_only {
            let committed = committed_part(&self.folder, &self.topic)?;
            // It was opened before this look: if the generation is still the same, so is the file.
            let Some((_, length)) = committed.filter(|(now, _)| self.generation.as_ref() == Some(now)) else {
                return Ok(None);
            };
            lines.limit(length);
        }
        lines.skip_to(from.next)?;
        Ok(Some(lines))
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

    fn start(&mut self, places: &[Start]) -> Result<(), Fault> {
        for (partition, path) in std::mem::take(&mut self.found) {
            let Some(from) = places.iter().find(|from| from.partition == partition) else { continue };
            match self.open(&path, from).map_err(Fault::Lasting)? {
                Some(lines) => {
                    self.places.push(OpenFile { partition, lines, at_end: false, has_been_at_end: false })
                }
                None => self.generation = None,
            }
        }
        Ok(())
    }

    fn release(&mut self) -> Result<(), Fault> {
        self.places.clear();
        self.last_scan = None;
        Ok(())
    }

    /// The locks in the folder of results keep other processes out: what has taken the offsets away is a run
    /// that has started over.
    fn rejoin(&mut self) -> Result<(), Fault> {
        self.generation = None;
        self.found.clear();
        self.release()
    }

    fn mark(&mut self, partition: &Partition) -> Option<Mark> {
        // Its own file is known by its generation.
        let place = self
            .places
            .iter_mut()
            .filter(|_| !self.committed_only)
            .find(|place| place.partition == *partition);
        place.map(|place| Mark::File(place.lines.mark()))
    }

    fn is_assigned(&self) -> bool {
        self.last_scan.is_some() && self.found.is_empty()
    }

    fn at_end(&self) -> bool {
        self.last_scan.is_some() && self.found.is_empty() && self.places.iter().all(|place| place.at_end)
    }

    fn has_been_at_end(&self) -> bool {
        self.last_scan.is_some()
            && self.found.is_empty()
            && self.places.iter().all(|place| place.has_been_at_end)
    }

    fn answered_since(&self, _since: Instant) -> bool {
        true
    }

    fn lag(
        &mut self,
        _positions: &mut dyn FnMut() -> Result<Positions, Fault>,
    ) -> Result<Option<u64>, Fault> {
        // Files have one reader. Lines that were not read can't be counted; an average line of those that
        // were gives about how many they are.
        let lag = self.places.iter().map(|place| {
            let line = (place.lines.bytes_read() / place.lines.next_offset().max(1)).max(1);
            place.lines.lag_bytes().div_ceil(line)
        });
        Ok(Some(lag.sum()))
    }
}

impl OpenFile {
    /// Hands over lines, up to a turn of them. Whether there were any.
    fn read(
        &mut self,
        latest: EventTime,
        until_end: bool,
        take: &mut dyn FnMut(Record<'_>),
    ) -> anyhow::Result<bool> {
        let OpenFile { partition, lines, .. } = self;
        let (first, end) = (lines.next_offset(), lines.bytes_read() + TURN);
        self.at_end = false;
        loop {
            while let Some(line) = lines.next_line() {
                hand_over(partition, &line, latest, take);
            }
            if lines.bytes_read() >= end {
                break;
            }
            if lines.fill()? > 0 {
                continue;
            }
            let successor = lines.successor()?;
            if successor.is_some() && lines.fill()? > 0 {
                // It has grown before its successor was begun.
                continue;
            }
            if successor.is_some() || until_end {
                lines.rest().into_iter().for_each(|line| hand_over(partition, &line, latest, take));
            }
            let Some(successor) = successor else {
                (self.at_end, self.has_been_at_end) = (true, true);
                break;
            };
            lines.turn_to(successor)?;
        }
        Ok(lines.next_offset() > first)
    }
}

fn hand_over(partition: &Partition, line: &Line<'_>, latest: EventTime, take: &mut dyn FnMut(Record<'_>)) {
    let value = match line.length {
        0 => None,
        length if line.is_too_large() => Some(Err(BadRecord::TooLarge(length))),
        _ => Some(Ok(line.bytes)),
    };
    take(Record { partition, offset: line.offset, latest, key: None, timestamp: None, value });
}
