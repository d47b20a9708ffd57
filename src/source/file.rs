//! Topics as files: `DIR/<topic>/<partition>.ndjson`, or `DIR/<topic>.ndjson` for a topic of one partition.
//!
//! A line is a record and its number, from 0, is the offset, as it would be in Kafka; an empty line is no record but is
//! counted. Files are read to their end, or followed as they grow and new ones appear.
//!
//! A worker reads next from the partition whose event time is least, so that partitions advance together and no
//! statement has to hold what one of them is ahead.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use adtide_dataflows::model::{Epoch, EventTime, Topic};
use adtide_dataflows::operators::WatermarkView;
use adtide_dataflows::record::MAX_RECORD_BYTES;
use adtide_dataflows::{Envelope, Ingest, PartitionHandle};
use anyhow::Context;
use tracing::debug;

use super::life::{Life, Stage};
use super::{PartitionStatus, Poll, Source, SourceStatus, Start};
use crate::connect::Wait;
use crate::sink::Progress;

/// How much is read at once.
const CHUNK: usize = 256 * 1024;

/// How much of a record that is too large goes to the dead letters.
const OVERSIZED_HEAD: usize = 64 * 1024;

/// How often a followed folder is searched for new files.
const RESCAN: Duration = Duration::from_secs(1);

/// What a file source needs to know.
#[derive(Clone, Debug)]
pub struct FileSourceConfig {
    /// The folder of topics.
    pub folder: PathBuf,
    /// Go on when the end is reached.
    pub follow: bool,
    /// A followed file that is caught up counts as idle after this long.
    pub idle_timeout: Duration,
    /// Let the watermark follow the clock when everything is idle.
    pub idle_advance: bool,
    /// How far a record may lead the clock, in milliseconds.
    pub max_future_skew: i64,
    /// While it is set, the end of topics that close no windows (campaigns and products) is waited at, though nothing is
    /// followed: somebody answers to what the closing of the windows has brought.
    pub hold: Option<Arc<AtomicBool>>,
}

/// One worker's files.
pub struct FileSource {
    config: FileSourceConfig,
    worker: usize,
    workers: usize,
    partitions: Vec<Partition>,
    last_scan: Instant,
    replaying: bool,
    is_held: bool,
}

struct Partition {
    topic: Topic,
    number: u32,
    path: PathBuf,
    file: File,
    /// How much of the file has been read.
    position: u64,
    handle: PartitionHandle,
    /// Bytes read and not yet taken: `buffer[start..]`.
    buffer: Vec<u8>,
    start: usize,
    next_line: u64,
    /// Of a record that is too large: how many of its bytes were dropped. Its head and last byte are in `buffer`.
    dropped: u64,
    life: Life,
    /// Of a replay: the line to stop before, and the greatest event time that was good.
    until: Option<(u64, EventTime)>,
}

impl FileSourceConfig {
    fn is_held(&self) -> bool {
        self.hold.as_ref().is_some_and(|hold| hold.load(Ordering::Acquire))
    }
}

/// The files of a folder of topics, in order.
///
/// # Errors
/// The folder can't be read, or a file's name is no partition number.
pub fn topic_files(folder: &Path) -> anyhow::Result<Vec<(Topic, u32, PathBuf)>> {
    let mut files = Vec::new();
    for topic in Topic::ALL {
        let single = folder.join(format!("{}.ndjson", topic.name()));
        let many = folder.join(topic.name());
        if single.is_file() && many.is_dir() {
            anyhow::bail!("both {} and {} are there; keep one of them", single.display(), many.display());
        }
        if single.is_file() {
            files.push((topic, 0, single));
        } else if many.is_dir() {
            files.extend(partition_files(topic, &many)?);
        }
    }
    files.sort();
    for pair in files.windows(2) {
        if let [(topic, number, one), (other_topic, other_number, other)] = pair
            && (topic, number) == (other_topic, other_number)
        {
            anyhow::bail!("{} and {} are the same partition; keep one of them", one.display(), other.display());
        }
    }
    Ok(files)
}

