//! Changes sorted by the table that they go to.

use adtide_dataflows::conversion_matcher::AttributionRow;
use adtide_dataflows::performance_aggregator::PerformanceRow;
use adtide_dataflows::rtb_cache_updater::RankingRow;

use super::Change;

/// The changes by table, still epoch by epoch.
#[derive(Default)]
pub struct Rows {
    /// Statement 1.
    pub rankings: Vec<Vec<(RankingRow, isize)>>,
    /// Statement 2.
    pub performance: Vec<Vec<(PerformanceRow, isize)>>,
    /// Statement 3.
    pub attributions: Vec<Vec<(AttributionRow, isize)>>,
}

impl Rows {
    /// Sorts the changes; those that are no row of a table are left out.
    pub fn sort(epochs: Vec<Vec<Change>>) -> Rows {
        let mut rows = Rows::default();
        for changes in epochs {
            let (mut rankings, mut performance, mut attributions) = (Vec::new(), Vec::new(), Vec::new());
            for change in changes {
                match change {
                    Change::Ranking(row, diff) => rankings.push((row, diff)),
                    Change::Performance(row, diff) => performance.push((row, diff)),
                    Change::Attribution(row, diff) => attributions.push((row, diff)),
                    _ => {}
                }
            }
            rows.rankings.push(rankings);
            rows.performance.push(performance);
            rows.attributions.push(attributions);
        }
        rows
    }
}
