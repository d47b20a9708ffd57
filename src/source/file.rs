//! Topics as files: `DIR/<topic>/<partition>.ndjson`, or `DIR/<topic>.ndjson` for a topic of one partition.
//!
//! A line is a record and its number, from 0, is the offset, as it would be in Kafka; an empty line is no
//! record but is counted. Files are read to their end, or followed as they grow, are rotated and new ones
//! appear; see [`lines`](super::lines).
//!
//! A worker reads next from the partition whose event time is least, so that partitions advance together and
//! no statement has to hold what one of them is ahead.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use adtide_dataflows::model::{Epoch, Topic};
use adtide_dataflows::operators::WatermarkView;
use adtide_dataflows::{Envelope, Ingest, PartitionHandle};
use anyhow::Context;
use tracing::debug;

use super::life::{Life, Stage};
use super::lines::{Line, Lines};
use super::{PartitionStatus, Poll, Source, SourceStatus, Start};
use crate::sink::{self, Progress};

/// How a run starts over.
const OVER: &str = "with --fresh";

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
    /// While it is set, the end of topics that close no windows (campaigns and products) is waited at, though
    /// nothing is followed: somebody answers to what the closing of the windows has brought.
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
    lines: Lines,
    handle: PartitionHandle,
    life: Life,
    /// Of a replay: the line to stop before.
    until: Option<u64>,
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
            anyhow::bail!(
                "{} and {} are the same partition; keep one of them",
                one.display(),
                other.display()
            );
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

/// What lies in a folder of topics.
#[derive(Debug, Default)]
pub struct Survey {
    /// How many partitions there are.
    pub partitions: usize,
    /// What looks like data and is not read.
    pub strays: Vec<PathBuf>,
}

/// Looks for topics in a folder, and for what may have been meant as such.
///
/// # Errors
/// As [`topic_files`].
pub fn survey(folder: &Path) -> anyhow::Result<Survey> {
    let files = topic_files(folder)?;
    let mut strays = Vec::new();
    let mut look = |folder: &Path, is_topic: bool| -> anyhow::Result<()> {
        for entry in std::fs::read_dir(folder).with_context(|| format!("can't list {}", folder.display()))? {
            let path = entry?.path();
            let is_known = files.iter().any(|(_, _, file)| *file == path) || is_known(&path);
            if !is_known && (looks_like_data(&path) || !is_topic && path.is_dir() && is_nearly_topic(&path)) {
                strays.push(path);
            }
        }
        Ok(())
    };
    look(folder, false)?;
    for topic in Topic::ALL.map(|topic| folder.join(topic.name())).iter().filter(|topic| topic.is_dir()) {
        look(topic, true)?;
    }
    strays.sort();
    Ok(Survey { partitions: files.len(), strays })
}

/// Whether it is a topic's folder, or a topic that adtide writes.
fn is_known(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let is_topic = Topic::ALL.iter().any(|topic| topic.name() == name);
    name.starts_with('.')
        || is_topic
        || sink::TOPICS.iter().any(|topic| name.strip_suffix(".ndjson") == Some(topic))
}

fn looks_like_data(path: &Path) -> bool {
    const WITHIN: [&str; 4] = [".ndjson", ".jsonl", ".json", ".csv"];
    const AT_END: [&str; 5] = [".gz", ".zst", ".xz", ".bz2", ".lz4"];
    let name = path.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    path.is_file()
        && (WITHIN.iter().any(|part| name.contains(part)) || AT_END.iter().any(|end| name.ends_with(end)))
}

