//! A history: a log, an engine that reads it, and what goes wrong.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use adtide::checkpoint::{CheckpointConfig, Store};
use adtide::engine::driver::Next;
use adtide::engine::{
    EngineConfig, EpochConfig, FromCheckpoint, Monitor, Plan, Restart, SinkConfig, SourceConfig,
};
use adtide::sink::Run;
use adtide::source::file::FileSourceConfig;
use adtide_dataflows::{DeadLetter, Emit, MetricsSource, Settings, Statement};
use anyhow::{Context, bail, ensure};
use tokio::runtime::Runtime;
use tracing::debug;

use crate::check;
use crate::clock::Clock;
use crate::cluster::{Cluster, Queue, Setup};
use crate::dice::Dice;
use crate::log::{self, Clocks, Log, MINUTE};
use crate::sinks::{Keeps, Server};
use crate::source::Reading;
use crate::store::{FaultyStore, Tear};

/// Rounds without faults in which everything must be done.
const PATIENCE: usize = 3000;

const RANKING_LIMITS: [usize; 3] = [0, 1, 3];

/// What is different from an ordinary history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Twist {
    /// A sink that forgets how far it got.
    pub forgetful: bool,
}

/// Everything but the engine.
pub struct World {
    pub dice: Dice,
    /// For what was added later, so that seeds keep the rest of their course.
    pub more: Dice,
    /// The same for how slow the store is.
    pub slow: Dice,
    pub clock: Arc<Clock>,
    pub log: Arc<Log>,
    pub servers: [Arc<Server>; 3],
    pub objects: Arc<FaultyStore>,
    pub queue: Queue,
    pub config: EngineConfig,
    pub reading: Reading,
    /// Out of a hundred rounds, in how many each server does something.
    pub pace: [usize; 3],
    /// The same for the store, of those rounds in which it might.
    pub store_pace: usize,
    /// Whether the wall clock was ever set back.
    pub was_set_back: bool,
    /// Out of a hundred turns of a worker's write to the store, how many it takes.
    pub writer_pace: [usize; 3],
    /// How many workers each run has; None if that is drawn.
    pub workers: Option<usize>,
    /// Whether anything goes wrong still.
    pub has_faults: bool,
    pub runtime: Runtime,
    pub runs: usize,
    /// What happened.
    pub story: Vec<String>,
}

/// How a run has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Crash,
    Stopped,
}

/// A run, and who looks after it.
struct Engine {
    cluster: Cluster,
    store: Arc<Store>,
    monitor: Arc<Monitor>,
    /// The worker whose process is asked to stop.
    stop: Option<usize>,
    /// The round in which it is asked at the latest, while it opens, shares the plan, restores or replays.
    stops_early: Option<usize>,
    /// Whether it has to end by itself.
    must_end: bool,
}

/// What there is of state, in memory and in checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub rows: u64,
    pub objects: usize,
    pub bytes: u64,
}

/// Reads a log to its end, and then waits for two hours: the size before and after.
pub fn idle(seed: u64) -> anyhow::Result<[Size; 2]> {
    let mut world = World::draw(seed, Twist::default())?;
    world.has_faults = false;
    world.reading.idle_timeout = Duration::from_secs(30);
    world.reading.idle_advance = true;
    let mut engine = world.start()?;
    let mut wait_until = |world: &mut World, minutes: i64| -> anyhow::Result<Size> {
        while world.clock.log_time() < world.log.end + minutes * MINUTE {
            ensure!(world.round(&mut engine)?.is_none(), "the run ended by itself");
        }
        Ok(world.size(&engine.monitor))
    };
    Ok([wait_until(&mut world, 60)?, wait_until(&mut world, 180)?])
}