fn partition_files(topic: Topic, folder: &Path) -> anyhow::Result<Vec<(Topic, u32, PathBuf)>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("can't list {}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "ndjson") {
            continue;
        }
        let digits = path.file_stem().and_then(|stem| stem.to_str()).filter(|stem| !stem.starts_with('+'));
        let number = digits.and_then(|digits| digits.parse().ok()).with_context(|| {
            format!("{} is no partition of {}; name it <number>.ndjson", path.display(), topic.name())
        })?;
        files.push((topic, number, path));
    }
    Ok(files)
}

impl FileSource {
    /// The source of worker `worker` of `workers`.
    pub fn new(config: FileSourceConfig, worker: usize, workers: usize) -> FileSource {
        let is_held = config.is_held();
        let last_scan = Instant::now();
        FileSource { config, worker, workers, partitions: Vec::new(), last_scan, replaying: false, is_held }
    }

    /// Opens this worker's files that are not open yet.
    fn scan(&mut self, ingest: &mut Ingest, stage: Stage) -> anyhow::Result<()> {
        self.last_scan = Instant::now();
        for (topic, number, path) in topic_files(&self.config.folder)? {
            let mine = (topic as usize + number as usize) % self.workers == self.worker;
            if !mine || self.partitions.iter().any(|known| (known.topic, known.number) == (topic, number)) {
                continue;
            }
            let file = File::open(&path).with_context(|| format!("can't read {}", path.display()))?;
            debug!(worker = self.worker, path = %path.display(), "reading");
            self.partitions.push(Partition {
                topic,
                number,
                path,
                file,
                position: 0,
                handle: ingest.add_partition(topic, number, 0),
                buffer: Vec::new(),
                start: 0,
                next_line: 0,
                dropped: 0,
                life: Life::new(stage, Instant::now()),
                until: None,
            });
        }
        Ok(())
    }

    /// The partition to read next: of those that may have more, the one furthest behind in event time.
    fn furthest_behind(&self, ingest: &Ingest, skip: &[bool]) -> Option<usize> {
        (0..self.partitions.len())
            .filter(|&at| !skip[at] && self.partitions[at].may_have_more())
            .min_by_key(|&at| ingest.greatest(self.partitions[at].handle))
    }

    /// Looks for files that were added while topics are held, for the last time when they no longer are.
    fn look_held(&mut self, ingest: &mut Ingest) -> anyhow::Result<()> {
        if self.is_held {
            self.is_held = self.config.is_held();
            if !self.is_held || self.last_scan.elapsed() >= RESCAN {
                self.scan(ingest, Stage::Active)?;
            }
        }
        Ok(())
    }

    /// Lets partitions that woke up follow the others, and looks after the idle ones.
    fn follow(&mut self, ingest: &mut Ingest, epoch: Epoch, view: &WatermarkView) -> anyhow::Result<()> {
        let now = Instant::now();
        for partition in &mut self.partitions {
            partition.life.follow((partition.topic, partition.number), partition.handle, ingest, view, now);
            match partition.life.stage() {
                Stage::Idle if partition.has_grown()? => partition.life.wake(epoch),
                Stage::Active if partition.life.quiet_for(now) >= self.config.idle_timeout => {
                    partition.life.go(Stage::Idle);
                }
                _ => {}
            }
        }
        if self.last_scan.elapsed() >= RESCAN {
            self.scan(ingest, Stage::Waking(epoch))?;
        }
        Ok(())
    }
}

impl Source for FileSource {
    fn start(&mut self, ingest: &mut Ingest, from: &Start<'_>) -> anyhow::Result<()> {
        anyhow::ensure!(
            from.backfill.is_none(),
            "files are always read from their start: leave out --backfill-from; --from-checkpoint none does without the checkpoint"
        );
        self.scan(ingest, Stage::Active)?;
        for partition in &mut self.partitions {
            let known =
                from.checkpoint.and_then(|progress| progress.partitions.get(&(partition.topic, partition.number)));
            if let Some(report) = known {
                ingest.restore(partition.handle, report);
                partition.skip_to(report.next_offset)?;
            }
        }
        self.report(ingest);
        Ok(())
    }

