//! A partition as files of lines: one that grows, and those that were rotated away before it.
//!
//! A file is its device and inode, and not its path: when it is renamed and another one is made in its place,
//! it is read to its end, and then the other one. Line numbers continue, so the offset of a line is how many
//! were appended to the partition before it, however they are spread over files. A file that has been cut is
//! an error.

use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use adtide_dataflows::operators::FileMark;
use adtide_dataflows::record::MAX_RECORD_BYTES;
use anyhow::{Context, bail, ensure};
use tracing::info;

use crate::connect::Wait;

/// How much is read at once.
const CHUNK: usize = 256 * 1024;

/// How much is kept of a record that is too large.
const OVERSIZED_HEAD: usize = 64 * 1024;

/// How many of its first bytes a file is recognised by.
const HEAD: usize = 1024;

/// What else a file is called when it was compressed after its rotation.
const COMPRESSED: [&str; 5] = [".gz", ".zst", ".xz", ".bz2", ".lz4"];

/// The lines of a partition, from one of its files on.
pub struct Lines {
    path: PathBuf,
    file: File,
    /// The file's device and inode.
    identity: (u64, u64),
    /// How many of its bytes have been read.
    position: u64,
    /// How many of them may be read.
    limit: u64,
    /// Bytes read and not yet taken: `buffer[start..]`.
    buffer: Vec<u8>,
    start: usize,
    /// Of a line that is too large: how many of its bytes were dropped. Its head and last byte are in
    /// `buffer`.
    dropped: u64,
    /// The first bytes of the file, and how many of them the checksum is of.
    head: Vec<u8>,
    checksum: (usize, u32),
    /// The offsets of the file's first line and of the next one.
    first: u64,
    next: u64,
    /// Bytes read of files before this one.
    before: u64,
    /// How to start over, for errors.
    over: &'static str,
}

/// A line.
pub struct Line<'a> {
    /// How many lines of the partition come before it.
    pub offset: u64,
    /// Its bytes without its end; of one of more than [`MAX_RECORD_BYTES`] at least its first 64 KiB.
    pub bytes: &'a [u8],
    /// How many bytes it has.
    pub length: u64,
}

impl Line<'_> {
    /// Whether it is longer than a record may be.
    pub fn is_too_large(&self) -> bool {
        self.length > MAX_RECORD_BYTES as u64
    }

    /// What is kept of one that is too large.
    pub fn head(&self) -> &[u8] {
        &self.bytes[..self.bytes.len().min(OVERSIZED_HEAD)]
    }
}

impl Lines {
    /// Opens the file at `path` as one that nothing was read of. `over` says, in errors, how to start over.
    ///
    /// # Errors
    /// It can't be read.
    pub fn open(path: &Path, over: &'static str) -> anyhow::Result<Lines> {
        let file = File::open(path).with_context(|| format!("can't read {}", path.display()))?;
        Lines::of(path, file, 0, over)
    }

    /// Opens the file of which `mark` is known, at its first line: the one at `path`, or one that was rotated
    /// away from there.
    ///
    /// # Errors
    /// It can't be read, or is not there any more.
    pub fn reopen(path: &Path, mark: &FileMark, over: &'static str) -> anyhow::Result<Lines> {
        let rotated = rotated(path)?;
        let candidates = std::iter::once(path).chain(rotated.iter().map(|part| part.path.as_path()));
        let mut copy = None;
        for candidate in candidates {
            let Ok(file) = File::open(candidate) else { continue };
            let is_same = identity(&file.metadata()?) == (mark.device, mark.inode);
            let is_alike = begins_with(&file, mark)?;
            ensure!(
                !is_same || is_alike,
                "{} was cut or written anew since it was read, and a topic may only grow (rotate it by renaming, not with \
                 copytruncate): put it back as it was, or start over {over}",
                candidate.display()
            );
            if is_same {
                return Lines::of(path, file, mark.first, over);
            }
            if is_alike && candidate == path {
                copy = Some(file);
            }
        }
        // The folder was copied, or is on another device than before.
        if let Some(file) = copy {
            return Lines::of(path, file, mark.first, over);
        }
        bail!(
            "{} is not the file that was read before, and that one is not beside it any more: put it back as {}.1, uncompressed, so \
             that the rest of it can be read, or start over {over}",
            path.display(),
            path.display()
        )
    }

