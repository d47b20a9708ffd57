//! What may have changed since the run before.

use std::time::Duration;

use adtide_dataflows::Settings;
use anyhow::{bail, ensure};

use crate::sink::Run;

/// Who remembers an earlier run.
#[derive(Clone, Copy)]
pub(super) enum Memory {
    /// A sink, and how to start over.
    Sink(&'static str),
    /// A checkpoint.
    Checkpoint,
}

/// Whether this run reads the topics that an earlier one has read.
pub(super) fn check_source(place: &str, before: &Run, now: &Run, otherwise: &str) -> anyhow::Result<()> {
    ensure!(
        before.source == now.source,
        "{place} holds the results of the topics in {}, not of {}; go on as before, or {otherwise}",
        before.source,
        now.source
    );
    Ok(())
}

/// Whether this run can go on with what is left of an earlier one.
pub(super) fn check_same(place: &str, before: &Run, now: &Run, memory: Memory) -> anyhow::Result<()> {
    let otherwise = match memory {
        Memory::Sink(over) => over,
        Memory::Checkpoint => {
            "read the topics again with --from-checkpoint none, or only those records that matter still with \
             --backfill-from TIME"
        }
    };
    check_source(place, before, now, otherwise)?;
    if let Some((key, old, new)) = obstacle(&before.settings, &now.settings, memory) {
        bail!(
            "{place} holds results that were computed with {key} = {old}, and now it is {new}; \
             go on as before, or {otherwise}"
        );
    }
    Ok(())
}

/// The first setting that may not be changed like this, before and now.
///
/// What is decided when a record comes may be: lateness, the expected disorder, what is believed of the
/// future, the length of rankings (all of them are written anew) and when rows are written. A state can be
/// cut down, but not made up.
fn obstacle(before: &Settings, now: &Settings, memory: Memory) -> Option<(&'static str, String, String)> {
    let added = now.statements.iter().find(|statement| !before.statements.contains(statement));
    if added.is_some() {
        return Some(("statements", format!("{:?}", before.statements), format!("{:?}", now.statements)));
    }
    if before.product_metrics != now.product_metrics {
        let (before, now) = (before.product_metrics, now.product_metrics);
        return Some(("rtb.product_metrics", format!("{before:?}"), format!("{now:?}")));
    }
    // An id that was known in one part of the records and not in the other would match half of what it
    // should.
    if before.unknown_ids != now.unknown_ids {
        let (before, now) = (before.unknown_ids.texts(), now.unknown_ids.texts());
        return Some(("ids.unknown", format!("{before:?}"), format!("{now:?}")));
    }
    let in_hours = |ms: i64| humantime::format_duration(Duration::from_millis(ms.unsigned_abs())).to_string();
    let (before, now) = (before.memory(), now.memory());
    let longer = [
        ("conversion.lookback", before.lookback, now.lookback),
        ("conversion.repeat_within", before.repeat_within, now.repeat_within),
    ];
    let (key, before, now) = longer.into_iter().find(|(_, before, now)| now > before)?;
    matches!(memory, Memory::Checkpoint).then(|| (key, in_hours(before), in_hours(now)))
}
