//! Which segments are still needed, and which become one.
//!
//! Each checkpoint adds small segments. Sixteen of a kind and level become one of the next level, so a row is
//! written again once a level, and their number grows with the logarithm of time. What expires stops at a
//! level of some hours: a segment goes as a whole, and a larger one would keep what has expired for too long.

use std::collections::BTreeMap;

use adtide_dataflows::operators::Watermarks;
use adtide_dataflows::{Kind, Memory};

use super::Segment;

/// How many segments become one.
const TOGETHER: usize = 16;

/// The last level of what expires: 256 checkpoints, with one every 30 s about two hours.
const LAST_LEVEL: u8 = 2;

/// The segments that do not hold only what has expired; see [`Kind::expiry`].
pub fn live(mut segments: Vec<Segment>, forgotten: &Watermarks, memory: Memory) -> Vec<Segment> {
    let has_expired = |segment: &Segment| {
        segment.kind.expiry().is_some_and(|expiry| expiry(segment.greatest, forgotten, memory))
    };
    segments.retain(|segment| !has_expired(segment));
    segments
}

/// Segments that should become one: of one kind and level, the oldest first.
pub fn to_merge(segments: &[Segment]) -> Option<Vec<Segment>> {
    let mut groups: BTreeMap<(Kind, u8), Vec<&Segment>> = BTreeMap::new();
    for segment in
        segments.iter().filter(|segment| segment.kind.expiry().is_none() || segment.level < LAST_LEVEL)
    {
        groups.entry((segment.kind, segment.level)).or_default().push(segment);
    }
    let mut group = groups.into_values().find(|group| group.len() >= TOGETHER)?;
    group.sort_by_key(|segment| (segment.greatest, &segment.name));
    Some(group.into_iter().take(TOGETHER).cloned().collect())
}

#[cfg(test)]
mod tests {
    use adtide_dataflows::model::EventTime;

    use super::*;

    const HOUR: i64 = 3_600_000;

    fn segment(number: u64, greatest: i64, rows: u64, level: u8) -> Segment {
        let name = format!("{level}-{number:06}");
        Segment {
            name,
            kind: Kind::Clicks,
            rows,
            bytes: rows * 33,
            checksum: 0,
            greatest: EventTime(greatest),
            level,
        }
    }

    #[test]
    fn over_a_day_and_more_rows_are_rewritten_twice_and_segments_stay_few() {
        let settings = adtide_dataflows::Settings::default();
        let (mut segments, mut new, mut rewritten, mut most) = (Vec::new(), 0, 0, 0);
        // A checkpoint every 30 s, for 60 hours.
        for number in 0..60 * 120 {
            let now = number as i64 * 30_000;
            segments.push(segment(number, now, 100, 0));
            new += 100;
            let forgotten = Watermarks::all(EventTime(now - HOUR)).earlier(settings.allowed_lateness);
            segments = live(segments, &forgotten, settings.memory());
            while let Some(group) = to_merge(&segments) {
                segments.retain(|segment| !group.contains(segment));
                let rows = group.iter().map(|part| part.rows).sum();
                rewritten += rows;
                let greatest = group.iter().map(|part| part.greatest.0).max().unwrap();
                segments.push(segment(number, greatest, rows, group[0].level + 1));
            }
            most = most.max(segments.len());
        }
        assert!(rewritten <= 2 * new, "{rewritten} rewritten of {new}");
        assert!(most <= 50, "{most} segments");
        let rows: u64 = segments.iter().map(|segment| segment.rows).sum();
        // Live are 25 hours and 10 minutes, at 120 checkpoints an hour; the last segment to go spans two
        // hours.
        assert!((25 * 120 * 100..28 * 120 * 100).contains(&rows), "{rows} rows");
    }
}
