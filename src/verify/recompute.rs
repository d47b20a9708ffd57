//! One pass over the input, for all the moments at which sinks stand.

use std::collections::BTreeMap;

use adtide_dataflows::conversion_matcher::oracle::{Attributions, Clicks};
use adtide_dataflows::duplicate_detector::oracle::{ClickGroups, Refunds};
use adtide_dataflows::model::{
    AdEvent, AdEventType, CampaignEvent, ConversionEvent, EventTime, ProductMeta, ProductMetrics, Topic,
};
use adtide_dataflows::oracle::{Claims, Located, Location};
use adtide_dataflows::performance_aggregator::oracle::Performance;
use adtide_dataflows::rtb_cache_updater::oracle::{Rankings, rankings};
use adtide_dataflows::{IdCounts, Judgement, Settings, Stamp, Statement};

use super::bad::Bad;
use super::cut::Cut;
use super::fields::Rules;
use super::input::{Input, Offsets, TopicRecord};
use super::paid_clicks::PaidClicks;
use super::parse::{self, BadRecords};

/// Everything that a run must have written by a moment.
#[derive(Clone, Debug, Default)]
pub struct Recomputed {
    /// Statement 1.
    pub rankings: Rankings,
    /// Statement 2.
    pub performance: Performance,
    /// Statement 3.
    pub attributions: Attributions,
    /// Statement 4.
    pub refunds: Refunds,
    /// The dead letters.
    pub bad: BadRecords,
    /// Records without the ids by which they would match others.
    pub ids: IdCounts,
    /// How many windows of statement 2 are open.
    pub open_windows: usize,
}

/// What to recompute.
pub struct Task<'a> {
    /// The moments.
    pub cuts: &'a [Cut],
    /// The settings of the run.
    pub settings: &'a Settings,
    /// The records that the run says were late, by statement.
    pub claims: &'a [(Statement, Claims)],
    /// Told of how many records have been read, and of how many there are.
    pub watch: &'a mut dyn FnMut(u64, u64),
}

/// Reads the input up to the last of the cuts, and computes what the four statements make of it at each of
/// them. `paid` takes the clicks that the ledger rests on; it may look further than the cuts.
///
/// # Errors
/// An input that can't be read.
pub fn recompute(
    input: &mut dyn Input,
    task: Task<'_>,
    mut paid: Option<&mut PaidClicks>,
) -> anyhow::Result<Vec<Recomputed>> {
    let Task { cuts, settings, claims, watch } = task;
    let mut parts: Vec<_> = cuts.iter().map(|cut| Part::new(cut, claims)).collect();
    let until = |topic| cuts.iter().fold(Offsets::new(), |until, cut| further(until, cut.offsets(topic)));
    let until_ads =
        further(until(Topic::AdEvents), paid.as_ref().map(|paid| paid.until.clone()).unwrap_or_default());
    let total =
        Topic::ALL.map(|topic| if topic == Topic::AdEvents { until_ads.clone() } else { until(topic) });
    let total = total.iter().flat_map(Offsets::values).sum();
    let unknown = settings.unknown_ids.texts();
    let skew = settings.max_future_skew;
    let mut reader = Reader { input, parts: &mut parts, unknown, skew, read: 0, total, watch };
    // The one topic that may not fit in memory: each statement keeps what it needs.
    reader.each_event(Topic::AdEvents, &until_ads, parse::ad_event, |parts, event| {
        if let Some(paid) = &mut paid {
            paid.add(&event);
        }
        for part in parts {
            part.add(&event, settings);
        }
    })?;
    let events = Events {
        conversions: reader.read_all(Topic::ConversionEvents, until, parse::conversion_event)?,
        campaigns: reader.read_all(Topic::CampaignEvents, until, parse::campaign_event)?,
        metrics: reader.read_all(Topic::ProductMetrics, until, parse::product_metrics)?,
        meta: reader.read_all(Topic::ProductMeta, until, parse::product_meta)?,
    };
    watch(total, total);
    Ok(parts.into_iter().map(|part| part.finish(&events, settings)).collect())
}

/// The later offset of each partition.
fn further(mut offsets: Offsets, others: Offsets) -> Offsets {
    for (partition, offset) in others {
        let known = offsets.entry(partition).or_default();
        *known = offset.max(*known);
    }
    offsets
}

