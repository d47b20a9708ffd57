//! Checkpoints of the tests' runs.

use std::collections::{BTreeMap, BTreeSet};

use adtide_dataflows::model::Epoch;
use adtide_dataflows::operators::{PartitionReport, Watermarks};
use adtide_dataflows::{Memory, RESTORED, Settings, StateDelta, StateRow};

use super::{Dice, Run};

/// The name of the first real epoch. Histories count from 0.
pub const FIRST: Epoch = RESTORED + 1;

/// What a worker's operators handed over, by boundary.
pub type Kept = Vec<(Epoch, StateDelta)>;

/// The state at the end of an epoch.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    pub epoch: Epoch,
    /// All that entered the state, but for some of what has left it.
    pub delta: StateDelta,
    /// What is restored, in no order and in no places.
    pub pieces: Vec<StateDelta>,
    pub watermarks: Watermarks,
    pub forgotten: Watermarks,
    pub reports: Vec<PartitionReport>,
}

impl Run {
    /// The epochs at whose ends all workers together have handed over.
    pub fn boundaries(&self) -> Vec<Epoch> {
        let of_each =
            self.kept.iter().map(|kept| kept.iter().map(|(boundary, _)| *boundary).collect::<BTreeSet<_>>());
        let common = of_each.reduce(|one, other| &one & &other).unwrap_or_default();
        common.into_iter().map(|boundary| boundary - FIRST).collect()
    }

    /// The checkpoint of a run with these settings, which began with the one `before`.
    pub fn checkpoint(
        &self,
        epoch: Epoch,
        before: Option<&Checkpoint>,
        settings: &Settings,
        dice: &mut Dice,
    ) -> Checkpoint {
        let mut delta = before.map(|before| before.delta.clone()).unwrap_or_default();
        for (_, kept) in self.kept.iter().flatten().filter(|(boundary, _)| *boundary <= FIRST + epoch) {
            delta.append(kept.clone());
        }
        let watermarks = self.watermarks_at(epoch).unwrap_or(Watermarks::MIN);
        let forgotten = watermarks.earlier(settings.allowed_lateness);
        let forgotten = before.map_or(forgotten, |before| before.forgotten.max(forgotten));
        lose_expired(&mut delta, &forgotten, settings.memory(), dice);
        let mut live = delta.clone();
        live.retain_restored(&forgotten, settings.memory());
        let reports = self.reports.iter().take_while(|(_, reported)| *reported <= epoch);
        let reports: BTreeMap<_, _> =
            reports.map(|(report, _)| ((report.topic, report.partition), report.clone())).collect();
        let pieces = scattered(live, dice);
        Checkpoint { epoch, delta, pieces, watermarks, forgotten, reports: reports.into_values().collect() }
    }
}

/// Drops some of what has expired, as a store does that drops whole segments.
fn lose_expired(delta: &mut StateDelta, forgotten: &Watermarks, memory: Memory, dice: &mut Dice) {
    fn lose<R: StateRow>(rows: &mut Vec<R>, forgotten: &Watermarks, memory: Memory, dice: &mut Dice) {
        rows.retain(|row| !row.has_expired(forgotten, memory) || dice.below(2) == 0);
    }
    lose(&mut delta.sums, forgotten, memory, dice);
    lose(&mut delta.clicks, forgotten, memory, dice);
    lose(&mut delta.conversions, forgotten, memory, dice);
    lose(&mut delta.openers, forgotten, memory, dice);
    lose(&mut delta.paid_clicks, forgotten, memory, dice);
}

/// Deals rows out to some pieces, and there to any places.
fn scattered(delta: StateDelta, dice: &mut Dice) -> Vec<StateDelta> {
    let mut pieces = vec![StateDelta::default(); 1 + dice.below(9)];
    let StateDelta { campaigns, rates, prices, live_rates, sums, clicks, conversions, openers, paid_clicks } =
        delta;
    deal(campaigns, &mut pieces, |piece| &mut piece.campaigns, dice);
    deal(rates, &mut pieces, |piece| &mut piece.rates, dice);
    deal(prices, &mut pieces, |piece| &mut piece.prices, dice);
    deal(live_rates, &mut pieces, |piece| &mut piece.live_rates, dice);
    deal(sums, &mut pieces, |piece| &mut piece.sums, dice);
    deal(clicks, &mut pieces, |piece| &mut piece.clicks, dice);
    deal(conversions, &mut pieces, |piece| &mut piece.conversions, dice);
    deal(openers, &mut pieces, |piece| &mut piece.openers, dice);
    deal(paid_clicks, &mut pieces, |piece| &mut piece.paid_clicks, dice);
    pieces
}

fn deal<T>(
    rows: Vec<T>,
    pieces: &mut [StateDelta],
    part: fn(&mut StateDelta) -> &mut Vec<T>,
    dice: &mut Dice,
) {
    for row in rows {
        let piece = dice.below(pieces.len());
        let part = part(&mut pieces[piece]);
        let place = dice.below(part.len() + 1);
        part.insert(place, row);
    }
}
