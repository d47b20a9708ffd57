//! A replay of what sinks have committed, in other batches and on another number of workers: what comes
//! behind each sink's cut goes on from what it had, as if nothing had happened.

use std::collections::BTreeSet;

use adtide_dataflows::model::Epoch;
use adtide_dataflows::operators::{Cut, Watermarks};
use proptest::prelude::*;
use proptest::sample::Index;

use crate::support::{Disorder, Run, check, histories, settings};

#[test]
fn behind_its_cut_every_sink_goes_on_as_if_nothing_had_happened() {
    let cuts = prop::collection::vec(any::<Index>(), 1..4);
    let epochs = prop::collection::vec(prop::bool::weighted(0.3), 50);
    let cases = (histories(160, Disorder::Any), settings(), cuts, epochs);
    check(60, cases, |(history, settings, cuts, epochs)| {
        let first = Run::of(&history, &settings, 2, false);
        let cuts: BTreeSet<_> =
            cuts.iter().map(|cut| cut.index(history.last_epoch() as usize + 1) as Epoch).collect();
        let mut more = epochs.into_iter().cycle();
        let (again, names) = history.replayed(&cuts, || more.next() == Some(true));
        let watermarks = |cut| first.watermarks_at(cut).unwrap_or(Watermarks::MIN);
        let passed: Vec<_> = cuts.iter().map(|&epoch| Cut { epoch, watermarks: watermarks(epoch) }).collect();
        for workers in [1, 3] {
            let second = Run::replay(&again, &settings, workers, names.clone(), passed.clone());
            for cut in &cuts {
                let whole = first.clone().gone_on_with(second.clone(), *cut);
                whole.check_always(&settings);
                whole.check_at(Epoch::MAX, &history, &settings);
            }
        }
    });
}