/// What becomes of one cut, while ad events are read.
struct Part<'a> {
    cut: &'a Cut,
    performance: Performance,
    clicks: Clicks,
    groups: ClickGroups,
    bad: BadRecords,
    ids: IdCounts,
}

impl<'a> Part<'a> {
    fn new(cut: &'a Cut, claims: &[(Statement, Claims)]) -> Part<'a> {
        let claims = |statement| {
            let claims = claims.iter().find(|(claiming, _)| *claiming == statement);
            possible(cut, statement, claims.map(|(_, claims)| claims))
        };
        Part {
            cut,
            performance: Performance::new(claims(Statement::PerformanceAggregator)),
            clicks: Clicks::new(claims(Statement::ConversionMatcher)),
            groups: ClickGroups::new(claims(Statement::DuplicateDetector)),
            bad: BadRecords::new(),
            ids: IdCounts::default(),
        }
    }

    fn add(&mut self, event: &Located<AdEvent>, settings: &Settings) {
        let Located { partition, offset, .. } = *event;
        if self.cut.holds(Location { topic: Topic::AdEvents, partition, offset }) {
            self.performance.add(event, settings);
            self.clicks.add(event, settings);
            self.groups.add(event, settings);
            let AdEvent { device_id, ad_id, session_id, .. } = &event.event;
            if event.event.event_type == AdEventType::Click {
                self.ids.clicks += 1;
                self.ids.clicks_without_device += count(device_id.is_none());
                self.ids.clicks_without_ad += count(ad_id.is_none());
                self.ids.clicks_without_session += count(session_id.is_none());
            }
        }
    }

    /// With the events of the other topics that the cut holds.
    fn finish(mut self, events: &Events, settings: &Settings) -> Recomputed {
        let Part { cut, .. } = self;
        let open_windows = self.performance.close(cut.watermarks.performance, settings);
        let campaigns = held(cut, Topic::CampaignEvents, &events.campaigns);
        let metrics = held(cut, Topic::ProductMetrics, &events.metrics);
        let meta = held(cut, Topic::ProductMeta, &events.meta);
        let conversions = held(cut, Topic::ConversionEvents, &events.conversions);
        for conversion in &conversions {
            self.ids.conversions_without_device += count(conversion.event.device_id.is_none());
            self.ids.conversions_without_session += count(conversion.event.session_id.is_none());
        }
        let mut recomputed = Recomputed {
            ids: self.ids,
            rankings: rankings(&campaigns, &metrics, &meta, &self.performance.rows, settings),
            performance: self.performance,
            attributions: self.clicks.attribute(&conversions, settings),
            refunds: self.groups.refunds(cut.watermarks.duplicates),
            bad: self.bad,
            open_windows,
        };
        recomputed.keep_only(&settings.statements);
        recomputed
    }
}

fn count(is_without: bool) -> u64 {
    u64::from(is_without)
}

impl Recomputed {
    /// Drops the results of all other statements: a run without them writes none.
    fn keep_only(&mut self, statements: &[Statement]) {
        let drops = |statement| !statements.contains(&statement);
        if drops(Statement::RtbCacheUpdater) {
            self.rankings = Rankings::default();
        }
        if drops(Statement::PerformanceAggregator) {
            self.performance = Performance::default();
            self.open_windows = 0;
        }
        if drops(Statement::ConversionMatcher) {
            self.attributions = Attributions::default();
        }
        if drops(Statement::DuplicateDetector) {
            self.refunds = Refunds::default();
        }
    }
}

/// The events of the smaller topics, up to the last cut.
struct Events {
    conversions: Vec<Located<ConversionEvent>>,
    campaigns: Vec<Located<CampaignEvent>>,
    metrics: Vec<Located<ProductMetrics>>,
    meta: Vec<Located<ProductMeta>>,
}

/// The events that a cut holds.
fn held<E: Clone>(cut: &Cut, topic: Topic, events: &[Located<E>]) -> Vec<Located<E>> {
    let holds =
        |event: &&Located<E>| cut.holds(Location { topic, partition: event.partition, offset: event.offset });
    events.iter().filter(holds).cloned().collect()
}

/// The claims that can be true: no record can have met a watermark that its partition never had.
fn possible(cut: &Cut, statement: Statement, claims: Option<&Claims>) -> Claims {
    let is_possible = |(location, met): &(&Location, &EventTime)| {
        let had = cut.partition_watermarks(location.topic, location.partition);
        let had = match statement {
            Statement::PerformanceAggregator => had.performance,
            Statement::ConversionMatcher => had.conversions,
            Statement::DuplicateDetector | Statement::RtbCacheUpdater => had.duplicates,
        };
        cut.holds(**location) && **met <= had
    };
    claims.into_iter().flatten().filter(is_possible).map(|(location, met)| (*location, *met)).collect()
}

/// Reads topics, and gives what can't be read to the cuts that hold it.
struct Reader<'a, 'b> {
    input: &'a mut dyn Input,
    parts: &'a mut [Part<'b>],
    unknown: &'a [String],
    skew: i64,
    read: u64,
    total: u64,
    watch: &'a mut dyn FnMut(u64, u64),
}

