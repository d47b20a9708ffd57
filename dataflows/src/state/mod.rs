//! What enters the statements' state, for checkpoints.
//!
//! State is what came in and has not expired, so a checkpoint is a log of what came in, from which what has
//! expired is dropped. None of it depends on an order or on who kept it: sums come as increments, upserts
//! carry their order, everything else is a set. So what many workers kept in many boundaries can be given to
//! any number of workers in any order.
//!
//! Checkpoints, restores, compaction and the statements' inputs know the rows as [`StateRow`]s only. The list
//! of their kinds is at the end of this file.

use timely::container::CapacityContainerBuilder;
use timely::dataflow::operators::Input;
use timely::dataflow::operators::core::input::Handle;
use timely::dataflow::{Scope, StreamVec};

use crate::conversion_matcher::{Conversion, Opener, RoutedClick};
use crate::duplicate_detector::PaidClick;
use crate::model::{Epoch, EventTime};
use crate::operators::Watermarks;
use crate::performance_aggregator::PartialSums;
use crate::rtb_cache_updater::{CampaignUpdate, PriceUpdate, RateSums, RatesUpdate};
use crate::settings::Memory;

mod codec;
mod log;

pub use codec::{Codec, CodecError, Column, Decoder, Encoder};
pub use log::{DeltaLog, DeltaRecorder, LAST, RESTORED};

/// Whether what has this event time has left the state of a run that remembers for so long.
///
/// The watermarks say, for each statement, from before which times records are late: by the run itself, which
/// is its watermarks less the allowed lateness, or by an earlier run that it resumes, where less lateness was
/// allowed.
pub type Expiry = fn(EventTime, &Watermarks, Memory) -> bool;

/// A row that enters a statement's state. An operator that keeps such rows is in checkpoints without knowing
/// what they are.
pub trait StateRow: KindOfRow + Clone + Default + 'static {
    /// The version of [`StateRow::columns`]. Segments of another one can't be read; those of other kinds can.
    const VERSION: u16 = 1;

    /// About how many texts a row has that no other row shares.
    const TEXTS: usize = 0;

    /// When a row expires, by [`StateRow::time`]; None if it never does.
    const EXPIRY: Option<Expiry> = None;

    /// Its event time, or the start of its window, where it has one.
    fn time(&self) -> Option<EventTime> {
        None
    }

    /// Sorts rows so that those beside each other have much in common: it makes columns smaller.
    fn sort(rows: &mut [Self]);

    /// The columns. They are in checkpoints, so another order or another type is another
    /// [`StateRow::VERSION`].
    ///
    /// # Errors
    /// What is read is not such columns.
    fn columns(rows: &mut [Self], codec: &mut Codec<'_>) -> Result<(), CodecError>;

    /// Brings together what has one key: of upserts the newest stays, increments are added up.
    fn compact(_rows: &mut Vec<Self>) {}

    /// Whether a restore gives the row back; not, what had left the state of the run that kept it. Settings
    /// that have changed since then don't count: by them, more may be live, but it is not whole any more.
    fn is_restored(&self, forgotten: &Watermarks, memory: Memory) -> bool {
        !self.has_expired(forgotten, memory)
    }

    /// Whether it has expired.
    fn has_expired(&self, forgotten: &Watermarks, memory: Memory) -> bool {
        Self::EXPIRY.zip(self.time()).is_some_and(|(expiry, time)| expiry(time, forgotten, memory))
    }
}

/// What the list of kinds says of a row.
pub trait KindOfRow: Sized {
    /// Its kind.
    const KIND: Kind;

    /// The rows of this kind of the delta.
    fn rows(delta: &mut StateDelta) -> &mut Vec<Self>;
}

type InputHandle<D> = Handle<Epoch, CapacityContainerBuilder<Vec<D>>>;

