//! Runs an operator beside a plain differential formulation of it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use adtide_dataflows::conversion_matcher::{Conversion, MatchInput, Opener, RoutedClick};
use adtide_dataflows::model::{Epoch, EventTime};
use adtide_dataflows::operators::Watermarks;
use differential_dataflow::input::Input as _;
use differential_dataflow::{Data, VecCollection};
use timely::ExchangeData;
use timely::dataflow::operators::vec::Map;
use timely::dataflow::operators::{Input as _, Inspect, ToStream};
use timely::dataflow::{Scope, StreamVec};

/// What an operator is given in an epoch.
#[derive(Clone, Debug)]
pub struct Turn<D> {
    pub records: Vec<D>,
    /// The watermark in effect from this epoch on, if it moves.
    pub watermark: Option<EventTime>,
}

/// How a collection changes, epoch by epoch: equal for two collections exactly if they are equal at every
/// moment.
pub type Net<R> = BTreeMap<(Epoch, R), isize>;

/// The collections that `build` makes, over some epochs and on two workers: their changes, net.
///
/// `build` is given the records and the watermarks as streams, and the same once more as they are.
pub fn nets<D, R, const N: usize>(
    turns: Vec<Turn<D>>,
    build: impl for<'scope> Fn(Streams<'scope, D>, &[Turn<D>]) -> [VecCollection<'scope, Epoch, R>; N]
    + Send
    + Sync
    + 'static,
) -> [Net<R>; N]
where
    D: ExchangeData + Clone + Sync,
    R: Ord + Clone + Send + 'static,
{
    let turns = Arc::new(turns);
    let guards = timely::execute(timely::Config::process(2), move |worker| {
        let (mut records_input, mut marks_input, captured) = worker.dataflow::<Epoch, _, _>(|scope| {
            let (records_input, records) = scope.new_input();
            let (marks_input, marks) = scope.new_input();
            let collections = build(Streams { records, marks }, &turns);
            let captured = collections.map(|collection| {
                let net: Rc<RefCell<Net<R>>> = Rc::default();
                let captured = Rc::clone(&net);
                collection.inner.inspect(move |(row, epoch, diff)| {
                    *captured.borrow_mut().entry((*epoch, row.clone())).or_default() += diff;
                });
                net
            });
            (records_input, marks_input, captured)
        });
        for (epoch, turn) in turns.iter().enumerate() {
            let mine = |at: &usize| at % worker.peers() == worker.index();
            for at in (0..turn.records.len()).filter(mine) {
                records_input.send(turn.records[at].clone());
            }
            if let Some(time) = turn.watermark {
                marks_input.send(Watermarks { performance: time, conversions: time, duplicates: time });
            }
            records_input.advance_to(epoch as Epoch + 1);
            marks_input.advance_to(epoch as Epoch + 1);
            worker.step();
        }
        drop((records_input, marks_input));
        while worker.has_dataflows() {
            worker.step();
        }
        captured.map(|net| net.take())
    });
    let mut nets = [const { Net::new() }; N];
    for part in guards.expect("the workers start").join() {
        for (net, part) in nets.iter_mut().zip(part.expect("a worker ends well")) {
            for (change, count) in part {
                *net.entry(change).or_default() += count;
            }
        }
    }
    for net in &mut nets {
        net.retain(|_, count| *count != 0);
    }
    nets
}

/// A record that statement 3 reads.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub enum MatchEvent {
    Click(RoutedClick),
    Conversion(Conversion),
}

impl<'scope> Streams<'scope, MatchEvent> {
    /// The records as statement 3 reads them.
    pub fn to_match(&self) -> MatchInput<'scope> {
        let clicks = self.records.clone().flat_map(|event| match event {
            MatchEvent::Click(click) => Some(click),
            MatchEvent::Conversion(_) => None,
        });
        let conversions = self.records.clone().flat_map(|event| match event {
            MatchEvent::Click(_) => None,
            MatchEvent::Conversion(conversion) => Some(conversion),
        });
        let no_openers: Vec<Opener> = Vec::new();
        MatchInput { clicks, conversions, openers: no_openers.to_stream(self.records.scope()) }
    }
}

/// What an operator reads.
pub struct Streams<'scope, D> {
    pub records: StreamVec<'scope, Epoch, D>,
    pub marks: StreamVec<'scope, Epoch, Watermarks>,
}

impl<'scope, D: 'static> Streams<'scope, D> {
    /// A collection of these changes, for the plain formulation.
    pub fn collection<R: Data>(
        &self,
        changes: impl IntoIterator<Item = (R, Epoch, isize)>,
    ) -> VecCollection<'scope, Epoch, R> {
        let scope: Scope<'scope, Epoch> = self.records.scope();
        let mine: Vec<_> = if scope.index() == 0 { changes.into_iter().collect() } else { Vec::new() };
        scope.new_collection_from_raw(mine).1
    }
}
