//! Going on where an earlier run stopped.
//!
//! A restart gives the state of the last checkpoint back and reads its topics again from there, or without a
//! checkpoint from their start; but it tells each sink only what that sink has not committed yet. What each
//! had committed is a *cut* through the topics; cuts are totally ordered, as they are the ends of epochs. The
//! replay ends an epoch, of the same name, at exactly the offsets of each cut, and lets exactly those
//! watermarks take effect there that had taken effect before. So behind a cut everything is as it was when
//! the sink last heard of it, whatever batches led there.

mod changes;

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use adtide_dataflows::model::{Epoch, Topic, WINDOW_MS};
use adtide_dataflows::operators::{Cut, Watermarks};
use anyhow::{bail, ensure};
use serde::Deserialize;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::operators::Input;
use timely::dataflow::operators::probe::{Handle, Probe};
use timely::dataflow::operators::vec::{Broadcast, Map};
use timely::worker::Worker;
use tracing::{debug, warn};

use changes::{Memory, check_same, check_source};

use super::{EngineConfig, Monitor, Plan, SinkConfig, outlets};
use crate::checkpoint::{Damage, Manifest, Store};
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

/// Which checkpoint to go on from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FromCheckpoint {
    /// The newest that can be used, if there is one.
    Newest,
    /// That of an epoch.
    Epoch(Epoch),
    /// None: the topics are read from their start.
    None,
}

impl std::str::FromStr for FromCheckpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<FromCheckpoint, String> {
        match text {
            "newest" => Ok(FromCheckpoint::Newest),
            "none" => Ok(FromCheckpoint::None),
            epoch => epoch.parse().map(FromCheckpoint::Epoch).map_err(|_| {
                "\"newest\", \"none\", or the epoch of a checkpoint as `adtide checkpoint list` shows it"
                    .to_owned()
            }),
        }
    }
}

/// Opens the sinks and makes the plan. On the worker that the sinks belong to only. `store` is where
/// checkpoints are.
///
/// # Errors
/// A sink can't be opened, or holds the results of a run that this one can't go on with.
pub fn open(
    config: &EngineConfig,
    source: String,
    store: Option<&Store>,
    monitor: &Monitor,
) -> anyhow::Result<(Plan, Vec<Box<dyn Sink>>)> {
    let run = Run { settings: config.settings.clone(), source };
    match &config.sinks {
        SinkConfig::None => {
            let resumes = wants_to_resume(config);
            let chosen = if resumes { choose(config, &run, store, &[], false)? } else { Chosen::default() };
            let Chosen { checkpoint, lineage } = chosen;
            Ok((Plan { lineage, ..Plan::continuing(run, Vec::new(), checkpoint) }, Vec::new()))
        }
        SinkConfig::Embedded(data_dir) => {
            let plan = Plan::of_folder(config, run, store, data_dir)?;
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
            let held: Vec<_> = sinks.iter().map(|sink| Holding::of(&**sink)).collect();
            let plan = Plan::make(config, run, store, &held, "set another name (key name) to start over")?;
            Ok((plan, sinks))
        }
    }
}

/// Whether this run continues an earlier one where it can say so by itself.
fn wants_to_resume(config: &EngineConfig) -> bool {
    match config.restart {
        Restart::Auto => config.source.follows(),
        Restart::Resume => true,
        Restart::Fresh => false,
    }
}

/// What a sink holds.
pub struct Holding {
    /// Its name.
    pub name: &'static str,
    /// What it held when it was opened.
    pub stored: Option<Stored>,
    /// Whether it can take up a run in the middle.
    pub joins_late: bool,
    /// Whether what it stored is the last that it committed.
    pub is_exact: bool,
}

impl Holding {
    fn of(sink: &dyn Sink) -> Holding {
        Holding {
            name: sink.name(),
            stored: sink.stored(),
            joins_late: sink.joins_late(),
            is_exact: sink.stores_all_progress(),
        }
    }
}

/// What a run continues of the checkpoints.
#[derive(Debug, Default)]
struct Chosen {
    checkpoint: Option<Manifest>,
    /// The epochs of those that are of the same results, the chosen one last.
    lineage: Vec<Epoch>,
}

