//! Whatever comes in, however it is batched and dealt out: the results are those of the batch recomputation.

use adtide_dataflows::model::Epoch;
use proptest::prelude::*;
use proptest::sample::Index;

use crate::support::{Disorder, Run, check, histories, settings};

#[test]
fn results_equal_the_batch_recomputation_on_any_number_of_workers() {
    let cases = (histories(160, Disorder::Any), settings(), any::<bool>());
    check(40, cases, |(history, settings, settles)| {
        for workers in [1, 2, 4] {
            let run = Run::of(&history, &settings, workers, settles);
            run.check_always(&settings);
            run.check_at(Epoch::MAX, &history, &settings);
        }
    });
}

#[test]
fn results_are_right_at_every_moment_for_the_records_so_far() {
    let cases = (histories(160, Disorder::Any), settings(), prop::collection::vec(any::<Index>(), 4));
    check(60, cases, |(history, settings, moments)| {
        let run = Run::of(&history, &settings, 2, false);
        for moment in moments {
            let epoch = moment.index(history.last_epoch() as usize + 1) as Epoch;
            run.check_at(epoch, &history, &settings);
        }
    });
}
