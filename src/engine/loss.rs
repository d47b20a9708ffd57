//! What the results need of the topics and the topics no longer have.
//!
//! A restart reads its topics from the checkpoint on, or from where their results began. If the log of a
//! partition starts later (retention, `kafka-delete-records`), some records are not there. Windows, groups
//! and conversions that they belong to would be computed anew from a part of their input, and replace what
//! was committed from all of it. So a run refuses to start, and says what is missing; with `--accept-loss` it
//! starts, and takes all records for late that a lost record may have shared a window, a group or a
//! conversion with: what is committed of those stays as it is.
//!
//! Which event times that concerns is not known exactly, as the records are gone. An upper bound is: the
//! greatest event time among the committed records of the partition, as it was stored with them; and what the
//! timestamps of the records that follow the gap allow, because no record is good that leads its own
//! timestamp by more than `max_future_skew`. Kafka's timestamps ascend where the broker sets them. Where the
//! producer does, they are taken to be out of order by no more than the `allowed_lateness`, past which the
//! record would have been late. The lesser bound counts, unless the gap reaches beyond what was committed.

use std::collections::BTreeMap;

use adtide_dataflows::Settings;
use adtide_dataflows::model::{EventTime, Topic, WINDOW_MS};
use adtide_dataflows::operators::Watermarks;
use anyhow::{bail, ensure};
use tracing::warn;

use super::Plan;
use crate::source::{Gap, Head, Heads};

/// Where the log of a partition begins, and the offset behind its last record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The offset of the first record that may be there.
    pub start: u64,
    /// The offset that the next record will get or exceed.
    pub end: u64,
}

/// The extents of all partitions.
pub type Extents = BTreeMap<(Topic, u32), Extent>;

impl Gap {
    /// No record in the gap that would be good happened later than this; None if there is none.
    fn latest(&self, head: Option<&Head>, settings: &Settings) -> Option<EventTime> {
        let by_timestamp = |head: &Head| {
            let disorder = if head.is_append_time { 0 } else { settings.allowed_lateness };
            head.latest.plus(settings.max_future_skew).plus(disorder)
        };
        if self.to <= self.committed {
            return self
                .greatest
                .map(|greatest| head.map_or(greatest, |head| greatest.min(by_timestamp(head))));
        }
        // Some were never read. With nothing behind the gap, they may be as young as records can be.
        let unread = head.map_or_else(|| crate::now().plus(settings.max_future_skew), by_timestamp);
        Some(self.greatest.map_or(unread, |greatest| greatest.max(unread)))
    }

    /// From before which times records are closed for each statement, if what is lost happened at `latest` or
    /// before.
    fn closed(&self, latest: EventTime, settings: &Settings) -> Watermarks {
        let windows = latest.window_start().plus(WINDOW_MS);
        match self.topic {
            // Of the clicks that a conversion may be attributed to the latest counts: one behind the loss is
            // later than all that is lost, so what is attributed to it is right.
            Topic::AdEvents => {
                Watermarks { performance: windows, conversions: latest.plus(1), duplicates: windows }
            }
            // A conversion that is lost may have been the first of several records of its order.
            Topic::ConversionEvents => {
                Watermarks { conversions: latest.plus(settings.repeat_within()).plus(1), ..Watermarks::MIN }
            }
            Topic::CampaignEvents | Topic::ProductMetrics | Topic::ProductMeta => Watermarks::MIN,
        }
    }
}

/// Looks for what the plan needs of the topics and is not there, and closes what it may concern. `heads`
/// reads what follows gaps.
///
/// # Errors
/// There are gaps, and they are not accepted; or a partition ends before what was read of it, so it is
/// another one.
pub fn check(
    plan: &mut Plan,
    extents: &Extents,
    heads: impl FnOnce(&[Gap]) -> anyhow::Result<Heads>,
    is_accepted: bool,
) -> anyhow::Result<()> {
    let mut gaps = gaps(plan, extents)?;
    if gaps.is_empty() {
        return Ok(());
    }
    let heads = heads(&gaps)?;
    // A backfill needs only what was appended since then.
    let is_needed = |gap: &Gap, since| heads.get(&gap.place()).is_none_or(|head| head.latest > since);
    let is_backfilled = |gap: &Gap| matches!(gap.topic, Topic::AdEvents | Topic::ConversionEvents);
    gaps.retain(|gap| plan.backfill_from.is_none_or(|since| !is_backfilled(gap) || is_needed(gap, since)));
    plan.closed = close(&gaps, &heads, &plan.run.settings, is_accepted)?;
    plan.gaps = gaps;
    Ok(())
}

/// What the plan needs and is not there. Of a run that continues no other, nothing.
fn gaps(plan: &Plan, extents: &Extents) -> anyhow::Result<Vec<Gap>> {
    let mut gaps = Vec::new();
    let Some(last) = plan.last_progress() else { return Ok(gaps) };
    for (&(topic, partition), extent) in extents {
        let place = (topic, partition);
        let committed = last.partitions.get(&place);
        let next = committed.map_or(0, |report| report.next_offset);
        ensure!(
            next <= extent.end,
            "{} [{partition}] ends at offset {}, but results up to {next} have been committed: the topic was deleted and \
             created anew, or restored from an older copy; set another name (key name) to start over",
            topic.name(),
            extent.end
        );
        let from = plan.needed_from(place);
        // What these topics hold is the newest value of each product, wherever they start.
        let is_snapshot =
            matches!(topic, Topic::ProductMetrics | Topic::ProductMeta) && plan.checkpoint.is_none();
        if extent.start > from && !is_snapshot {
            let greatest = committed.and_then(|report| report.greatest);
            gaps.push(Gap { topic, partition, from, to: extent.start, committed: next, greatest });
        }
    }
    Ok(gaps)
}

/// From before which times, by statement, everything stays as it is committed.
///
/// # Errors
/// They are not accepted.
fn close(gaps: &[Gap], heads: &Heads, settings: &Settings, is_accepted: bool) -> anyhow::Result<Watermarks> {
    let (mut closed, mut lines) = (Watermarks::MIN, Vec::new());
    for gap in gaps {
        let head = heads.get(&gap.place());
        let behind = head.map_or("no record is left".to_owned(), |head| {
            format!("the first one left is of {}", head.first)
        });
        let latest = gap.latest(head, settings);
        let events = latest
            .map_or("none of them was good".to_owned(), |latest| format!("they happened up to {latest}"));
        lines.push(format!("{gap}; {events}; {behind}"));
        closed = latest.map_or(closed, |latest| closed.max(gap.closed(latest, settings)));
    }
    if gaps.is_empty() {
        return Ok(closed);
    }
    let lines = lines.join("\n  ");
    if !is_accepted {
        bail!(
            "the topics no longer hold all that the results came of, so they can't be continued without loss:\n  {lines}\n\
             Start from a checkpoint that knows it (`adtide checkpoint list`), or bring the records back. With --accept-loss \
             windows, refunds and conversions that the missing events may belong to stay as they are committed: later \
             records of them go to late-events, and campaigns that have not changed since leave the rankings. Keep the \
             topics for longer (retention.ms)"
        );
    }
    warn!("a loss is accepted, and what it may concern is closed as committed:\n  {lines}");
    Ok(closed)
}

#[cfg(test)]
mod tests;
