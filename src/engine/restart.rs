//! Going on where an earlier run stopped.
//!
//! Without a checkpoint, a restart reads its topics again from their start, but tells each sink only what that sink has
//! not committed yet. What each had committed is a *cut* through the topics; cuts are totally ordered, as they are the
//! ends of epochs. The replay ends an epoch, of the same name, at exactly the offsets of each cut, and lets exactly
//! those watermarks take effect there that had taken effect before. So behind a cut everything is as it was when the
//! sink last heard of it, whatever batches led there.

use std::path::Path;

use adtide_dataflows::Settings;
use adtide_dataflows::operators::{Cut, Watermarks};
use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use serde_json::Value;

use super::EngineConfig;
use crate::sink::{Progress, Run, sqlite, topics};

/// What to do with the results of an earlier run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Restart {
    /// Go on if the topics are followed, start over if they are read to their end.
    Auto,
    /// Go on.
    Resume,
    /// Start over and replace them.
    Fresh,
}

/// How to start.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What this run is.
    pub run: Run,
    /// Whether the sinks keep what they hold.
    pub resume: bool,
    /// What each sink had committed, in order; none at the same epoch as another.
    pub cuts: Vec<Progress>,
}

impl Plan {
    /// Looks at what the sinks hold.
    ///
    /// # Errors
    /// They can't be read, or hold the results of a run that this one can't go on with.
    pub fn new(config: &EngineConfig) -> anyhow::Result<Plan> {
        let folder = &config.source.folder;
        let source = folder.canonicalize().with_context(|| format!("can't read {}", folder.display()))?;
        let run = Run { settings: config.settings.clone(), source: source.display().to_string() };
        let wanted = match config.restart {
            Restart::Auto => config.source.follow,
            Restart::Resume => true,
            Restart::Fresh => false,
        };
        let fresh = Plan { run: run.clone(), resume: false, cuts: Vec::new() };
        let Some(data_dir) = config.data_dir.as_deref().filter(|_| wanted) else { return Ok(fresh) };
        let Some((before, tables)) = sqlite::committed(&data_dir.join("adtide.db"))? else { return Ok(fresh) };
        check_same(&before, &run, data_dir)?;
        let records = topics::committed(&data_dir.join("topics"))?;
        let ended = |progress: &Option<Progress>| progress.as_ref().is_some_and(Progress::has_ended);
        ensure!(
            !(config.source.follow && ended(&tables) && ended(&records)),
            "the run that wrote {} has read its topics to their end and closed all windows; start over with --fresh, \
             or name another folder with --data-dir",
            data_dir.display()
        );
        let mut cuts: Vec<_> = [tables, records].into_iter().flatten().collect();
        cuts.sort_by_key(|cut| cut.epoch);
        cuts.dedup_by_key(|cut| cut.epoch);
        // At epoch 0 no record has been read.
        cuts.retain(|cut| cut.epoch > 0);
        Ok(Plan { run, resume: true, cuts })
    }

    /// The cuts as the dataflow needs them.
    pub fn dataflow_cuts(&self) -> Vec<Cut> {
        let watermarks = |cut: &Progress| cut.watermarks.unwrap_or(Watermarks::MIN);
        self.cuts.iter().map(|cut| Cut { epoch: cut.epoch, watermarks: watermarks(cut) }).collect()
    }
}

fn check_same(before: &Run, now: &Run, data_dir: &Path) -> anyhow::Result<()> {
    let folder = data_dir.display();
    let advice = "go on as before, start over with --fresh, or name another folder with --data-dir";
    ensure!(
        before.source == now.source,
        "{folder} holds the results of the topics in {}, not of {}; {advice}",
        before.source,
        now.source
    );
    if let Some((key, old, new)) = difference(&before.settings, &now.settings)? {
        bail!("{folder} holds results that were computed with {key} = {old}, and now it is {new}; {advice}");
    }
    Ok(())
}

/// The first setting that differs, before and now.
fn difference(before: &Settings, now: &Settings) -> anyhow::Result<Option<(String, Value, Value)>> {
    let (before, now) = (serde_json::to_value(before)?, serde_json::to_value(now)?);
    let keys = now.as_object().into_iter().flat_map(|settings| settings.keys());
    let mut differing = keys.filter(|key| before[key.as_str()] != now[key.as_str()]);
    Ok(differing.next().map(|key| (key.clone(), before[key.as_str()].clone(), now[key.as_str()].clone())))
}
