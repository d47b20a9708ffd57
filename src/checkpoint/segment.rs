//! A segment: rows of one kind that entered the state of one worker, as a file.
//!
//! ```text
//! "adtide/s"  version of the kind u16  kind u8  rows u64  size u64  |  columns, `size` bytes compressed by zstd  |  crc32 of all before
//! ```
//!
//! Numbers of the frame are little-endian. The order of rows means nothing, so they are sorted by time, which
//! makes them smaller.

use adtide_dataflows::model::EventTime;
use adtide_dataflows::{Codec, Decoder, Encoder, Kind, StateDelta};
use anyhow::{Context, anyhow, ensure};

const MAGIC: &[u8; 8] = b"adtide/s";
const HEADER: usize = 8 + 2 + 1 + 8 + 8;
const CHECKSUM: usize = 4;

/// zstd's usual level: hashes, which are most of it, get no smaller with a higher one.
const LEVEL: i32 = 3;

/// An encoded segment.
#[derive(Debug)]
pub struct Encoded {
    /// What it holds.
    pub kind: Kind,
    /// How many.
    pub rows: u64,
    /// The greatest event time in it, by which it expires; of sums, the start of their window.
    pub greatest: EventTime,
    /// The file.
    pub bytes: Vec<u8>,
}

/// Encodes what there is, a segment a kind; it may change the order of rows.
///
/// # Errors
/// zstd fails.
pub fn encode(delta: &mut StateDelta) -> anyhow::Result<Vec<Encoded>> {
    Kind::ALL.iter().filter_map(|kind| encode_kind(*kind, delta).transpose()).collect()
}

/// The checksum of a file: its last bytes. None if it is too short to be one.
pub fn checksum(bytes: &[u8]) -> Option<u32> {
    bytes.last_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

/// Whether a file is as it was written.
///
/// # Errors
/// It is not; says why.
pub fn check(bytes: &[u8]) -> anyhow::Result<()> {
    let (content, _) = bytes.split_at_checked(bytes.len().saturating_sub(CHECKSUM)).context("it is empty")?;
    ensure!(
        checksum(bytes) == Some(crc32fast::hash(content)),
        "its checksum does not hold: it was damaged or cut"
    );
    Ok(())
}

/// Reads a segment.
///
/// # Errors
/// It is damaged, or of another version.
pub fn decode(bytes: &[u8]) -> anyhow::Result<StateDelta> {
    check(bytes)?;
    let (header, rest) = bytes.split_at_checked(HEADER).context("it is too short")?;
    let (magic, header) = header.split_at(MAGIC.len());
    ensure!(magic == MAGIC, "it is no segment of adtide");
    let (version, header) = header.split_at(2);
    let kind = *Kind::ALL.get(usize::from(header[0])).context("it holds what this version does not know")?;
    check_version(kind, u16::from_le_bytes([version[0], version[1]]))?;
    let number = |at: usize| -> anyhow::Result<usize> {
        let bytes = header[at..].first_chunk().context("it is too short")?;
        Ok(usize::try_from(u64::from_le_bytes(*bytes))?)
    };
    let (rows, size) = (number(1)?, number(9)?);
    let compressed = rest.get(..rest.len().saturating_sub(CHECKSUM)).context("it is too short")?;
    let columns = zstd::bulk::decompress(compressed, size).context("it can't be decompressed")?;
    ensure!(columns.len() == size, "it is not as long as it says");
    let mut from = Codec::Decode(Decoder::new(&columns));
    let delta = StateDelta::decode(kind, rows, &mut from).map_err(|error| anyhow!("{error}{ADVICE}"))?;
    from.finish()?;
    Ok(delta)
}

/// What to do about a checkpoint that can't be read.
pub(super) const ADVICE: &str =
    ": start with the adtide that wrote it, or without it by --from-checkpoint none";

/// Whether this adtide can read what was written in a version of a kind's columns.
fn check_version(kind: Kind, version: u16) -> anyhow::Result<()> {
    let reads = kind.version();
    ensure!(
        version == reads,
        "its {kind:?} are of version {version}, and this adtide reads version {reads}{ADVICE}"
    );
    Ok(())
}

fn encode_kind(kind: Kind, delta: &mut StateDelta) -> anyhow::Result<Option<Encoded>> {
    let mut to = Codec::Encode(Encoder::default());
    let (rows, greatest) = delta.encode(kind, &mut to)?;
    if rows == 0 {
        return Ok(None);
    }
    let columns = to.finish()?;
    let mut bytes = Vec::new();
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&kind.version().to_le_bytes());
    bytes.push(kind as u8);
    bytes.extend_from_slice(&(rows as u64).to_le_bytes());
    bytes.extend_from_slice(&(columns.len() as u64).to_le_bytes());
    bytes.extend(zstd::bulk::compress(&columns, LEVEL).context("can't compress")?);
    bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
    Ok(Some(Encoded { kind, rows: rows as u64, greatest: greatest.unwrap_or(EventTime::MAX), bytes }))
}

#[cfg(test)]
mod tests;