/// Reads a log while the store takes nothing, waits for half an hour, and reads the rest once it does: the
/// most bytes that waited for it, and how many records were not read meanwhile.
pub fn store_away(seed: u64, max_waiting_bytes: u64) -> anyhow::Result<(u64, u64)> {
    let mut world = World::draw(seed, Twist::default())?;
    world.has_faults = false;
    if let Some(checkpoints) = &mut world.config.checkpoints {
        (checkpoints.interval, checkpoints.max_waiting_bytes) = (Duration::from_secs(5), max_waiting_bytes);
    }
    let mut engine = world.start()?;
    world.objects.fail(i64::MAX);
    let mut most = 0;
    while world.clock.log_time() < world.log.end + 30 * MINUTE {
        ensure!(world.round(&mut engine)?.is_none(), "the run ended by itself");
        most = engine.monitor.workers().iter().map(|worker| worker.unwritten).max().unwrap_or(0).max(most);
    }
    let unread = world.lag();
    world.objects.fail(0);
    world.drive(&mut engine)?;
    world.check_results()?;
    ensure!(
        world.lag() == 0 && engine.monitor.checkpoint().is_some(),
        "{} records are not read",
        world.lag()
    );
    Ok((most, unread))
}

/// Reads a log with three workers, whose writes to the store take longer than there is between two
/// checkpoints, each another time, and then waits for two hours: how many checkpoints there are.
pub fn slow_writers(seed: u64) -> anyhow::Result<u64> {
    let mut world = World::draw(seed, Twist::default())?;
    world.has_faults = false;
    world.reading.idle_timeout = Duration::from_secs(30);
    world.reading.idle_advance = true;
    (world.workers, world.writer_pace) = (Some(3), [3, 4, 6]);
    if let Some(checkpoints) = &mut world.config.checkpoints {
        checkpoints.interval = Duration::from_secs(5);
    }
    let mut engine = world.start()?;
    while world.clock.log_time() < world.log.end + 360 * MINUTE {
        ensure!(world.round(&mut engine)?.is_none(), "the run ended by itself");
    }
    Ok(engine.monitor.checkpoint().map_or(0, |last| last.count))
}

/// Reads a log to its end, then sets the clock back by an hour and waits for some minutes: by how many
/// milliseconds the frontier advances meanwhile.
pub fn set_back(seed: u64) -> anyhow::Result<u64> {
    let mut world = World::draw(seed, Twist::default())?;
    world.has_faults = false;
    let mut engine = world.start()?;
    let mut frontier_at = |world: &mut World, minutes: i64| -> anyhow::Result<u64> {
        while world.clock.log_time() < world.log.end + minutes * MINUTE {
            ensure!(world.round(&mut engine)?.is_none(), "the run ended by itself");
        }
        engine.monitor.frontier().context("no worker runs")
    };
    let before = frontier_at(&mut world, 5)?;
    world.clock.set_by(-60 * MINUTE);
    Ok(frontier_at(&mut world, 15)? - before)
}

/// Plays the history of a seed. What it was is in the world's story, whatever comes of it.
pub fn play(seed: u64, twist: Twist) -> (anyhow::Result<()>, Vec<String>) {
    let mut world = match World::draw(seed, twist) {
        Ok(world) => world,
        Err(error) => return (Err(error), Vec::new()),
    };
    let result = world.play();
    (result, world.story)
}