/// How a run judged what is too far ahead, in one topic: by its own clock, which is no data, so it is taken
/// from what the run left with its results.
struct Judged {
    partitions: BTreeMap<u32, (u64, Vec<Judgement>)>,
    /// Behind what the run had read.
    beyond: Judgement,
}

impl Judged {
    fn of(topic: Topic, until: &Offsets, parts: &[Part<'_>], skew: i64) -> Judged {
        let furthest = |partition: u32| {
            let judgements = parts.iter().filter_map(|part| part.cut.judgements(topic, partition));
            judgements.max_by_key(|(next_offset, _)| *next_offset)
        };
        let partitions = until.keys().filter_map(|&partition| {
            let (next_offset, judgements) = furthest(partition)?;
            Some((partition, (next_offset, judgements.to_vec())))
        });
        Judged { partitions: partitions.collect(), beyond: Judgement::new(crate::now(), skew) }
    }

    /// The greatest event time that a record may have.
    fn latest(&self, partition: u32, offset: u64, stamp: Stamp) -> EventTime {
        let judgement = match self.partitions.get(&partition) {
            Some((next_offset, judgements)) if offset < *next_offset => {
                // A run of an earlier version left none.
                let any = Judgement { clock: EventTime::MAX, ..self.beyond };
                Judgement::at(judgements, offset).copied().unwrap_or(any)
            }
            _ => self.beyond,
        };
        judgement.latest(stamp).unwrap_or(EventTime::MIN)
    }
}

/// How many records are read between two words of it.
const WATCH_EVERY: u64 = 4096;

impl Reader<'_, '_> {
    fn each_event<E>(
        &mut self,
        topic: Topic,
        until: &Offsets,
        parse: impl Fn(&[u8], &Rules<'_>) -> Result<E, Bad>,
        mut each: impl FnMut(&mut [Part<'_>], Located<E>),
    ) -> anyhow::Result<()> {
        let Reader { input, parts, unknown, skew, read, total, watch } = self;
        let judged = Judged::of(topic, until, parts, *skew);
        input.each_record(topic, until, &mut |record: TopicRecord<'_>| {
            *read += 1;
            if *read % WATCH_EVERY == 0 {
                watch(*read, *total);
            }
            let TopicRecord { partition, offset, stamp, .. } = record;
            let rules = Rules { latest: judged.latest(partition, offset, stamp), unknown };
            match parse::read(topic, &record, &rules, &parse) {
                Ok(event) => each(parts, Located { partition, offset, event }),
                Err(bad) => {
                    let location = Location { topic, partition, offset };
                    for part in parts.iter_mut().filter(|part| part.cut.holds(location)) {
                        part.bad.insert(location, bad.clone());
                    }
                }
            }
        })
    }

    fn read_all<E>(
        &mut self,
        topic: Topic,
        until: impl Fn(Topic) -> Offsets,
        parse: impl Fn(&[u8], &Rules<'_>) -> Result<E, Bad>,
    ) -> anyhow::Result<Vec<Located<E>>> {
        let mut events = Vec::new();
        self.each_event(topic, &until(topic), parse, |_, event| events.push(event))?;
        Ok(events)
    }
}