    fn of(path: &Path, file: File, first: u64, over: &'static str) -> anyhow::Result<Lines> {
        let identity = identity(&file.metadata().with_context(|| format!("can't read {}", path.display()))?);
        Ok(Lines {
            path: path.to_owned(),
            file,
            identity,
            position: 0,
            limit: u64::MAX,
            buffer: Vec::new(),
            start: 0,
            dropped: 0,
            head: Vec::new(),
            checksum: (0, 0),
            first,
            next: first,
            before: 0,
            over,
        })
    }

    /// Where the partition's newest file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The offset of the next line.
    pub fn next_offset(&self) -> u64 {
        self.next
    }

    /// How many bytes have been read.
    pub fn bytes_read(&self) -> u64 {
        self.before + self.position
    }

    /// Reads no further than to this byte of the file: what lies behind it is not certain yet.
    pub fn limit(&mut self, bytes: u64) {
        self.limit = bytes;
    }

    /// What the file is recognised by.
    pub fn mark(&mut self) -> FileMark {
        if self.checksum.0 < self.head.len() {
            self.checksum = (self.head.len(), crc32fast::hash(&self.head));
        }
        let (device, inode) = self.identity;
        let (head_bytes, head) = (self.checksum.0 as u32, self.checksum.1);
        FileMark { device, inode, head, head_bytes, first: self.first }
    }