impl World {
    fn draw(seed: u64, twist: Twist) -> anyhow::Result<World> {
        let mut dice = Dice::new(seed);
        let mut more = Dice::new(!seed);
        let settings = settings(&mut dice, &mut more);
        let kind = log::Kind {
            records: 20 + dice.below(100),
            span: dice.ms(5 * MINUTE, 30 * MINUTE),
            grows: dice.percent(30),
            pauses: dice.percent(40),
            clocks: more.mostly_first(&[
                Clocks::Right,
                Clocks::Producers,
                Clocks::ProducersOnly,
                Clocks::Unstamped,
            ]),
        };
        let log = Arc::new(Log::draw(&mut dice, &mut more, &kind));
        let config = config(&mut dice, settings);
        let idle_timeout = if dice.percent(50) { dice.ms(10_000, 120_000) } else { 100_000_000 };
        let reading = Reading {
            follow: true,
            idle_timeout: Duration::from_millis(idle_timeout as u64),
            idle_advance: dice.percent(30),
            batch: dice.one_of(&[1, 5, 50]),
        };
        let keeps = if twist.forgetful { Keeps::TooLittle } else { Keeps::All };
        let servers = [
            Server::new("rankings", Keeps::All, true),
            Server::new("tables", keeps, false),
            Server::new("records", dice.one_of(&[Keeps::All, Keeps::SomeOf]), false),
        ];
        let pace = [(); 3].map(|()| dice.one_of(&[90, 90, 50, 15]));
        let store_pace = more.one_of(&[100, 100, 100, 30, 5]);
        let story = vec![format!(
            "{} records in {} s, grows: {}, pauses: {}, clocks: {:?}; {reading:?}; {:?}; checkpoints every {:?}; pace {pace:?}; {:?}",
            kind.records,
            kind.span / 1000,
            kind.grows,
            kind.pauses,
            kind.clocks,
            config.epochs,
            config.checkpoints.as_ref().map(|checkpoints| checkpoints.interval),
            config.settings,
        )];
        let mut slow = Dice::new(seed.rotate_left(32) ^ 1);
        let mut config = config;
        if let Some(checkpoints) = &mut config.checkpoints {
            checkpoints.max_waiting_bytes = slow.one_of(&[u64::MAX, u64::MAX, 4000]);
        }
        let writer_pace = [(); 3].map(|()| slow.one_of(&[100, 100, 30, 5]));
        Ok(World {
            dice,
            more,
            slow,
            writer_pace,
            workers: None,
            clock: Arc::new(Clock::new()),
            log,
            servers,
            objects: FaultyStore::new(),
            queue: Queue::default(),
            config,
            reading,
            pace,
            store_pace,
            was_set_back: false,
            has_faults: true,
            runtime: tokio::runtime::Builder::new_current_thread().build()?,
            runs: 0,
            story,
        })
    }

    fn say(&mut self, what: impl std::fmt::Display) {
        debug!("{what}");
        self.story.push(format!("{:>8} s: {what}", self.clock.elapsed() as f64 / 1000.0));
    }

    fn play(&mut self) -> anyhow::Result<()> {
        for ((topic, number), partition) in &self.log.partitions {
            for (record, offset) in partition.records.iter().zip(0..) {
                let text = String::from_utf8_lossy(&record.value);
                debug!(topic = topic.name(), number, offset, at = record.at - log::START, %text, "a record of the log");
            }
        }
        while self.clock.log_time() < self.log.end {
            let end = self.run()?;
            self.check_results().with_context(|| format!("after run {}, {end:?}", self.runs))?;
        }
        self.has_faults = false;
        self.objects.fail(0);
        self.say("no more faults");
        self.run().context("without faults")?;
        self.check_results().context("with lag 0")?;
        self.reading.follow = false;
        self.say("the log has ended");
        self.run().context("to the end of the log")?;
        self.check_results().context("in the end")?;
        for server in &self.servers {
            let has_ended = server.progress().is_some_and(|progress| progress.has_ended());
            ensure!(has_ended, "{} does not know that the log has ended", server.name);
        }
        Ok(())
    }

    /// A run, from its start to its end: by a crash or a stop; without faults, when it has caught up and was
    /// stopped, or the log has ended.
    fn run(&mut self) -> anyhow::Result<End> {
        let mut engine = self.start()?;
        let end = self.drive(&mut engine)?;
        drop(engine);
        self.say(format_args!("{end:?}"));
        self.queue.clear();
        for server in self.servers.clone() {
            if server.lose_client(&mut self.dice) {
                self.say(format_args!("{}: the last commit was applied, but nobody knows", server.name));
            }
        }
        if self.has_faults {
            self.damage();
        }
        Ok(end)
    }

