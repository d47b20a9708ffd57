//! What makes segments a checkpoint.

use std::collections::BTreeMap;

use adtide_dataflows::Kind;
use adtide_dataflows::model::{Epoch, EventTime};
use adtide_dataflows::operators::Watermarks;
use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

use super::segment;
use crate::sink::{Progress, Run};

/// The version of the manifest. Segments have versions of their own.
const VERSION: u16 = 1;

/// A checkpoint: the state of all statements by the end of an epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The version of the manifest; segments have versions of their own.
    pub version: u16,
    /// The version of adtide that wrote it.
    pub adtide: String,
    /// When it was written.
    pub at: EventTime,
    /// The epoch that it ends with.
    pub epoch: Epoch,
    /// The run that it is of.
    pub run: Run,
    /// The results that it is of: those who started over have another. Set when it is written.
    #[serde(default)]
    pub generation: String,
    /// How far the sources had read by then, and the watermarks that had taken effect.
    pub progress: Progress,
    /// From before which times, by statement, records are late to all runs that go on from it: what they
    /// belong to had been forgotten, by this run or one before it, and is not whole here.
    pub forgotten: Watermarks,
    /// What entered the state and may be live.
    pub segments: Vec<Segment>,
    /// How many bytes of them are new since the checkpoint before.
    pub written_bytes: u64,
}

/// A file of rows of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// Its name in the store.
    pub name: String,
    /// What it holds.
    pub kind: Kind,
    /// How many.
    pub rows: u64,
    /// How large it is.
    pub bytes: u64,
    /// Its last four bytes.
    pub checksum: u32,
    /// The greatest event time in it, by which it expires.
    pub greatest: EventTime,
    /// How often its rows have been merged.
    pub level: u8,
}

impl Manifest {
    /// Of this version, written now.
    pub fn new(
        epoch: Epoch,
        run: Run,
        progress: Progress,
        forgotten: Watermarks,
        segments: Vec<Segment>,
        written_bytes: u64,
    ) -> Manifest {
        Manifest {
            version: VERSION,
            adtide: env!("CARGO_PKG_VERSION").to_owned(),
            at: crate::now(),
            epoch,
            run,
            generation: String::new(),
            progress,
            forgotten,
            segments,
            written_bytes,
        }
    }

    /// Rows and bytes in all.
    pub fn size(&self) -> (u64, u64) {
        self.segments
            .iter()
            .fold((0, 0), |(rows, bytes), segment| (rows + segment.rows, bytes + segment.bytes))
    }

    /// Segments, rows and bytes by kind.
    pub fn by_kind(&self) -> BTreeMap<Kind, (u64, u64, u64)> {
        let mut kinds = BTreeMap::new();
        for segment in &self.segments {
            let kind: &mut (u64, u64, u64) = kinds.entry(segment.kind).or_default();
            *kind = (kind.0 + 1, kind.1 + segment.rows, kind.2 + segment.bytes);
        }
        kinds
    }

    /// As a file: a line of JSON, and one with its checksum.
    ///
    /// # Errors
    /// It can't be written as JSON.
    pub fn encode(&self) -> anyhow::Result<Vec<u8>> {
        let mut bytes = serde_json::to_vec(self)?;
        let checksum = crc32fast::hash(&bytes);
        bytes.extend_from_slice(format!("\ncrc32 {checksum:08x}\n").as_bytes());
        Ok(bytes)
    }

    /// From a file.
    ///
    /// # Errors
    /// It is damaged, or of another version.
    pub fn decode(bytes: &[u8]) -> anyhow::Result<Manifest> {
        let text = std::str::from_utf8(bytes).context("it is damaged")?;
        let (json, checksum) = text.split_once('\n').context("it was cut")?;
        ensure!(
            checksum == format!("crc32 {:08x}\n", crc32fast::hash(json.as_bytes())),
            "its checksum does not hold: it was damaged or cut"
        );
        #[derive(Deserialize)]
        struct Version {
            version: u16,
        }
        let Version { version } = serde_json::from_str(json).context("it has no version")?;
        ensure!(
            version == VERSION,
            "it has version {version} of the format, and this adtide reads version {VERSION}{}",
            segment::ADVICE
        );
        serde_json::from_str(json).context("it is not what this version writes")
    }
}
