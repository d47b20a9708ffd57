//! How a run starts.

use adtide_dataflows::model::{Epoch, EventTime};
use adtide_dataflows::operators::Watermarks;
use adtide_dataflows::{RESTORED, RoutingKey};
use serde::{Deserialize, Serialize};

use crate::checkpoint::Manifest;
use crate::sink::{Progress, Run};
use crate::source::Gap;

/// How to start.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// What this run is.
    pub run: Run,
    /// Whether the sinks keep what they hold.
    pub resume: bool,
    /// What each sink had committed behind the checkpoint, in order; none at the same epoch as another.
    pub cuts: Vec<Progress>,
    /// Where the replay starts; None for the start of the topics.
    pub checkpoint: Option<Manifest>,
    /// The epochs of the checkpoints of these results, the one above last: the run may delete them.
    pub lineage: Vec<Epoch>,
    /// Whether all rankings are written anew, because they are of another length now, or their sink is new.
    pub rewrites_rankings: bool,
    /// From when on ads and conversions are read; None for the start of their topics or the checkpoint.
    pub backfill_from: Option<EventTime>,
    /// What the topics no longer have of what is needed.
    pub gaps: Vec<Gap>,
    /// From before which times, by statement, everything stays as it is committed, because of the gaps.
    pub closed: Watermarks,
    /// By what records are dealt out to workers.
    pub routing: RoutingKey,
}

impl Plan {
    /// The plan for a run that starts over.
    pub(super) fn fresh(run: Run) -> Plan {
        Plan { resume: false, ..Plan::continuing(run, Vec::new(), None) }
    }

    /// The plan for a run that continues what has these cuts, from a checkpoint if there is one.
    pub(super) fn continuing(run: Run, mut cuts: Vec<Progress>, checkpoint: Option<Manifest>) -> Plan {
        cuts.sort_by_key(|cut| cut.epoch);
        cuts.dedup_by_key(|cut| cut.epoch);
        let mut plan = Plan {
            run,
            resume: true,
            cuts,
            checkpoint,
            lineage: Vec::new(),
            rewrites_rankings: false,
            backfill_from: None,
            gaps: Vec::new(),
            closed: Watermarks::MIN,
            routing: RoutingKey::default(),
        };
        let start = plan.start();
        plan.cuts.retain(|cut| cut.epoch > start);
        plan
    }

    /// The epoch after which topics are read: the checkpoint's, or one before all real epochs. A checkpoint
    /// of a run that was stopped before its first real epoch is older still.
    pub fn start(&self) -> Epoch {
        self.checkpoint.as_ref().map_or(RESTORED, |checkpoint| checkpoint.epoch.max(RESTORED))
    }
}