    fn start(&mut self) -> anyhow::Result<Engine> {
        self.runs += 1;
        self.objects.revive();
        self.objects.fail(0);
        if self.has_faults && self.dice.percent(10) {
            let limit = self.dice.one_of(&RANKING_LIMITS);
            self.config.settings.ranking_limit = limit;
            self.say(format_args!("rankings of {limit}"));
        }
        let name = format!("run{}", self.runs);
        let objects = Arc::clone(&self.objects) as Arc<dyn object_store::ObjectStore>;
        let store = Arc::new(Store::over(objects, "simulated", "test", &name)?);
        let held: Vec<_> = self.servers.iter().map(|server| server.holding()).collect();
        let run = Run { settings: self.config.settings.clone(), source: "simulated".to_owned() };
        let plan = Plan::make(&self.config, run, Some(&store), &held, "")?;
        let drawn = 1 + self.dice.below(3);
        let workers = self.workers.unwrap_or(drawn);
        let cuts: Vec<_> = plan.cuts.iter().map(|cut| cut.epoch).collect();
        let from = plan.checkpoint.as_ref().map(|checkpoint| checkpoint.epoch);
        self.say(format_args!("{name} of {workers} workers from checkpoint {from:?} through {cuts:?}"));
        let monitor = Arc::new(Monitor::default());
        let setup = Setup {
            config: self.config.clone(),
            plan,
            reading: self.reading,
            log: Arc::clone(&self.log),
            clock: Arc::clone(&self.clock),
            servers: self.servers.clone(),
            store: Arc::clone(&store),
            queue: self.queue.clone(),
            monitor: Arc::clone(&monitor),
        };
        let cluster = Cluster::start(workers, &setup, &mut self.dice)?;
        let stops_early = (self.has_faults && self.more.percent(15)).then(|| self.more.below(25));
        Ok(Engine { cluster, store, monitor, stop: None, stops_early, must_end: false })
    }

    fn drive(&mut self, engine: &mut Engine) -> anyhow::Result<End> {
        for round in 0..PATIENCE {
            let is_done = !self.has_faults && self.reading.follow && self.is_idle();
            let is_early = engine.stops_early == Some(round);
            if engine.stop.is_none() && (is_done || is_early || self.has_faults && self.dice.percent(1)) {
                engine.stop = Some(self.dice.below(engine.cluster.len()));
                // No crash saves it if it hangs.
                engine.must_end = is_early;
                self.say("asked to stop");
            }
            if let Some(end) = self.round(engine)? {
                return Ok(end);
            }
        }
        bail!("{PATIENCE} rounds were not enough")
    }

    /// Everything does something, or not.
    fn round(&mut self, engine: &mut Engine) -> anyhow::Result<Option<End>> {
        self.pass_time();
        let mut order: Vec<_> = (0..engine.cluster.len()).collect();
        self.dice.shuffle(&mut order);
        for worker in order {
            if self.dice.percent(15) {
                continue;
            }
            let next = engine.cluster.step(worker, self.clock.moment(), engine.stop == Some(worker))?;
            if let Some(end @ (Next::Done | Next::Abandoned)) = next {
                self.say(format_args!("worker {worker}: {end:?}"));
            }
            if self.crashes() && !engine.must_end {
                return Ok(Some(End::Crash));
            }
        }
        if engine.cluster.has_ended() {
            return Ok(Some(End::Stopped));
        }
        for (server, pace) in self.servers.clone().iter().zip(self.pace) {
            let pace = if self.has_faults { pace } else { 90 };
            if server.is_busy() && self.dice.percent(pace) {
                server.go_on(&mut self.dice);
                if self.crashes() && !engine.must_end {
                    return Ok(Some(End::Crash));
                }
            }
        }
        // A run that must end by itself has no crash to wait for: a store that is slow and writers that are
        // would take all rounds.
        let is_slow = self.has_faults && !engine.must_end;
        let works =
            self.queue.len() > 0 && self.dice.percent(60) && (!is_slow || self.more.percent(self.store_pace));
        let dies = works && self.work(&engine.store)?;
        Ok(dies.then_some(End::Crash))
    }

    /// Whether all of the log is in all servers.
    fn is_idle(&self) -> bool {
        self.clock.log_time() >= self.log.end && self.lag() == 0
    }

    /// Lets time pass, mostly a little.
    fn pass_time(&mut self) {
        let ms = match self.dice.below(20) {
            0..5 => 0,
            5..19 => self.dice.ms(0, 10_000),
            _ => self.dice.ms(0, 60_000),
        };
        self.clock.advance(ms);
        if self.has_faults && self.dice.below(200) == 0 {
            let small = self.dice.ms(-120_000, 60_000);
            let ms = if self.more.percent(20) { self.more.ms(-60 * MINUTE, 30 * MINUTE) } else { small };
            self.clock.set_by(ms);
            self.was_set_back |= ms < 0;
            self.say(format_args!("the clock is set by {ms} ms"));
        }
    }

