//! Reading a worker's share of a checkpoint.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};

use adtide_dataflows::operators::Watermarks;
use adtide_dataflows::{Memory, StateDelta};

use super::jobs::Jobs;
use crate::checkpoint::{Manifest, Segment, Store};

/// Pieces that may wait to be given back.
const AHEAD: usize = 2;

/// Rows a piece.
const ROWS_AT_ONCE: usize = 1 << 16;

/// A worker's share of a checkpoint, read ahead by a thread of its own.
pub struct Loader {
    pieces: Option<Receiver<anyhow::Result<(u64, StateDelta)>>>,
    done: u64,
    total: u64,
}

/// What comes of a [`Loader`].
pub enum Piece {
    /// Some of it.
    StateDelta(Box<StateDelta>),
    /// It is still being read.
    NotYet,
    /// That was all.
    End,
}

impl Loader {
    /// Of a run without a checkpoint.
    pub fn nothing() -> Loader {
        Loader { pieces: None, done: 0, total: 0 }
    }

    /// Begins to read the share of worker `worker` of `workers`. By `jobs` it is read elsewhere.
    pub fn start(
        store: &Arc<Store>,
        checkpoint: &Manifest,
        worker: usize,
        workers: usize,
        jobs: &dyn Jobs,
    ) -> Loader {
        let share = share(&checkpoint.segments, worker, workers);
        let total = share.iter().map(|segment| segment.rows).sum();
        // What had expired by the settings that it was kept under is not whole any more.
        let (forgotten, memory) = (checkpoint.forgotten, checkpoint.run.settings.memory());
        let (send, receive) = sync_channel(jobs.room(AHEAD));
        let store = Arc::clone(store);
        jobs.start(Box::new(move || {
            for segment in share {
                let pieces = match read(&store, &segment, &forgotten, memory) {
                    Ok(delta) => pieces(delta, segment.rows).map(Ok).collect(),
                    Err(error) => vec![Err(error)],
                };
                for piece in pieces {
                    if send.send(piece).is_err() {
                        return;
                    }
                }
            }
        }));
        Loader { pieces: Some(receive), done: 0, total }
    }

    /// The next piece, if it is there.
    ///
    /// # Errors
    /// It can't be read.
    pub fn piece(&mut self) -> anyhow::Result<Piece> {
        let Some(pieces) = &self.pieces else { return Ok(Piece::End) };
        match pieces.try_recv() {
            Ok(read) => {
                let (rows, delta) = read?;
                self.done += rows;
                Ok(Piece::StateDelta(Box::new(delta)))
            }
            Err(TryRecvError::Empty) => Ok(Piece::NotYet),
            Err(TryRecvError::Disconnected) => {
                self.pieces = None;
                Ok(Piece::End)
            }
        }
    }

    /// Rows read, and rows in all.
    pub fn restored(&self) -> (u64, u64) {
        (self.done, self.total)
    }
}

fn read(
    store: &Store,
    segment: &Segment,
    forgotten: &Watermarks,
    memory: Memory,
) -> anyhow::Result<StateDelta> {
    let mut delta = store.read(segment)?;
    delta.retain_restored(forgotten, memory);
    Ok(delta)
}

/// A segment in pieces with the rows they stand for: an epoch that gives back too much takes memory.
fn pieces(delta: StateDelta, rows: u64) -> impl Iterator<Item = (u64, StateDelta)> {
    let pieces = delta.pieces(ROWS_AT_ONCE).enumerate();
    pieces.map(move |(at, piece)| (if at == 0 { rows } else { 0 }, piece))
}

/// The segments of worker `worker`: the largest are dealt first, so that all get about as much.
fn share(segments: &[Segment], worker: usize, workers: usize) -> Vec<Segment> {
    let mut sorted: Vec<_> = segments.iter().collect();
    sorted.sort_by(|one, other| (other.rows, &other.name).cmp(&(one.rows, &one.name)));
    sorted.into_iter().skip(worker).step_by(workers).cloned().collect()
}