/// Whether a name is a topic's but for its case and what stands between the words.
fn is_nearly_topic(path: &Path) -> bool {
    let letters =
        |name: &str| name.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase();
    let name = path.file_name().map(|name| letters(&name.to_string_lossy())).unwrap_or_default();
    Topic::ALL.iter().any(|topic| letters(topic.name()) == name)
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
            let lines = Lines::open(&path, OVER)?;
            debug!(worker = self.worker, path = %path.display(), "reading");
            let (handle, life) = (ingest.add_partition(topic, number, 0), Life::new(stage, Instant::now()));
            self.partitions.push(Partition { topic, number, lines, handle, life, until: None });
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
                Stage::Idle if partition.lines.has_more()? => partition.life.wake(epoch),
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
            let key = (partition.topic, partition.number);
            let known = from.checkpoint.and_then(|checkpoint| checkpoint.partitions.get(&key));
            let cut = from.cuts.first().and_then(|cut| cut.partitions.get(&key));
            let path = partition.lines.path().to_owned();
            if let Some(mark) = known.or(cut).and_then(|report| report.file) {
                partition.lines = Lines::reopen(&path, &mark, OVER)?;
            }
            if let Some(report) = known {
                ingest.restore(partition.handle, report);
                partition.lines.skip_to(report.next_offset)?;
            }
            anyhow::ensure!(
                known.is_some() || partition.lines.next_offset() == 0,
                "the first {} records of {} were in files that have been rotated away, and without a checkpoint they would have to \
                 be read again; restore the checkpoint, or start over with --fresh",
                partition.lines.next_offset(),
                path.display()
            );
        }
        self.report(ingest);
        Ok(())
    }

    fn replay_to(&mut self, cut: Option<&Progress>) {
        self.replaying = cut.is_some();
        for partition in &mut self.partitions {
            partition.until = cut.map(|cut| {
                let committed = cut.partitions.get(&(partition.topic, partition.number));
                committed.map_or(0, |committed| committed.next_offset)
            });
        }
    }

    fn resume(&mut self, ingest: &mut Ingest, last: &Progress) {
        for partition in &mut self.partitions {
            let key = (partition.topic, partition.number);
            // What was appended meanwhile is not caught up with: without it, the others would not wait.
            let is_caught_up = !partition.lines.has_more().unwrap_or(true);
            partition.life.resume(key, partition.handle, ingest, last, self.config.follow && is_caught_up);
        }
    }

    fn poll(&mut self, ingest: &mut Ingest, epoch: Epoch, view: &WatermarkView) -> anyhow::Result<Poll> {
        self.look_held(ingest)?;
        let mut at_end = vec![false; self.partitions.len()];
        // A partition at its end is passed over in favour of one that has more.
        while let Some(at) = self.furthest_behind(ingest, &at_end) {
            let partition = &mut self.partitions[at];
            if partition.read(ingest)? {
                return Ok(Poll::Ready);
            }
            if partition.turn(ingest)? {
                return Ok(Poll::Ready);
            }
            at_end[at] = true;
            if self.replaying {
                partition.replay_rest(ingest)?;
            } else if !(self.config.follow || self.is_held && partition.can_be_held()) {
                partition.take_rest(ingest);
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
        let clock = self.config.idle_advance.then(|| ingest.clock());
        for partition in &mut self.partitions {
            ingest.note_file(partition.handle, partition.lines.mark());
            partition.life.report(partition.handle, ingest, clock);
        }
    }

    fn has_news(&self) -> bool {
        self.partitions.iter().any(|partition| partition.life.has_news())
    }

    fn bytes_read(&self) -> u64 {
        self.partitions.iter().map(|partition| partition.lines.bytes_read()).sum()
    }

    fn status(&self) -> Option<SourceStatus> {
        let partitions = self.partitions.iter().map(|partition| PartitionStatus {
            topic: partition.topic,
            partition: partition.number,
            next_offset: partition.lines.next_offset(),
            // How many lines there are to come is not known until they are read.
            end_offset: None,
            idle: partition.life.stage() == Stage::Idle,
        });
        let lag_bytes = self.partitions.iter().map(|partition| partition.lines.lag_bytes()).sum();
        Some(SourceStatus { partitions: partitions.collect(), lag_bytes: Some(lag_bytes), fault: None })
    }
}

impl Partition {
    /// Whether its end closes no windows.
    fn can_be_held(&self) -> bool {
        !matches!(self.topic, Topic::AdEvents | Topic::ConversionEvents)
    }

    /// Whether it may be read further.
    fn may_have_more(&self) -> bool {
        self.life.is_active() && self.until.is_none_or(|line| self.lines.next_offset() < line)
    }

    /// Takes what waits in memory, then reads on and takes that. False at the end, with nothing taken.
    fn read(&mut self, ingest: &mut Ingest) -> anyhow::Result<bool> {
        let before = (self.lines.next_offset(), self.lines.bytes_read());
        // A replay may have stopped within it.
        self.take_lines(ingest);
        if self.may_have_more() && self.lines.fill()? > 0 {
            self.take_lines(ingest);
        }
        let taken = (self.lines.next_offset(), self.lines.bytes_read()) != before;
        if taken {
            self.life.has_read(Instant::now());
        }
        Ok(taken)
    }

    /// Gives the complete lines that are in memory to the ingest, as far as a replay goes.
    fn take_lines(&mut self, ingest: &mut Ingest) {
        while self.may_have_more()
            && let Some(line) = self.lines.next_line()
        {
            take(ingest, self.handle, &line);
        }
    }

    /// Gives a last line that has no line feed to the ingest.
    fn take_rest(&mut self, ingest: &mut Ingest) {
        if let Some(line) = self.lines.rest() {
            take(ingest, self.handle, &line);
        }
    }

    /// At the end of a file that was rotated away: takes the rest of it and turns to its successor. False if
    /// there is none.
    fn turn(&mut self, ingest: &mut Ingest) -> anyhow::Result<bool> {
        let Some(successor) = self.lines.successor()? else { return Ok(false) };
        // It may have grown before the successor was begun.
        if !self.read(ingest)? && self.may_have_more() {
            self.take_rest(ingest);
            self.lines.turn_to(successor)?;
            self.life.has_read(Instant::now());
        }
        Ok(true)
    }

    /// At the file's end before the end of a replay: the earlier run may have taken a last line without line
    /// feed, but no more than that.
    fn replay_rest(&mut self, ingest: &mut Ingest) -> anyhow::Result<()> {
        self.take_rest(ingest);
        anyhow::ensure!(
            !self.may_have_more(),
            "{} holds fewer records than have been committed; a topic may only grow: put back what was cut off, or start over \
             with --fresh",
            self.lines.path().display()
        );
        Ok(())
    }
}

fn take(ingest: &mut Ingest, handle: PartitionHandle, line: &Line<'_>) {
    if line.is_too_large() {
        ingest.oversized(handle, Envelope::at(line.offset), line.head(), line.length);
    } else if !line.bytes.is_empty() {
        ingest.record(handle, line.offset, line.bytes);
    }
}