    fn crashes(&mut self) -> bool {
        self.has_faults && self.dice.below(400) == 0
    }

    /// Does a job. True if the engine died of it.
    fn work(&mut self, store: &Store) -> anyhow::Result<bool> {
        if self.has_faults {
            match self.dice.below(30) {
                0 => {
                    let torn = self.dice.percent(50).then(|| Tear::draw(&mut self.dice));
                    let effects = self.dice.below(8) as i64;
                    self.objects.die_after(effects, torn);
                    self.say(format_args!("after {effects} more effects on the store it dies, {torn:?}"));
                }
                1 => {
                    let few = 1 + self.dice.below(3) as i64;
                    let writes = if self.slow.percent(20) { self.slow.ms(10, 100) } else { few };
                    self.objects.fail(writes);
                    self.say(format_args!("{writes} writes fail"));
                }
                _ => {}
            }
        }
        let at = self.dice.below(self.queue.len());
        if !self.slow.percent(self.writer_pace[self.queue.worker(at)]) {
            return Ok(false);
        }
        if let Some(job) = self.queue.take(at) {
            job();
        }
        if self.objects.is_dead() {
            return Ok(true);
        }
        self.check_store(store)?;
        Ok(false)
    }

    /// After a run: something may happen to what the newest checkpoint is made of.
    fn damage(&mut self) {
        if self.dice.percent(3) {
            self.servers[0].empty();
            self.say("rankings: emptied");
        }
        if !self.dice.percent(20) {
            return;
        }
        let folder = if self.dice.percent(50) { "test/manifests" } else { "test/segments" };
        let names = self.objects.names(&self.runtime, folder);
        let newest = if folder == "test/manifests" { names.last().cloned() } else { None };
        let Some(path) = newest.or_else(|| (!names.is_empty()).then(|| self.dice.one_of(&names))) else {
            return;
        };
        let tear = Tear::draw(&mut self.dice);
        self.objects.tear(&self.runtime, &path, tear);
        self.say(format_args!("{path} is damaged: {tear:?}"));
    }

    fn size(&self, monitor: &Monitor) -> Size {
        let workers = monitor.workers();
        let rows = workers.iter().flat_map(|worker| &worker.held).map(|held| held.rows).sum();
        let (objects, bytes) = self.objects.size(&self.runtime);
        Size { rows, objects, bytes }
    }

    /// Records that are in the log and not in every server.
    fn lag(&self) -> u64 {
        let missing = |server: &Arc<Server>| {
            let reached = server.progress().unwrap_or_default();
            let offset = |place| reached.partitions.get(place).map_or(0, |report| report.next_offset);
            let places = self.log.partitions.iter();
            places.map(|(place, partition)| partition.records.len() as u64 - offset(place)).sum::<u64>()
        };
        self.servers.iter().map(missing).sum()
    }

    /// A checkpoint that is kept is whole.
    fn check_store(&self, store: &Store) -> anyhow::Result<()> {
        let keep = self.config.checkpoints.as_ref().map_or(0, |checkpoints| checkpoints.keep);
        let segments = self.objects.names(&self.runtime, "test/segments");
        for epoch in store.manifests()?.into_iter().take(keep) {
            let Ok(manifest) = store.load(epoch) else { continue };
            for segment in &manifest.segments {
                let is_there = segments.iter().any(|path| path.filename() == Some(&segment.name));
                ensure!(
                    is_there,
                    "the checkpoint of epoch {epoch} names {}, which is not there",
                    segment.name
                );
            }
        }
        Ok(())
    }

