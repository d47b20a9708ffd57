//! Statement 4: refunds for duplicate clicks.
//!
//! Clicks of one device on one ad at one price within a window are one group; all but the first are owed back. A
//! group's refund is emitted when its window closes, and again, as the increase, whenever a late click raises it.
//! State: the groups of the windows that still take late clicks.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

use differential_dataflow::VecCollection;
use serde::{Deserialize, Serialize};
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Exchange;

use crate::hash::{HashMap, RoutingKey, table_bytes};
use crate::model::{AdId, Compensation, Epoch, EventTime, Money, Text, WINDOW_MS};
use crate::operators::{EpochLogic, Watermarks, epochs};
use crate::{DeltaLog, Settings, StateDelta};

/// A click that costs money, of a known device on a known ad.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaidClick {
    /// What is compared; equal clicks within a window are duplicates.
    pub group: ClickGroup,
    /// Event time of the click.
    pub time: EventTime,
}

/// What makes two clicks duplicates of each other.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ClickGroup {
    /// Who paid.
    pub advertiser_id: i64,
    /// The campaign, where known.
    pub campaign_id: Option<i64>,
    /// The ad.
    pub ad_id: AdId,
    /// The device.
    pub device_id: Text,
    /// What each click cost.
    pub actual_price: Money,
}

/// How much statement 4 holds and has seen, for metrics and tests.
#[derive(Debug, Default)]
pub struct DetectorState {
    /// Groups of the windows that still take late clicks.
    pub groups: Cell<usize>,
    /// The memory allocated for them, about, texts of ids not counted.
    pub bytes: Cell<usize>,
    /// The sum of the refunds emitted so far.
    pub refunds: Cell<Money>,
}

/// The refunds owed: each record once, at +1, never retracted.
///
/// The refunds of a group add up to (n - 1) * price at every moment after its window closed, whatever the order and
/// batching of its clicks. Each record lists the clicks that are new since the one before, so all clicks cost as much as
/// each of them once, however many of a group come late and one by one.
pub fn duplicate_detector<'scope>(
    clicks: StreamVec<'scope, Epoch, PaidClick>,
    watermarks: StreamVec<'scope, Epoch, Watermarks>,
    settings: &Settings,
    routing: RoutingKey,
    delta_log: &DeltaLog,
) -> (VecCollection<'scope, Epoch, Compensation>, Rc<DetectorState>) {
    let state = Rc::new(DetectorState::default());
    let logic = Detector {
        windows: BTreeMap::new(),
        allowed_lateness: settings.allowed_lateness,
        unsaved: None,
        state: Rc::clone(&state),
    };
    let exchange =
        Exchange::new(move |click: &PaidClick| routing.hash(&(click.group.advertiser_id, &*click.group.device_id)));
    (epochs(clicks, exchange, watermarks, |marks| marks.duplicates, "DuplicateDetector", delta_log, logic), state)
}

struct Detector {
    windows: BTreeMap<EventTime, Window>,
    allowed_lateness: i64,
    /// Clicks that no checkpoint has; None while there is no need to know.
    unsaved: Option<Vec<PaidClick>>,
    state: Rc<DetectorState>,
}

#[derive(Default)]
struct Window {
    closed: bool,
    groups: HashMap<ClickGroup, Group>,
    /// Number of click times in their lists.
    times: usize,
    /// Groups with new clicks since the window closed.
    raised: Vec<ClickGroup>,
}

#[derive(Default)]
struct Group {
    clicks: u64,
    /// How many of the clicks the records so far account for.
    refunded: u64,
    /// The times of the other clicks: of very many, the earliest.
    times: Vec<EventTime>,
}

impl EpochLogic for Detector {
    type In = PaidClick;
    type Out = Compensation;

    fn epoch(&mut self, records: Vec<PaidClick>, watermark: EventTime, mut emit: impl FnMut(Compensation, isize)) {
        if let Some(unsaved) = &mut self.unsaved {
            unsaved.extend_from_slice(&records);
        }
        for click in records {
            self.windows.entry(click.time.window_start()).or_default().add(click);
        }
        let mut refunds = self.state.refunds.get();
        let mut emit = |compensation: Compensation, diff| {
            refunds += compensation.refund_amount;
            emit(compensation, diff);
        };
        for (&start, window) in &mut self.windows {
            if window.closed {
                for group in std::mem::take(&mut window.raised) {
                    if let Some(clicks) = window.groups.get_mut(&group) {
                        window.times -= clicks.refund(&group, start, &mut emit);
                    }
                }
            } else if watermark >= start.plus(WINDOW_MS) {
                window.closed = true;
                for (group, clicks) in &mut window.groups {
                    window.times -= clicks.refund(group, start, &mut emit);
                }
            }
        }
        while let Some(window) = self.windows.first_entry()
            && window.key().plus(WINDOW_MS - 1 + self.allowed_lateness) < watermark
        {
            window.remove();
        }
        self.state.refunds.set(refunds);
        self.state.groups.set(self.windows.values().map(|window| window.groups.len()).sum());
        self.state.bytes.set(self.windows.values().map(Window::bytes).sum());
    }

    fn flush(&mut self, to: Option<&mut StateDelta>) {
        let clicks = self.unsaved.replace(Vec::new());
        if let Some(to) = to {
            to.extend(clicks.into_iter().flatten());
        }
    }
}

impl Window {
    /// A group's list of times has room for four at first; beyond that it is as good as full.
    fn bytes(&self) -> usize {
        let times = self.times.max(4 * self.groups.len()) * size_of::<EventTime>();
        table_bytes::<(ClickGroup, Group)>(self.groups.capacity()) + times
    }

    fn add(&mut self, click: PaidClick) {
        if self.closed {
            self.raised.push(click.group.clone());
        }
        self.times += 1;
        self.times -= self.groups.entry(click.group).or_default().add(click.time);
    }
}

impl Group {
    /// Takes a click, and returns how many times it drops because no record would list them.
    fn add(&mut self, time: EventTime) -> usize {
        self.clicks += 1;
        self.times.push(time);
        if self.times.len() < 2 * Compensation::LISTED {
            return 0;
        }
        self.times.select_nth_unstable(Compensation::LISTED);
        self.times.truncate(Compensation::LISTED);
        Compensation::LISTED
    }

    /// Emits what is owed now and was not before, and returns how many times that takes from the list.
    fn refund(
        &mut self,
        group: &ClickGroup,
        window_start: EventTime,
        emit: &mut impl FnMut(Compensation, isize),
    ) -> usize {
        let increase = self.clicks - self.refunded.max(1);
        if increase == 0 {
            return 0;
        }
        let mut click_times = std::mem::take(&mut self.times);
        let taken = click_times.len();
        click_times.sort_unstable();
        click_times.truncate(Compensation::LISTED);
        let compensation = Compensation {
            advertiser_id: group.advertiser_id,
            campaign_id: group.campaign_id,
            ad_id: group.ad_id.clone(),
            device_id: group.device_id.clone(),
            actual_price: group.actual_price,
            window_start,
            clicks: self.clicks,
            is_cut: self.clicks - self.refunded > click_times.len() as u64,
            click_times,
            refund_amount: group.actual_price * i64::try_from(increase).unwrap_or(i64::MAX),
        };
        self.refunded = self.clicks;
        emit(compensation, 1);
        taken
    }
}