    fn replay_to(&mut self, cut: Option<&Progress>) {
        self.replaying = cut.is_some();
        for partition in &mut self.partitions {
            partition.until = cut.map(|cut| {
                let committed = cut.partitions.get(&(partition.topic, partition.number));
                committed.map_or((0, EventTime::MIN), |committed| {
                    (committed.next_offset, committed.greatest.unwrap_or(EventTime::MIN))
                })
            });
        }
    }

    fn resume(&mut self, ingest: &mut Ingest, last: &Progress) {
        for partition in &mut self.partitions {
            let key = (partition.topic, partition.number);
            partition.life.resume(key, partition.handle, ingest, last, self.config.follow);
        }
    }

    fn poll(&mut self, ingest: &mut Ingest, epoch: Epoch, view: &WatermarkView) -> anyhow::Result<Poll> {
        self.look_held(ingest)?;
        let latest = crate::now().plus(self.config.max_future_skew);
        let mut at_end = vec![false; self.partitions.len()];
        // A partition at its end is passed over in favour of one that has more.
        while let Some(at) = self.furthest_behind(ingest, &at_end) {
            let partition = &mut self.partitions[at];
            if partition.read(ingest, latest)? {
                return Ok(Poll::Ready);
            }
            at_end[at] = true;
            if self.replaying {
                partition.replay_rest(ingest, latest)?;
            } else if !(self.config.follow || self.is_held && partition.can_be_held()) {
                partition.take_rest(ingest, latest);
                partition.life.go(Stage::Finished);
            }
        }
        if self.config.follow && !self.replaying {
            self.follow(ingest, epoch, view)?;
            return Ok(Poll::Pending);
        }
        Ok(if self.is_held && !self.replaying { Poll::Pending } else { Poll::Finished })
    }

    fn report(&mut self, ingest: &mut Ingest) {
        let clock = self.config.idle_advance.then(crate::now);
        for partition in &mut self.partitions {
            partition.life.report(partition.handle, ingest, clock);
        }
    }

    fn bytes_read(&self) -> u64 {
        self.partitions.iter().map(|partition| partition.position).sum()
    }

    fn status(&self) -> Option<SourceStatus> {
        let partitions = self.partitions.iter().map(|partition| PartitionStatus {
            topic: partition.topic,
            partition: partition.number,
            next_offset: partition.next_line,
            // How many lines there are to come is not known until they are read.
            end_offset: None,
            idle: partition.life.stage() == Stage::Idle,
        });
        let length = |partition: &Partition| partition.file.metadata().map_or(0, |metadata| metadata.len());
        let lag_bytes = self.partitions.iter().map(length).sum::<u64>().saturating_sub(self.bytes_read());
        Some(SourceStatus { partitions: partitions.collect(), lag_bytes: Some(lag_bytes), fault: None })
    }
}

impl Partition {
    /// Reads a chunk into the buffer; 0 at the file's end.
    fn fill(&mut self) -> anyhow::Result<usize> {
        // Asked for first: to make room for a chunk costs more, and most of the time a topic that is followed has nothing.
        if !self.has_grown()? {
            return Ok(0);
        }
        self.buffer.drain(..self.start);
        self.start = 0;
        let filled = self.buffer.len();
        self.buffer.resize(filled + CHUNK, 0);
        let read = self.file.read(&mut self.buffer[filled..]);
        let read = read.with_context(|| format!("can't read {}", self.path.display()))?;
        self.buffer.truncate(filled + read);
        self.position += read as u64;
        Ok(read)
    }

    /// Passes over the lines before a line that an earlier run has read to.
    fn skip_to(&mut self, line: u64) -> anyhow::Result<()> {
        let mut within_line = false;
        // It may take minutes, in which no epoch ends.
        let mut wait = Wait::patient("reading a long file");
        while self.next_line < line {
            let rest = &self.buffer[self.start..];
            if let Some(length) = memchr::memchr(b'\n', rest) {
                self.start += length + 1;
                self.next_line += 1;
                within_line = false;
                continue;
            }
            within_line |= !rest.is_empty();
            self.start = self.buffer.len();
            wait.look();
            if self.fill()? == 0 {
                // It may have taken a last line without line feed.
                anyhow::ensure!(
                    within_line && self.next_line + 1 == line,
                    "{}",
                    self.is_shorter("a checkpoint knows of")
                );
                self.next_line += 1;
            }
        }
        Ok(())
    }

