//! Made-up traffic of an advertising platform, for trials, tests and measurements.
//!
//! The same configuration gives the same bytes on every machine: all chances are drawn with integers, from
//! one seeded generator, and nothing depends on the clock, on hash order or on a platform's floating point.
//!
//! What it makes: campaigns and products as a Zipf-like distribution has them, visits of devices, a daily
//! curve, bursts of duplicate clicks (also across the borders of windows), conversions minutes to hours after
//! their click (some known by the session only, some repeated, some without any click), campaign lifecycles,
//! records out of order, late and too late ones, every permitted format of a field, and records that can't be
//! read.

mod audience;
mod dice;
mod fields;
mod kafka;
mod line;
mod schedule;
mod spoil;
#[cfg(test)]
mod tests;
mod traffic;
mod world;
mod write;

use adtide_dataflows::model::EventTime;
use anyhow::ensure;

pub use kafka::{Pace, produce};
pub use traffic::{Arrival, Traffic};
pub use write::{Generated, generate, live};

/// What traffic to make.
#[derive(Clone, Debug, PartialEq)]
pub struct GeneratorConfig {
    /// Another seed gives other traffic of the same kind.
    pub seed: u64,
    /// When the first ad event arrives; the catalogue of products and campaigns comes in the minute before.
    pub start: EventTime,
    /// How long records arrive, in milliseconds.
    pub span_ms: i64,
    /// Records of `ad-events` in the whole span, bad ones included.
    pub ad_events: u64,
    /// Records of `campaign-events`, bad ones included; the first `campaigns` of them create the campaigns.
    pub campaign_events: u64,
    /// Number of campaigns; their ids are 1, 2, 3, ... There is an advertiser for every ten.
    pub campaigns: usize,
    /// Number of products; their ids are 1, 2, 3, ... Each changes its metrics and its price about once in
    /// the span.
    pub products: usize,
    /// Number of devices.
    pub devices: usize,
    /// Whether there is more traffic in the evening than at night; otherwise the rate is constant.
    pub daily_curve: bool,
    /// Partitions of each topic.
    pub partitions: u32,
    /// The fraction of records that can't be read. The catalogue at the start is always good.
    pub malformed: f64,
}

impl Default for GeneratorConfig {
    fn default() -> Self {
        GeneratorConfig {
            seed: 1,
            // 2026-01-05 08:00:00, a Monday.
            start: EventTime(1_767_600_000_000),
            span_ms: 2 * 60 * 60 * 1000,
            ad_events: 200_000,
            campaign_events: 10_000,
            campaigns: 2_000,
            products: 1_000,
            devices: 50_000,
            daily_curve: true,
            partitions: 4,
            malformed: 0.0005,
        }
    }
}

impl GeneratorConfig {
    /// How long before the start the catalogue arrives.
    const OPENING_MS: i64 = 60_000;

    /// The same traffic for another span, at the same rate.
    #[must_use]
    pub fn for_span(self, span_ms: i64) -> GeneratorConfig {
        let scaled = |number: u64| {
            let scaled = u128::from(number) * span_ms.max(1) as u128 / self.span_ms.max(1) as u128;
            u64::try_from(scaled).unwrap_or(u64::MAX)
        };
        let campaigns = self.campaigns as u64;
        GeneratorConfig {
            ad_events: scaled(self.ad_events),
            campaign_events: campaigns.saturating_add(scaled(self.campaign_events.saturating_sub(campaigns))),
            span_ms,
            ..self
        }
    }

    /// Whether such traffic can be made.
    ///
    /// # Errors
    /// Names the value that can't be, and what can.
    pub fn check(&self) -> anyhow::Result<()> {
        ensure!(self.partitions >= 1, "partitions must be at least 1");
        let catalogue =
            [("campaigns", self.campaigns), ("products", self.products), ("devices", self.devices)];
        for (name, number) in catalogue {
            ensure!(
                (1..=100_000_000).contains(&number),
                "{name} must be from 1 to 100000000, but is {number}"
            );
        }
        let campaigns = self.campaigns as u64;
        ensure!(
            self.campaign_events >= campaigns,
            "campaign_events must be at least campaigns ({campaigns})"
        );
        ensure!(
            (0.0..=1.0).contains(&self.malformed),
            "malformed must be from 0 to 1, but is {}",
            self.malformed
        );
        // A year: what follows a click may come hours after it, and has to stay within the range of times.
        ensure!(
            (1..=366 * 86_400_000).contains(&self.span_ms),
            "span_ms must be more than 0 and at most a year"
        );
        let starts = Self::OPENING_MS..=EventTime::LAST.0 - 400 * 86_400_000;
        ensure!(starts.contains(&self.start.0), "start must be from 1970 to 9998, but is {}", self.start);
        Ok(())
    }
}