/// Makes of the list of kinds all that goes over them. A kind's place in the list is its number in
/// checkpoints.
macro_rules! state_rows {
    ($($(#[$doc:meta])* $kind:ident $name:ident: $row:ty,)*) => {
        /// The kinds of rows.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Kind {
            $($(#[$doc])* $kind,)*
        }

        impl Kind {
            /// All of them.
            pub const ALL: &[Kind] = &[$(Kind::$kind),*];

            /// The version of its columns.
            pub fn version(self) -> u16 {
                match self { $(Kind::$kind => <$row>::VERSION,)* }
            }

            /// When its rows expire; None if they never do.
            pub fn expiry(self) -> Option<Expiry> {
                match self { $(Kind::$kind => <$row>::EXPIRY,)* }
            }
        }

        /// What entered the state of the statements.
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct StateDelta {
            $($(#[$doc])* pub $name: Vec<$row>,)*
        }

        impl StateDelta {
            /// Adds what somebody else kept.
            pub fn append(&mut self, mut other: StateDelta) {
                $(self.$name.append(&mut other.$name);)*
            }

            /// About how much memory it takes.
            pub fn bytes(&self) -> usize {
                0 $(+ bytes(&self.$name))*
            }

            /// Whether there is nothing.
            pub fn is_empty(&self) -> bool {
                $(self.$name.is_empty())&&*
            }

            /// For a restore: drops, to the record, what is not given back; see [`StateRow::is_restored`].
            pub fn retain_restored(&mut self, forgotten: &Watermarks, memory: Memory) {
                $(self.$name.retain(|row| row.is_restored(forgotten, memory));)*
            }

            /// Drops what has expired and brings together what has one key; see [`StateRow::compact`].
            pub fn compact(&mut self, forgotten: &Watermarks, memory: Memory) {
                $(
                    self.$name.retain(|row| !row.has_expired(forgotten, memory));
                    StateRow::compact(&mut self.$name);
                )*
            }

            /// Writes the rows of a kind, in an order of its own; how many they are, and their greatest time,
            /// if they have any.
            ///
            /// # Errors
            /// None: writing can't fail.
            pub fn encode(&mut self, kind: Kind, to: &mut Codec<'_>) -> Result<(usize, Option<EventTime>), CodecError> {
                match kind { $(Kind::$kind => encode(&mut self.$name, to),)* }
            }

            /// Reads rows of a kind.
            ///
            /// # Errors
            /// The bytes are not so many such rows.
            pub fn decode(kind: Kind, rows: usize, from: &mut Codec<'_>) -> Result<StateDelta, CodecError> {
                let mut delta = StateDelta::default();
                match kind { $(Kind::$kind => delta.$name = decode(rows, from)?,)* }
                Ok(delta)
            }

            /// The same in pieces of at most `most` rows a kind.
            pub fn pieces(mut self, most: usize) -> impl Iterator<Item = StateDelta> {
                std::iter::from_fn(move || {
                    let piece = StateDelta { $($name: first(&mut self.$name, most),)* };
                    (!piece.is_empty()).then_some(piece)
                })
            }
        }

        $(impl KindOfRow for $row {
            const KIND: Kind = Kind::$kind;

            fn rows(delta: &mut StateDelta) -> &mut Vec<Self> {
                &mut delta.$name
            }
        })*

        /// The inputs of the statements' state: what comes in, and what a checkpoint gives back.
        pub(crate) struct StateInputs {
            $($name: InputHandle<$row>,)*
        }

        /// What comes of [`StateInputs`].
        pub(crate) struct StateStreams<'scope> {
            $(pub $name: StreamVec<'scope, Epoch, $row>,)*
        }

        impl StateInputs {
            pub fn new<'scope>(scope: Scope<'scope, Epoch>) -> (StateInputs, StateStreams<'scope>) {
                $(let $name = scope.new_input();)*
                (StateInputs { $($name: $name.0,)* }, StateStreams { $($name: $name.1,)* })
            }

            /// Sends rows at the current epoch, and leaves their memory for the next ones.
            pub fn send(&mut self, delta: &mut StateDelta) {
                $(
                    self.$name.send_batch(&mut delta.$name);
                    delta.$name.clear();
                )*
            }

            pub fn advance_to(&mut self, epoch: Epoch) {
                $(self.$name.advance_to(epoch);)*
            }
        }
    };
}

impl StateDelta {
    /// Adds rows of one kind.
    pub fn extend<R: StateRow>(&mut self, rows: impl IntoIterator<Item = R>) {
        R::rows(self).extend(rows);
    }
}

fn bytes<R: StateRow>(rows: &[R]) -> usize {
    /// Of a text.
    const TEXT: usize = 48;
    rows.len() * (size_of::<R>() + R::TEXTS * TEXT)
}

fn encode<R: StateRow>(rows: &mut [R], to: &mut Codec<'_>) -> Result<(usize, Option<EventTime>), CodecError> {
    R::sort(rows);
    R::columns(rows, to)?;
    Ok((rows.len(), rows.iter().filter_map(StateRow::time).max()))
}

fn decode<R: StateRow>(rows: usize, from: &mut Codec<'_>) -> Result<Vec<R>, CodecError> {
    // Every row has a number, and a number takes a byte.
    if let Codec::Decode(decoder) = from
        && rows > decoder.left()
    {
        return Err(CodecError::TooShort);
    }
    let mut read = vec![R::default(); rows];
    R::columns(&mut read, from)?;
    Ok(read)
}

/// Takes the first rows out, or the last: their order means nothing.
fn first<R>(rows: &mut Vec<R>, most: usize) -> Vec<R> {
    rows.split_off(rows.len().saturating_sub(most))
}

state_rows! {
    /// Statement 1: the campaigns' newest events.
    Campaigns campaigns: CampaignUpdate,
    /// Statement 1: the products' newest rates.
    Rates rates: RatesUpdate,
    /// Statement 1: the products' newest prices.
    Prices prices: PriceUpdate,
    /// Statement 1 with live rates: increments.
    LiveRates live_rates: RateSums,
    /// Statement 2: increments.
    Sums sums: PartialSums,
    /// Statement 3: clicks.
    Clicks clicks: RoutedClick,
    /// Statement 3: records of conversions, repeats too.
    Conversions conversions: Conversion,
    /// Statement 4: clicks that cost something.
    PaidClicks paid_clicks: PaidClick,
    /// Statement 3: which records opened a conversion, when that was certain.
    Openers openers: Opener,
}