    /// What each server holds is what comes of the records that it says it knows of.
    fn check_results(&self) -> anyhow::Result<()> {
        for server in &self.servers {
            if let Some(violation) = server.violations().first() {
                bail!("{}: {violation}", server.name);
            }
        }
        let [rankings, tables, records] = &self.servers;
        let late = records.tables().late;
        // Where partitions may sleep, only the records tell what was late: who knows of more of the log can't
        // be judged.
        let knows_more = |server: &Server| {
            let of = |server: &Server| server.progress().map_or(0, |progress| progress.epoch);
            of(server) > of(records)
        };
        let expected = |server: &Server| {
            check::expected(&self.log, &self.config.settings, server.reached().as_ref(), &late)
        };
        if !knows_more(rankings) {
            check::rankings(&rankings.tables(), &expected(rankings)?).context("statement 1")?;
        }
        if !knows_more(tables) {
            check::tables(&tables.tables(), &expected(tables)?).context("statements 2 and 3")?;
        }
        check::records(&records.tables(), &expected(records)?).context("records")?;
        // By which clock a run judged is taken from what it stored. So whatever that says: who is not ahead
        // is not rejected.
        let is_right = |dead: &DeadLetter| {
            let record = self.log.record((dead.topic, dead.partition), dead.offset, i64::MAX);
            dead.reason == "time_in_future" && record.is_some_and(|record| !record.leads)
        };
        let wronged = records.tables().dead.into_iter().find(|dead| !self.was_set_back && is_right(dead));
        ensure!(wronged.is_none(), "rejected, and not ahead: {wronged:?}");
        Ok(())
    }
}

fn settings(dice: &mut Dice, more: &mut Dice) -> Settings {
    let product_metrics = dice.one_of(&[MetricsSource::Topic, MetricsSource::Live { windows: 2 }]);
    let drawn = Settings {
        statements: Statement::ALL.to_vec(),
        performance_bound: 10_000,
        conversions_bound: 20_000,
        duplicates_bound: 30_000,
        allowed_lateness: dice.one_of(&[0, MINUTE, 4 * MINUTE]),
        max_future_skew: more.one_of(&[MINUTE, 2 * MINUTE]),
        lookback: dice.one_of(&[2 * MINUTE, 10 * MINUTE]),
        ranking_limit: dice.one_of(&RANKING_LIMITS),
        product_metrics,
        emit: dice.one_of(&[Emit::OnUpdate, Emit::OnClose]),
        ..Settings::default()
    };
    // Not drawn: kept seeds are of what was drawn before.
    let repeat_within = match (drawn.lookback, drawn.allowed_lateness) {
        (_, 0) => None,
        (TWO_MINUTES, MINUTE) => Some(20 * MINUTE),
        (TWO_MINUTES, _) => Some(0),
        _ => Some(MINUTE),
    };
    Settings { repeat_within, ..drawn }
}

const TWO_MINUTES: i64 = 2 * MINUTE;

fn config(dice: &mut Dice, settings: Settings) -> EngineConfig {
    let interval = dice.one_of(&[500, 2000, 5000]);
    let files = FileSourceConfig {
        folder: PathBuf::new(),
        follow: true,
        idle_timeout: Duration::MAX,
        idle_advance: false,
        hold: None,
    };
    let checkpoints = CheckpointConfig {
        url: "simulated".to_owned(),
        name: "test".to_owned(),
        interval: Duration::from_millis(dice.one_of(&[5000, 20_000, 60_000])),
        keep: dice.one_of(&[1, 2, 2, 3]),
        max_waiting_bytes: u64::MAX,
        are_taken: true,
    };
    EngineConfig {
        settings,
        source: SourceConfig::Files(files),
        sinks: SinkConfig::None,
        restart: Restart::Resume,
        checkpoints: Some(checkpoints),
        from_checkpoint: FromCheckpoint::Newest,
        backfill_from: None,
        accept_loss: false,
        epochs: EpochConfig {
            interval: Duration::from_millis(interval),
            catch_up_interval: Duration::from_millis(interval * dice.one_of(&[1, 4])),
            quiet_interval: Duration::from_millis(dice.one_of(&[1, 100, 1000])),
            max_bytes: dice.one_of(&[500, 5000, 1 << 20]),
            max_in_flight: dice.one_of(&[1, 3, 8]),
        },
        watchdog: Duration::MAX,
    }
}
