//! Going on where an earlier run stopped.
//!
//! Without a checkpoint, a restart reads its topics again from their start, but tells each sink only what that sink has
//! not committed yet. What each had committed is a *cut* through the topics; cuts are totally ordered, as they are the
//! ends of epochs. The replay ends an epoch, of the same name, at exactly the offsets of each cut, and lets exactly
//! those watermarks take effect there that had taken effect before. So behind a cut everything is as it was when the
//! sink last heard of it, whatever batches led there.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use adtide_dataflows::Settings;
use adtide_dataflows::operators::{Cut, Watermarks};
use anyhow::{bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use timely::dataflow::operators::Input;
use timely::dataflow::operators::probe::Probe;
use timely::dataflow::operators::vec::{Broadcast, Map};
use timely::worker::Worker;

use super::{EngineConfig, Monitor, SinkConfig, outlets};
use crate::sink::{Progress, Run, Sink, Stored, sqlite, topics};

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
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// What this run is.
    pub run: Run,
    /// Whether the sinks keep what they hold.
    pub resume: bool,
    /// What each sink had committed, in order; none at the same epoch as another.
    pub cuts: Vec<Progress>,
}

/// Opens the sinks and makes the plan. On the worker that the sinks belong to only.
///
/// # Errors
/// A sink can't be opened, or holds the results of a run that this one can't go on with.
pub fn open(config: &EngineConfig, source: String, monitor: &Monitor) -> anyhow::Result<(Plan, Vec<Box<dyn Sink>>)> {
    let run = Run { settings: config.settings.clone(), source };
    match &config.sinks {
        SinkConfig::None => Ok((Plan::fresh(run), Vec::new())),
        SinkConfig::Embedded(data_dir) => {
            let plan = Plan::of_folder(config, run, data_dir)?;
            let sinks = outlets::open_embedded(data_dir, &plan)?;
            Ok((plan, sinks))
        }
        SinkConfig::Services(services) => {
            ensure!(
                config.restart != Restart::Fresh,
                "results in PostgreSQL, Redis and Kafka are not deleted, so it can't start over with --fresh (key restart); set \
                 another name (key name), which knows nothing of {:?}, or go on without it",
                services.name
            );
            let sinks = outlets::open_services(services, &config.settings, &run, monitor)?;
            let mut cuts = Vec::new();
            for (name, stored) in sinks.iter().filter_map(|sink| Some((sink.name(), sink.stored()?))) {
                let Stored { run: before, progress } = stored;
                let advice = "go on as before, or set another name (key name) to start over";
                check_same(&before, &run, name, advice)?;
                cuts.push(progress);
            }
            let ended = !cuts.is_empty() && cuts.iter().all(Progress::has_ended);
            ensure!(
                !(config.source.follows() && ended),
                "the run {:?} has read its topics to their end and closed all windows; set another name (key name) to start over",
                services.name
            );
            Ok((Plan::going_on(run, cuts), sinks))
        }
    }
}

/// Gives what worker 0 knows to all workers of all processes.
pub fn share(worker: &mut Worker, plan: Option<Plan>) -> anyhow::Result<Plan> {
    let shared = Rc::new(RefCell::new(None));
    let heard = Rc::clone(&shared);
    let (mut input, probe) = worker.dataflow::<u64, _, _>(|scope| {
        let (input, plans) = scope.new_input::<Vec<Plan>>();
        let heard = plans.broadcast().map(move |plan| *heard.borrow_mut() = Some(plan));
        (input, heard.probe().0)
    });
    if let Some(plan) = plan {
        input.send(plan);
    }
    input.close();
    while !probe.done() {
        worker.step_or_park(Some(Duration::from_millis(100)));
    }
    shared.take().ok_or_else(|| anyhow::anyhow!("the workers could not agree on where to start"))
}

impl Plan {
    fn fresh(run: Run) -> Plan {
        Plan { run, resume: false, cuts: Vec::new() }
    }

    fn going_on(run: Run, mut cuts: Vec<Progress>) -> Plan {
        cuts.sort_by_key(|cut| cut.epoch);
        cuts.dedup_by_key(|cut| cut.epoch);
        // At epoch 0 no record has been read.
        cuts.retain(|cut| cut.epoch > 0);
        Plan { run, resume: true, cuts }
    }

    /// Looks at what the embedded sinks hold.
    fn of_folder(config: &EngineConfig, run: Run, data_dir: &Path) -> anyhow::Result<Plan> {
        let wanted = match config.restart {
            Restart::Auto => config.source.follows(),
            Restart::Resume => true,
            Restart::Fresh => false,
        };
        if !wanted {
            return Ok(Plan::fresh(run));
        }
        let Some((before, tables)) = sqlite::committed(&data_dir.join("adtide.db"))? else {
            return Ok(Plan::fresh(run));
        };
        let advice = "go on as before, start over with --fresh, or name another folder with --data-dir";
        check_same(&before, &run, &data_dir.display().to_string(), advice)?;
        let records = topics::committed(&data_dir.join("topics"))?;
        let ended = |progress: &Option<Progress>| progress.as_ref().is_some_and(Progress::has_ended);
        ensure!(
            !(config.source.follows() && ended(&tables) && ended(&records)),
            "the run that wrote {} has read its topics to their end and closed all windows; start over with --fresh, \
             or name another folder with --data-dir",
            data_dir.display()
        );
        Ok(Plan::going_on(run, [tables, records].into_iter().flatten().collect()))
    }

    /// The cuts as the dataflow needs them.
    pub fn dataflow_cuts(&self) -> Vec<Cut> {
        let watermarks = |cut: &Progress| cut.watermarks.unwrap_or(Watermarks::MIN);
        self.cuts.iter().map(|cut| Cut { epoch: cut.epoch, watermarks: watermarks(cut) }).collect()
    }
}

fn check_same(before: &Run, now: &Run, place: &str, advice: &str) -> anyhow::Result<()> {
    ensure!(
        before.source == now.source,
        "{place} holds the results of the topics in {}, not of {}; {advice}",
        before.source,
        now.source
    );
    if let Some((key, old, new)) = difference(&before.settings, &now.settings)? {
        bail!("{place} holds results that were computed with {key} = {old}, and now it is {new}; {advice}");
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