/// The checkpoint to continue, if there is one. `over` says how to start over.
///
/// # Errors
/// The one that was asked for can't be used, or none may be used with these settings; or there are some, and
/// the sinks know nothing of them.
fn choose(
    config: &EngineConfig,
    run: &Run,
    store: Option<&Store>,
    held: &[Holding],
    starts_over: bool,
) -> anyhow::Result<Chosen> {
    let Some(store) = store else { return Ok(Chosen::default()) };
    let takes = config.checkpoints.as_ref().is_some_and(|checkpoints| checkpoints.are_taken);
    let generation = store.generation()?;
    if config.restart == Restart::Fresh {
        for epoch in store.manifests()? {
            store.delete(epoch)?;
        }
    }
    let is_new = !held.is_empty() && held.iter().all(|held| held.stored.is_none());
    if is_new {
        let is_meant = starts_over || config.from_checkpoint == FromCheckpoint::None;
        if !is_meant && let Some(epoch) = of_generation(store, &generation)?.pop() {
            bail!(
                "no results named as these are there, but there are checkpoints of them in {}, the newest of epoch {epoch}: is \
                 it the right database, folder or name? To start over say --fresh, which deletes the checkpoints of a folder \
                 of results; or --from-checkpoint none, which leaves them alone (`adtide checkpoint delete --all` deletes \
                 them)",
                store.place()
            );
        }
        store.take_over(None)?;
        return Ok(Chosen::default());
    }
    let mut lineage = of_generation(store, &generation)?;
    let checkpoint = match config.from_checkpoint {
        FromCheckpoint::None => None,
        wanted => newest_usable(store, wanted, &lineage, held)?,
    };
    if let Some(checkpoint) = &checkpoint {
        check_same("the checkpoint", &checkpoint.run, run, Memory::Checkpoint)?;
        check_joining(held)?;
        lineage.retain(|epoch| *epoch != checkpoint.epoch);
        lineage.push(checkpoint.epoch);
    }
    if takes {
        store.take_over(Some(generation))?;
        // Nobody writes yet: what no checkpoint names was left behind by a crash.
        let orphans = store.clear_orphans()?;
        debug!(orphans, "the checkpoints are this run's");
    }
    Ok(Chosen { checkpoint, lineage })
}