    /// The next complete line, of those that are in memory.
    pub fn next_line(&mut self) -> Option<Line<'_>> {
        let length = memchr::memchr(b'\n', &self.buffer[self.start..])?;
        Some(self.cut(length, 1))
    }

    /// A last line that has no line feed, after [`Lines::fill`] has found nothing more.
    pub fn rest(&mut self) -> Option<Line<'_>> {
        let length = self.buffer.len() - self.start;
        (length > 0).then(|| self.cut(length, 0))
    }

    #[inline]
    fn cut(&mut self, length: usize, line_feed: usize) -> Line<'_> {
        let line = &self.buffer[self.start..self.start + length];
        let bytes = line.strip_suffix(b"\r").unwrap_or(line);
        let (offset, dropped) = (self.next, std::mem::take(&mut self.dropped));
        self.next += 1;
        self.start += length + line_feed;
        Line { offset, bytes, length: bytes.len() as u64 + dropped }
    }

    /// Reads a chunk into memory, when all complete lines there have been taken; 0 at the end of the file.
    ///
    /// # Errors
    /// It can't be read, or has been cut.
    pub fn fill(&mut self) -> anyhow::Result<usize> {
        // Asked for first: to make room for a chunk costs more, and most of the time a topic that is followed
        // has nothing.
        let there = self.end()?.saturating_sub(self.position);
        if there == 0 {
            return Ok(0);
        }
        self.check_head()?;
        self.swallow();
        self.buffer.drain(..self.start);
        self.start = 0;
        let filled = self.buffer.len();
        self.buffer.resize(filled + usize::try_from(there).map_or(CHUNK, |there| there.min(CHUNK)), 0);
        let read = self.file.read(&mut self.buffer[filled..]);
        let read = read.with_context(|| format!("can't read {}", self.path.display()))?;
        self.buffer.truncate(filled + read);
        let missing = HEAD.saturating_sub(self.head.len()).min(read);
        self.head.extend_from_slice(&self.buffer[filled..filled + missing]);
        self.position += read as u64;
        Ok(read)
    }

    /// Where the file ends, as far as it may be read.
    fn end(&self) -> anyhow::Result<u64> {
        let length =
            self.file.metadata().with_context(|| format!("can't read {}", self.path.display()))?.len();
        if length < self.position.min(self.limit) {
            return Err(self.was_cut());
        }
        Ok(length.min(self.limit))
    }

    /// A file that was cut and has grown again may be longer than before, but begins otherwise.
    fn check_head(&self) -> anyhow::Result<()> {
        let mut head = [0; HEAD];
        let head = &mut head[..self.head.len()];
        if self.file.read_exact_at(head, 0).is_err() || *head != *self.head {
            return Err(self.was_cut());
        }
        Ok(())
    }

    fn was_cut(&self) -> anyhow::Error {
        anyhow::anyhow!(
            "{} has become shorter or was written anew while it was read, and a topic may only grow (rotate it by renaming, not \
             with copytruncate): put it back as it was, or start over {}",
            self.path.display(),
            self.over
        )
    }

    /// Drops all of a record that is too large but its head and its last byte, which may be a carriage
    /// return.
    fn swallow(&mut self) {
        let rest = self.buffer.len() - self.start;
        // One more byte, for the carriage return before a line feed that has not come yet.
        if (self.dropped > 0 || rest > MAX_RECORD_BYTES + 1) && rest > OVERSIZED_HEAD + 1 {
            self.buffer.drain(self.start + OVERSIZED_HEAD..self.start + rest - 1);
            self.dropped += (rest - OVERSIZED_HEAD - 1) as u64;
        }
    }

    /// Passes over the lines before a line that was read before.
    ///
    /// # Errors
    /// The file can't be read, or ends before it.
    pub fn skip_to(&mut self, line: u64) -> anyhow::Result<()> {
        // It may take minutes, in which no epoch ends.
        let mut wait = Wait::patient("reading a long file");
        while self.next < line {
            if self.next_line().is_some() {
                continue;
            }
            wait.look();
            if self.fill()? > 0 {
                continue;
            }
            // A last line without line feed may have been taken.
            ensure!(
                self.next + 1 == line && self.rest().is_some(),
                "{} holds {} lines, but {line} have been read before; a topic may only grow: put back what was cut off, or start \
                 over {}",
                self.path.display(),
                self.next,
                self.over
            );
        }
        Ok(())
    }

    /// Whether a complete line is in memory, or there is more to read.
    ///
    /// # Errors
    /// As [`Lines::fill`].
    pub fn has_more(&self) -> anyhow::Result<bool> {
        Ok(self.end()? > self.position || self.in_memory() > 0 || self.successor()?.is_some())
    }

    /// How many bytes of the file are there and not taken yet.
    pub fn lag_bytes(&self) -> u64 {
        let length = self.file.metadata().map_or(0, |metadata| metadata.len()).min(self.limit);
        length.saturating_sub(self.position) + self.in_memory()
    }

    /// How many bytes of complete lines are in memory.
    fn in_memory(&self) -> u64 {
        memchr::memrchr(b'\n', &self.buffer[self.start..]).map_or(0, |last| last as u64 + 1)
    }

    /// The file that continues this one, if this one was rotated away and the other one has begun.
    ///
    /// # Errors
    /// Files can't be read, or one that comes in between was compressed before it was read.
    pub fn successor(&self) -> anyhow::Result<Option<File>> {
        let Ok(current) = std::fs::metadata(&self.path) else { return Ok(None) };
        // An empty one was just made: who writes may not have moved to it yet.
        if identity(&current) == self.identity || current.len() == 0 {
            return Ok(None);
        }
        let modified = self.file.metadata()?.modified()?;
        let mut between = rotated(&self.path)?;
        between.retain(|part| part.modified > modified && part.identity != self.identity);
        let Some(part) = between.first() else {
            // None if it was rotated away in this moment.
            let file = File::open(&self.path).ok();
            return Ok(
                file.filter(|file| file.metadata().is_ok_and(|found| identity(&found) == identity(&current)))
            );
        };
        ensure!(
            !part.is_compressed,
            "{} was compressed before it was read; uncompress it, and start again",
            part.path.display()
        );
        let file = File::open(&part.path).with_context(|| format!("can't read {}", part.path.display()))?;
        Ok(Some(file))
    }

    /// Continues with the successor. All lines of this file have been taken.
    ///
    /// # Errors
    /// It can't be read.
    pub fn turn_to(&mut self, successor: File) -> anyhow::Result<()> {
        let next = Lines::of(&self.path, successor, self.next, self.over)?;
        info!(path = %self.path.display(), offset = self.next, "the file was rotated; its successor is read");
        *self = Lines { before: self.bytes_read(), limit: self.limit, ..next };
        Ok(())
    }
}

