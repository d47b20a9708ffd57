//! The statement in plain differential operators.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::rc::Rc;

use differential_dataflow::VecCollection;
use differential_dataflow::hashable::Hashable;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::Concat;
use timely::dataflow::operators::vec::Map;

use super::{AttributionRow, Conversion, MatchInput, MatcherState, Opener, OpenersState, StoredClick};
use crate::hash::RoutingKey;
use crate::model::{Epoch, EventTime, IdHash};
use crate::operators::{EpochLogic, Watermarks, at_epochs, changes, epochs, last_before, recorded};
use crate::{DeltaLog, Settings, StateDelta};

/// What [`conversion_matcher`](super::conversion_matcher) computes: a reduce of each identity's records to
/// those that open a conversion, and of each of them the last click before it. It keeps all clicks and
/// conversions for ever; they are not counted as state.
pub fn definition<'scope>(
    input: MatchInput<'scope>,
    watermarks: StreamVec<'scope, Epoch, Watermarks>,
    settings: &Settings,
    _routing: RoutingKey,
    delta_log: &DeltaLog,
) -> (VecCollection<'scope, Epoch, AttributionRow>, MatcherState) {
    let MatchInput { clicks, conversions, openers } = input;
    let repeat_within = settings.repeat_within();
    let conversions = recorded(conversions, delta_log);
    let records = conversions.clone().map(|record| (record.id(), Known::Conversion(record)));
    let known = recorded(openers, delta_log).map(|opener| (opener.id, Known::Settled(opener.time)));
    let openers = at_epochs(records.concat(known)).reduce_named("Openers", move |_, records, openers| {
        openers.extend(opening(records, repeat_within).map(|record| (record.clone(), 1isize)));
    });
    let openers = openers.map(|(_, opener)| opener);
    let state = settled(conversions, openers.clone(), watermarks, settings, delta_log);

    let clicks = at_epochs(recorded(clicks, delta_log)).map(|(_, click)| {
        let StoredClick { keys, click_time, ad_id, campaign_id, advertiser_id } = click;
        (keys, click_time, (ad_id, campaign_id, advertiser_id))
    });
    let conversions = openers.map(|opener| (opener.keys, opener.order.0, opener));
    let rows = last_before::definition(clicks, conversions, settings.lookback);
    let rows = rows.map(|(opener, (click_time, (ad_id, campaign_id, advertiser_id)))| AttributionRow {
        order_id: opener.order_id,
        product_id: opener.product_id,
        ad_id,
        campaign_id,
        advertiser_id,
        revenue_amount: opener.revenue_amount,
        click_time,
        conversion_time: opener.order.0,
    });
    (rows, MatcherState { openers: state, ..MatcherState::default() })
}

/// What is known of an identity; of its conversions the least order comes first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
enum Known {
    /// It was opened at this time, by a record that is settled.
    Settled(EventTime),
    Conversion(Conversion),
}

/// The records that open a conversion, of all of an identity in their order.
fn opening<'a>(
    records: &'a [(&'a Known, isize)],
    repeat_within: i64,
) -> impl Iterator<Item = &'a Conversion> {
    let mut opened: Option<EventTime> = None;
    records.iter().filter_map(move |(record, _)| match record {
        Known::Settled(time) => {
            opened = opened.max(Some(*time));
            None
        }
        Known::Conversion(conversion) => {
            let time = conversion.order.0;
            let opens = opened.is_none_or(|opened| time > opened.plus(repeat_within));
            opens.then(|| opened = Some(time)).map(|()| conversion)
        }
    })
}

/// Keeps for checkpoints which records opened a conversion, once that is certain: the records themselves
/// expire before those that could repeat them. Counts the others.
fn settled<'scope>(
    records: StreamVec<'scope, Epoch, Conversion>,
    openers: VecCollection<'scope, Epoch, Conversion>,
    watermarks: StreamVec<'scope, Epoch, Watermarks>,
    settings: &Settings,
    delta_log: &DeltaLog,
) -> Rc<OpenersState> {
    let records = records.map(|record| (record.opener(), Count { records: 1, openers: 0 }));
    let openers = changes(openers, |record, openers| (record.opener(), Count { records: 0, openers }));
    let exchange = Exchange::new(|(opener, _): &(Opener, Count)| opener.id.hashed());
    let state = Rc::new(OpenersState::default());
    let logic = Settling {
        unsettled: BTreeMap::new(),
        unsaved: Vec::new(),
        allowed_lateness: settings.allowed_lateness,
        settles: !delta_log.is_on(),
        saves: false,
        state: Rc::clone(&state),
    };
    let records = records.concat(openers);
    epochs(records, exchange, watermarks, |marks| marks.conversions, "SettledOpeners", delta_log, logic);
    state
}

/// Of an identity and a time.
#[derive(Clone, Copy, Default, serde::Serialize, serde::Deserialize)]
struct Count {
    records: isize,
    openers: isize,
}

struct Settling {
    unsettled: BTreeMap<(EventTime, IdHash), (Opener, Count)>,
    unsaved: Vec<Opener>,
    allowed_lateness: i64,
    /// Not before all of a checkpoint has come.
    settles: bool,
    /// Whether checkpoints want what settles.
    saves: bool,
    state: Rc<OpenersState>,
}

impl EpochLogic for Settling {
    type In = (Opener, Count);
    type Beside = Infallible;
    type Out = Infallible;

    fn epoch(
        &mut self,
        counts: Vec<(Opener, Count)>,
        watermark: EventTime,
        _emit: impl FnMut(Infallible, isize),
    ) {
        for (opener, count) in counts {
            let (_, known) =
                self.unsettled.entry((opener.time, opener.id)).or_insert((opener, Count::default()));
            known.records += count.records;
            known.openers += count.openers;
        }
        let settled = watermark.plus(-self.allowed_lateness);
        while self.settles
            && let Some(first) = self.unsettled.first_entry()
            && first.key().0 < settled
        {
            let (opener, count) = first.remove();
            self.unsaved.extend((self.saves && count.openers > 0).then_some(opener));
            let repeats = count.records - count.openers;
            self.state.repeats.set(self.state.repeats.get().saturating_add_signed(repeats as i64));
        }
    }

    fn flush(&mut self, to: Option<&mut StateDelta>) {
        (self.settles, self.saves) = (true, true);
        let unsaved = std::mem::take(&mut self.unsaved);
        to.into_iter().for_each(|to| to.extend(unsaved.iter().copied()));
    }
}
