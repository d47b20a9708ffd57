//! What the flags say as keys of the configuration.

use std::path::PathBuf;

use super::{
    CheckpointSources, ConfigSources, GenerateArgs, InitDemoArgs, RunArgs, StopArgs, VerifyArgs, WorkerArgs,
};
use crate::config::Override;

impl VerifyArgs {
    /// What the flags and `--set` say, flags last.
    pub fn overrides(&self) -> Vec<Override> {
        let flags = [
            ("source.from", path(&self.from)),
            ("source.kind", self.from.as_ref().map(|_| "files".to_owned())),
            ("sink.data_dir", path(&self.data_dir)),
        ];
        with_flags(&self.sources, flags)
    }
}

impl RunArgs {
    /// What the flags and `--set` say, flags last.
    pub fn overrides(&self) -> Vec<Override> {
        let flags = [
            ("source.from", path(&self.from)),
            ("source.kind", self.from.as_ref().map(|_| "files".to_owned())),
            ("sink.data_dir", path(&self.data_dir)),
            ("sink.kind", self.sink.clone()),
            ("source.at_end", (self.follow || self.live).then(|| "follow".to_owned())),
            ("source.at_end", self.until_end.then(|| "stop".to_owned())),
            ("restart", self.resume.then(|| "resume".to_owned())),
            ("restart", (self.fresh || self.live).then(|| "fresh".to_owned())),
            ("statements", self.statements.clone()),
            ("allowed_lateness", self.allowed_lateness.clone()),
            ("max_future_skew", self.max_future_skew.clone()),
            ("epoch_interval", self.epoch_interval.clone()),
            ("conversion.lookback", self.lookback.clone()),
            ("rtb.product_metrics", self.product_metrics.clone()),
            ("ranking.limit", self.ranking_limit.clone()),
            ("performance.emit", self.emit.clone()),
            ("ops.listen", self.listen.clone()),
            ("log.level", self.log_level.clone()),
        ];
        with_flags(&self.sources, flags)
    }
}

impl GenerateArgs {
    /// What the flags and `--set` say, flags last.
    pub fn overrides(&self) -> Vec<Override> {
        let flags = [
            ("generator.seed", self.seed.clone()),
            ("generator.ad_events", self.ad_events.clone()),
            ("generator.span", self.span.clone()),
            ("generator.start", self.start.clone()),
            ("generator.campaign_events", self.campaign_events.clone()),
            ("generator.campaigns", self.campaigns.clone()),
            ("generator.partitions", self.partitions.clone()),
        ];
        with_flags(&self.sources, flags)
    }
}

fn path(path: &Option<PathBuf>) -> Option<String> {
    path.as_ref().map(|path| path.display().to_string())
}

impl WorkerArgs {
    /// What the flags and `--set` say, flags last.
    pub fn overrides(&self) -> Vec<Override> {
        let flags = [
            ("source.from", path(&self.from)),
            ("sink.data_dir", path(&self.data_dir)),
            ("ops.listen", self.listen.clone()),
            ("log.level", self.log_level.clone()),
        ];
        with_flags(&self.sources, flags)
    }
}

impl StopArgs {
    /// What the flags and `--set` say, flags last.
    pub fn overrides(&self) -> Vec<Override> {
        with_flags(&self.sources, [("sink.data_dir", path(&self.data_dir))])
    }
}

impl CheckpointSources {
    /// What the flags and `--set` say, flags last.
    pub fn overrides(&self) -> Vec<Override> {
        with_flags(&self.sources, [("sink.data_dir", path(&self.data_dir))])
    }
}

impl InitDemoArgs {
    /// What the flags and `--set` say, flags last.
    pub fn overrides(&self) -> Vec<Override> {
        with_flags(&self.sources, [("sink.data_dir", path(&self.data_dir))])
    }
}

fn with_flags<const N: usize>(sources: &ConfigSources, flags: [(&str, Option<String>); N]) -> Vec<Override> {
    let flags = flags.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
    sources.set.iter().cloned().chain(flags).collect()
}