/// A file that was rotated away from a path.
struct Part {
    path: PathBuf,
    identity: (u64, u64),
    modified: SystemTime,
    is_compressed: bool,
}

/// The files that were rotated away from `path`, the oldest first: beside it, its name and a number or date
/// behind it.
fn rotated(path: &Path) -> anyhow::Result<Vec<Part>> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let mut parts = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("can't list {}", folder.display()))? {
        let entry = entry?;
        let file_name = entry.file_name();
        let file_name = file_name.to_string_lossy();
        let Some(suffix) = file_name.strip_prefix(&name) else { continue };
        let plain = COMPRESSED.iter().find_map(|end| suffix.strip_suffix(end));
        if !is_rotation(plain.unwrap_or(suffix)) {
            continue;
        }
        let Ok(metadata) = entry.metadata() else { continue };
        let (path, identity, modified) = (entry.path(), identity(&metadata), metadata.modified()?);
        parts.push(Part { path, identity, modified, is_compressed: plain.is_some() });
    }
    parts.sort_by(|one, other| (one.modified, &one.path).cmp(&(other.modified, &other.path)));
    Ok(parts)
}

/// Whether it is a number or date that a rotation puts behind a name: `.1`, `-20260105`, `.2026-01-05T10:00`.
pub fn is_rotation(suffix: &str) -> bool {
    let Some(rest) = suffix.strip_prefix(['.', '-']) else { return false };
    rest.starts_with(|first: char| first.is_ascii_digit())
        && rest.chars().all(|next| next.is_ascii_digit() || "-._:TZ".contains(next))
}

/// The files of a partition, the oldest first.
pub struct Parts {
    /// Those that were rotated away before the one that `first` is of; there may be some of before the run.
    pub older: Vec<PathBuf>,
    /// The offset of the first line of those that follow.
    pub first: u64,
    /// The file that was read last, and those that have been begun since.
    pub newer: Vec<PathBuf>,
}

/// Finds the files of the partition at `path`, of which the one with `mark` was read last.
///
/// # Errors
/// The folder can't be read.
pub fn parts(path: &Path, mark: Option<&FileMark>) -> anyhow::Result<Parts> {
    let Some(mark) = mark else {
        return Ok(Parts { older: Vec::new(), first: 0, newer: vec![path.to_owned()] });
    };
    let mut older = rotated(path)?;
    older.retain(|part| !part.is_compressed);
    let known =
        older.iter().position(|part| part.identity == (mark.device, mark.inode)).unwrap_or(older.len());
    let newer = older.split_off(known).into_iter().map(|part| part.path).chain([path.to_owned()]).collect();
    Ok(Parts { older: older.into_iter().map(|part| part.path).collect(), first: mark.first, newer })
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// Whether a file begins as the one of which `mark` is known. Of one of which nothing was read, every file
/// does.
fn begins_with(file: &File, mark: &FileMark) -> anyhow::Result<bool> {
    let mut head = vec![0; (mark.head_bytes as usize).min(HEAD)];
    Ok(file.read_exact_at(&mut head, 0).is_ok() && crc32fast::hash(&head) == mark.head)
}