/// The epochs of the checkpoints of a generation, in order. Those that are damaged are left out.
fn of_generation(store: &Store, generation: &str) -> anyhow::Result<Vec<Epoch>> {
    let mut epochs = Vec::new();
    for epoch in store.manifests()?.into_iter().rev() {
        match store.load(epoch) {
            Ok(manifest) if manifest.generation == generation => epochs.push(epoch),
            Ok(_) => {}
            Err(error) if error.is::<Damage>() => {
                warn!("the checkpoint of epoch {epoch} can't be used: {error:#}; trying the one before");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(epochs)
}

fn newest_usable(
    store: &Store,
    wanted: FromCheckpoint,
    lineage: &[Epoch],
    held: &[Holding],
) -> anyhow::Result<Option<Manifest>> {
    for &epoch in lineage.iter().rev() {
        if let FromCheckpoint::Epoch(wanted) = wanted
            && epoch != wanted
        {
            continue;
        }
        match usable(store, epoch, held) {
            Ok(checkpoint) => return Ok(Some(checkpoint)),
            Err(error) if !error.is::<Damage>() => return Err(error),
            Err(error) => {
                warn!("the checkpoint of epoch {epoch} can't be used: {error:#}; trying the one before")
            }
        }
    }
    match wanted {
        FromCheckpoint::Epoch(wanted) => bail!(
            "there is no usable checkpoint of epoch {wanted} of these results; see `adtide checkpoint list`, or leave out \
             --from-checkpoint"
        ),
        _ => Ok(None),
    }
}

/// A checkpoint, if all of it is there and no sink has less than it takes for granted.
fn usable(store: &Store, epoch: Epoch, held: &[Holding]) -> anyhow::Result<Manifest> {
    let checkpoint = store.load(epoch)?;
    store.verify(&checkpoint)?;
    for held in held.iter().filter(|held| held.is_exact) {
        let Some(stored) = &held.stored else { continue };
        if !stored.progress.covers(&checkpoint.progress) {
            let (name, epoch) = (held.name, stored.progress.epoch);
            let what = format!(
                "{name} holds less than it had committed by then, epoch {epoch}; was it restored from a copy?"
            );
            return Err(anyhow::Error::new(Damage(what)));
        }
    }
    Ok(checkpoint)
}

/// Whether sinks that are new can go on in the middle of a run.
fn check_joining(held: &[Holding]) -> anyhow::Result<()> {
    if let Some(held) = held.iter().find(|held| held.stored.is_none() && !held.joins_late) {
        bail!(
            "{} holds nothing of this run, but a checkpoint holds only what is not expired; read the topics from their start \
             with --from-checkpoint none, or restore what {} held",
            held.name,
            held.name
        );
    }
    Ok(())
}

/// Gives what worker 0 knows to all workers of all processes.
pub fn share(worker: &mut Worker, plan: Option<Plan>) -> anyhow::Result<Plan> {
    let mut sharing = Sharing::new(worker);
    sharing.give(plan);
    loop {
        if let Some(plan) = sharing.plan()? {
            return Ok(plan);
        }
        worker.step_or_park(Some(Duration::from_millis(100)));
    }
}

/// A plan on its way to all workers: a small dataflow that carries it once.
pub struct Sharing {
    input: Option<timely::dataflow::InputHandle<u64, CapacityContainerBuilder<Vec<Plan>>>>,
    shared: Rc<RefCell<Option<Plan>>>,
    probe: Handle<u64>,
}

impl Sharing {
    /// Builds the dataflow. Every worker has to, at the same point of its life.
    pub fn new(worker: &mut Worker) -> Sharing {
        let shared = Rc::new(RefCell::new(None));
        let received = Rc::clone(&shared);
        let (input, probe) = worker.dataflow::<u64, _, _>(|scope| {
            let (input, plans) = scope.new_input::<Vec<Plan>>();
            let received = plans.broadcast().map(move |plan| *received.borrow_mut() = Some(plan));
            (input, received.probe().0)
        });
        Sharing { input: Some(input), shared, probe }
    }

    /// Sends what this worker has, which is the plan on worker 0 and nothing on the others. All have to call
    /// it.
    pub fn give(&mut self, plan: Option<Plan>) {
        if let (Some(mut input), Some(plan)) = (self.input.take(), plan) {
            input.send(plan);
        }
    }

    /// The plan, once all workers have given what they had.
    ///
    /// # Errors
    /// None of them had one.
    pub fn plan(&self) -> anyhow::Result<Option<Plan>> {
        if !self.probe.done() {
            return Ok(None);
        }
        let plan = self.shared.take();
        plan.map(Some).ok_or_else(|| anyhow::anyhow!("the workers could not agree on where to start"))
    }
}

impl Plan {
    /// The plan for sinks that hold this. `over` says how to start over.
    ///
    /// # Errors
    /// This run can't go on with what one of them holds.
    pub fn make(
        config: &EngineConfig,
        run: Run,
        store: Option<&Store>,
        held: &[Holding],
        over: &'static str,
    ) -> anyhow::Result<Plan> {
        let starts_over =
            config.restart == Restart::Fresh || config.restart == Restart::Auto && !config.source.follows();
        let starts_over = starts_over && matches!(config.sinks, SinkConfig::Embedded(_));
        let Chosen { checkpoint, lineage } = choose(config, &run, store, held, starts_over)?;
        let is_new = |held: &Holding| held.stored.is_none() && held.joins_late;
        let mut rewrites_rankings = checkpoint.is_some() && held.iter().any(is_new);
        let mut cuts = Vec::new();
        for (name, stored) in held.iter().filter_map(|held| Some((held.name, held.stored.as_ref()?))) {
            check_same(name, &stored.run, &run, Memory::Sink(over))?;
            rewrites_rankings |= stored.run.settings.ranking_limit != run.settings.ranking_limit;
            cuts.push(stored.progress.clone());
        }
        let mut stored = held.iter().filter_map(|held| held.stored.as_ref());
        ensure!(
            !(config.source.follows()
                && !cuts.is_empty()
                && stored.all(|stored| stored.progress.has_ended())),
            "the run before has read its topics to their end and closed all windows; {over}"
        );
        let backfill_from = config.backfill_from;
        Ok(Plan { lineage, rewrites_rankings, backfill_from, ..Plan::continuing(run, cuts, checkpoint) })
    }

    /// Looks at what the embedded sinks hold.
    fn of_folder(
        config: &EngineConfig,
        run: Run,
        store: Option<&Store>,
        data_dir: &Path,
    ) -> anyhow::Result<Plan> {
        let stored = match config.restart {
            // What can't be read is replaced.
            Restart::Fresh => None,
            _ => sqlite::committed(&data_dir.join("adtide.db"))?,
        };
        let over = "start over with --fresh, or name another folder with --data-dir";
        if let Some((before, Some(_))) = &stored {
            check_source(&data_dir.display().to_string(), before, &run, over)?;
        }
        let stored = stored.filter(|_| wants_to_resume(config));
        let (run_before, tables) = stored.map_or((None, None), |(run, tables)| (Some(run), tables));
        let records = if run_before.is_some() { topics::committed(&data_dir.join("topics"))? } else { None };
        let held = [("sqlite", tables), ("topics", records)].map(|(name, progress)| Holding {
            name,
            stored: run_before.clone().zip(progress).map(|(run, progress)| Stored { run, progress }),
            joins_late: false,
            is_exact: true,
        });
        let plan = Plan::make(config, run, store, &held, over)?;
        let Some(run_before) = run_before else { return Ok(Plan::fresh(plan.run)) };
        check_same(&data_dir.display().to_string(), &run_before, &plan.run, Memory::Sink(over))?;
        Ok(plan)
    }

    /// What is known of the sources where the replay ends; None if there is nothing to go on from.
    pub fn last_progress(&self) -> Option<&Progress> {
        self.cuts.last().or(self.checkpointed())
    }

    /// What the checkpoint knows of the sources.
    pub fn checkpointed(&self) -> Option<&Progress> {
        self.checkpoint.as_ref().map(|checkpoint| &checkpoint.progress)
    }

    /// The last epoch of the runs before.
    pub fn last_epoch(&self) -> Epoch {
        self.last_progress().map_or(0, |progress| progress.epoch)
    }

    /// What records of earlier times, by statement, may not come to any more: the state that they belong to
    /// was forgotten, though by today's settings they would not be late; or not all of it can be read again.
    pub fn forgotten(&self) -> Watermarks {
        let checkpoint = self.checkpoint.as_ref().map_or(Watermarks::MIN, |checkpoint| checkpoint.forgotten);
        let backfill = self
            .backfill_from
            .map_or(Watermarks::MIN, |from| Watermarks::all(from.plus(WINDOW_MS - 1).window_start()));
        checkpoint.max(backfill).max(self.closed)
    }

    /// The first offset of a partition that the state needs.
    pub fn needed_from(&self, place: (Topic, u32)) -> u64 {
        match self.checkpointed() {
            Some(checkpoint) => checkpoint.partitions.get(&place).map_or(0, |report| report.next_offset),
            None => self
                .cuts
                .iter()
                .filter_map(|cut| Some(cut.partitions.get(&place)?.first_offset))
                .max()
                .unwrap_or(0),
        }
    }

    /// The cuts as the dataflow needs them.
    pub fn dataflow_cuts(&self) -> Vec<Cut> {
        let watermarks = |progress: &Progress| progress.watermarks.unwrap_or(Watermarks::MIN);
        let restored = self.checkpoint.iter();
        let restored = restored.flat_map(|from| Cut::of_checkpoint(self.start(), watermarks(&from.progress)));
        restored
            .chain(self.cuts.iter().map(|cut| Cut { epoch: cut.epoch, watermarks: watermarks(cut) }))
            .collect()
    }
}