    fn is_shorter(&self, than: &str) -> String {
        format!(
            "{} holds fewer records than {than}; a topic may only grow: start over with --fresh",
            self.path.display()
        )
    }

    /// Whether there is more to read. A file that was cut or written anew is an error: what it holds now stands at
    /// offsets that have been read already.
    fn has_grown(&self) -> anyhow::Result<bool> {
        let length = self.file.metadata().with_context(|| format!("can't read {}", self.path.display()))?.len();
        anyhow::ensure!(
            length >= self.position,
            "{} has become shorter while it was followed; a topic may only grow: start again to read it anew",
            self.path.display()
        );
        Ok(length > self.position)
    }

    /// Whether its end closes no windows.
    fn can_be_held(&self) -> bool {
        !matches!(self.topic, Topic::AdEvents | Topic::ConversionEvents)
    }

    /// Whether it may be read further.
    fn may_have_more(&self) -> bool {
        self.life.is_active() && self.until.is_none_or(|(line, _)| self.next_line < line)
    }

    /// Takes what waits in the buffer, then reads on and takes that. False at the end, with nothing taken.
    fn read(&mut self, ingest: &mut Ingest, latest: EventTime) -> anyhow::Result<bool> {
        let (line, position) = (self.next_line, self.position);
        // A replay may have stopped within the buffer.
        self.take_lines(ingest, latest);
        if self.may_have_more() && self.fill()? > 0 {
            self.take_lines(ingest, latest);
        }
        let taken = self.next_line > line || self.position > position;
        if taken {
            self.life.has_read(Instant::now());
        }
        Ok(taken)
    }

    /// Gives the complete lines of the buffer to the ingest, as far as a replay goes.
    fn take_lines(&mut self, ingest: &mut Ingest, latest: EventTime) {
        while self.may_have_more()
            && let Some(length) = memchr::memchr(b'\n', &self.buffer[self.start..])
        {
            self.take_line(ingest, length, latest);
            self.start += 1;
        }
        if !self.may_have_more() {
            return;
        }
        let rest = self.buffer.len() - self.start;
        // One more byte, for the carriage return before a line feed that has not come yet.
        if self.dropped > 0 || rest > MAX_RECORD_BYTES + 1 {
            self.swallow(rest);
        }
    }

    /// At the file's end before the end of a replay: the earlier run may have taken a last line without line feed,
    /// but no more than that.
    fn replay_rest(&mut self, ingest: &mut Ingest, latest: EventTime) -> anyhow::Result<()> {
        self.take_rest(ingest, latest);
        anyhow::ensure!(!self.may_have_more(), "{}", self.is_shorter("have been committed"));
        Ok(())
    }

    /// Gives a last line that has no line feed to the ingest.
    fn take_rest(&mut self, ingest: &mut Ingest, latest: EventTime) {
        let length = self.buffer.len() - self.start;
        if length > 0 {
            self.take_line(ingest, length, latest);
        }
    }

    fn take_line(&mut self, ingest: &mut Ingest, length: usize, latest: EventTime) {
        let line = &self.buffer[self.start..self.start + length];
        let offset = self.next_line;
        self.next_line += 1;
        let latest = self.until.map_or(latest, |(_, greatest)| greatest);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let bytes = line.len() as u64 + std::mem::take(&mut self.dropped);
        if bytes > MAX_RECORD_BYTES as u64 {
            ingest.oversized(self.handle, Envelope::at(offset), &line[..OVERSIZED_HEAD], bytes);
        } else if !line.is_empty() {
            ingest.record(self.handle, offset, line, latest);
        }
        self.start += length;
    }

    /// Drops all of a record that is too large but its head and its last byte, which may be a carriage return.
    fn swallow(&mut self, rest: usize) {
        if rest > OVERSIZED_HEAD + 1 {
            self.buffer.drain(self.start + OVERSIZED_HEAD..self.start + rest - 1);
            self.dropped += (rest - OVERSIZED_HEAD - 1) as u64;
        }
    }
}
