//! The process that makes the events.

use adtide_dataflows::model::{AdEventType, CampaignEventType, EventTime, Topic, WINDOW_MS};

use super::GeneratorConfig;
use super::audience::{Audience, device_number, session_number};
use super::dice::Dice;
use super::fields::Quirk;
use super::line::{self, AdEvent, Conversion};
use super::schedule::{Agenda, Schedule};
use super::spoil::spoil;
use super::world::World;

const SECOND: i64 = 1_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;

/// Where and when a record arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The record's topic.
    pub topic: Topic,
    /// The partition of the topic.
    pub partition: u32,
    /// The product or campaign that it is about, by which its topic is keyed; None where the topic has no
    /// key.
    pub key: Option<i64>,
    /// When it arrives, by the traffic's own time; never before the arrival of the record before it, nor
    /// before the event that a good record tells of.
    pub at: EventTime,
}

/// All records in the order in which they arrive, one at a time, so that they can be paced by a clock too.
pub struct Traffic {
    start: i64,
    end: i64,
    partitions: u64,
    /// Bad ones in 2^32 records.
    malformed: u64,
    dice: Dice,
    world: World,
    audience: Audience,
    /// How much of the catalogue has been told.
    opened: u64,
    ads: Schedule,
    campaigns: Schedule,
    metrics: Schedule,
    meta: Schedule,
    /// Ad events that take the place of a fresh one when they are due: the number of all stays as configured.
    follow_ups: Agenda<AdEvent>,
    conversions: Agenda<Conversion>,
    orders: u64,
}

impl Traffic {
    /// Sets the stage; nothing is written.
    ///
    /// # Errors
    /// Says which value of the configuration can't be.
    pub fn new(config: &GeneratorConfig) -> anyhow::Result<Traffic> {
        config.check()?;
        let mut dice = Dice::new(config.seed);
        Ok(Traffic {
            start: config.start.0,
            end: config.start.0 + config.span_ms,
            partitions: u64::from(config.partitions),
            // A power of two: no rounding that could differ.
            malformed: (config.malformed * 4_294_967_296.0) as u64,
            world: World::new(config, &mut dice),
            audience: Audience::new(config, &mut dice),
            dice,
            opened: 0,
            ads: Schedule::new(config, config.ad_events),
            campaigns: Schedule::new(config, config.campaign_events - config.campaigns as u64),
            metrics: Schedule::new(config, config.products as u64),
            meta: Schedule::new(config, config.products as u64),
            follow_ups: Agenda::new(),
            conversions: Agenda::new(),
            orders: 0,
        })
    }

    /// Puts the next record into `line`, in place of what was there and without a line feed. None at the end.
    pub fn next(&mut self, line: &mut Vec<u8>) -> Option<Arrival> {
        line.clear();
        if let Some(arrival) = self.opening(line) {
            return Some(arrival);
        }
        let due = [
            self.ads.due(),
            self.campaigns.due(),
            self.metrics.due(),
            self.meta.due(),
            self.conversions.due(),
        ];
        let at = due.into_iter().min().filter(|at| *at < self.end)?;
        let (topic, partition, key) = match due.iter().position(|time| *time == at)? {
            0 => (Topic::AdEvents, self.ad_event(at, line), None),
            1 => self.keyed(Topic::CampaignEvents, Traffic::campaign_event, line, at),
            2 => self.keyed(Topic::ProductMetrics, Traffic::metrics_change, line, at),
            3 => self.keyed(Topic::ProductMeta, Traffic::meta_change, line, at),
            _ => (Topic::ConversionEvents, self.conversion(line)?, None),
        };
        if self.dice.below(1 << 32) < self.malformed {
            spoil(line, &mut self.dice);
        }
        Some(Arrival { topic, partition, key, at: EventTime(at) })
    }

    /// Tells something of a product or campaign, in the partition of its id.
    fn keyed(
        &mut self,
        topic: Topic,
        tell: fn(&mut Traffic, i64, &mut Vec<u8>) -> i64,
        line: &mut Vec<u8>,
        at: i64,
    ) -> (Topic, u32, Option<i64>) {
        let id = tell(self, at, line);
        (topic, self.by_id(id as u64), Some(id))
    }

    fn by_id(&self, id: u64) -> u32 {
        (id % self.partitions) as u32
    }

    /// By the high bits, which a hash has as good as the others, and without a division.
    fn by_hash(&self, hash: u32) -> u32 {
        ((u64::from(hash) * self.partitions) >> 32) as u32
    }
}

/// The catalogue before the start.
impl Traffic {
    fn opening(&mut self, line: &mut Vec<u8>) -> Option<Arrival> {
        let (products, campaigns) = (self.world.products() as u64, self.world.campaigns() as u64);
        let total = 2 * products + campaigns;
        while self.opened < total {
            let at = self.start - GeneratorConfig::OPENING_MS
                + (u128::from(self.opened) * GeneratorConfig::OPENING_MS as u128 / u128::from(total)) as i64;
            let number = self.opened;
            self.opened += 1;
            let (topic, id) = if number < products {
                (Topic::ProductMetrics, number + 1)
            } else if number < 2 * products {
                (Topic::ProductMeta, number - products + 1)
            } else {
                (Topic::CampaignEvents, number - 2 * products + 1)
            };
            match topic {
                Topic::CampaignEvents => {
                    let campaign = self.world.campaign(id as u32 - 1);
                    let quirk = Quirk::draw_format(&mut self.dice);
                    line::campaign_event(line, CampaignEventType::Create, EventTime(at), campaign, quirk);
                }
                // Some products are not known yet, or never.
                _ if id > 1 && self.dice.percent(5) => continue,
                Topic::ProductMetrics => self.rates(id as i64, line),
                _ => line::product_meta(line, id as i64, self.world.price(id as i64), Quirk::None),
            }
            return Some(Arrival {
                topic,
                partition: self.by_id(id),
                key: Some(id as i64),
                at: EventTime(at),
            });
        }
        None
    }
}

/// Changes of the catalogue.
impl Traffic {
    fn campaign_event(&mut self, at: i64, line: &mut Vec<u8>) -> i64 {
        self.campaigns.advance();
        let late = if self.dice.percent(2) { self.dice.within(5 * SECOND..40 * SECOND) } else { 0 };
        let time = (at - late - self.dice.within(0..300)).max(self.start);
        let quirk = Quirk::draw_format(&mut self.dice);
        let (event_type, campaign) = self.world.change(&mut self.dice);
        line::campaign_event(line, event_type, EventTime(time), campaign, quirk);
        campaign.id
    }

    fn metrics_change(&mut self, _at: i64, line: &mut Vec<u8>) -> i64 {
        self.metrics.advance();
        let product = self.world.any_product(&mut self.dice);
        if self.dice.percent(4) {
            line::tombstone(line, product)
        } else {
            self.rates(product, line)
        }
        product
    }

    fn meta_change(&mut self, _at: i64, line: &mut Vec<u8>) -> i64 {
        self.meta.advance();
        let product = self.world.any_product(&mut self.dice);
        if self.dice.percent(4) {
            line::tombstone(line, product);
        } else {
            let quirk = Quirk::draw_format(&mut self.dice);
            line::product_meta(line, product, self.world.reprice(product, &mut self.dice), quirk);
        }
        product
    }

    fn rates(&mut self, product: i64, line: &mut Vec<u8>) {
        let (ctr, cvr) = (self.dice.skewed(2_000..80_000), self.dice.skewed(500..40_000));
        line::product_metrics(line, product, ctr, cvr);
    }
}

/// Ads shown and clicked.
impl Traffic {
    #[inline]
    fn ad_event(&mut self, at: i64, line: &mut Vec<u8>) -> u32 {
        self.ads.advance();
        let event = self.due_follow_up(at).unwrap_or_else(|| self.fresh(at));
        let quirk = Quirk::draw(&mut self.dice);
        line::ad_event(line, &event, self.world.campaign(event.campaign), quirk);
        if quirk == Quirk::NoDevice {
            self.by_hash(session_number(event.session) as u32)
        } else {
            self.by_hash(device_number(event.device))
        }
    }

    #[inline]
    fn due_follow_up(&mut self, at: i64) -> Option<AdEvent> {
        if self.follow_ups.due() > at {
            return None;
        }
        self.follow_ups.pop()
    }

    /// An event that arrives at once. Those that get lost on the way for a while are put aside.
    #[inline]
    fn fresh(&mut self, at: i64) -> AdEvent {
        loop {
            let event = self.look(at);
            if event.event_type == AdEventType::Click {
                self.follow(&event, at);
            }
            match self.straggle() {
                0 => return event,
                delay => self.follow_ups.push(at + delay, event),
            }
        }
    }

    /// Someone sees an ad and may click it.
    #[inline]
    fn look(&mut self, at: i64) -> AdEvent {
        let dice = &mut self.dice;
        let visit = self.audience.look(dice);
        let campaign = self.world.serve(dice);
        let bid = self.world.campaign(campaign).bid;
        let (event_type, amount) = if dice.percent(3) {
            (AdEventType::Click, (bid * dice.within(60..101) / 100).max(1))
        } else {
            (AdEventType::Impression, bid / 100)
        };
        // Most take a second or two to arrive, few more than five.
        let delay =
            if dice.percent(1) { dice.skewed(5 * SECOND..25 * SECOND) } else { dice.skewed(0..5 * SECOND) };
        let time = EventTime((at - delay).max(self.start));
        let ad = dice.below(4) as u8;
        AdEvent { event_type, time, campaign, ad, device: visit.device, session: visit.session, amount }
    }

    /// How long an event is lost on the way: mostly not at all, some for minutes, very few longer than the
    /// usual allowed lateness of ten minutes.
    #[inline]
    fn straggle(&mut self) -> i64 {
        match self.dice.below(10_000) {
            0..20 => self.dice.within(MINUTE..8 * MINUTE),
            20..22 => self.dice.within(20 * MINUTE..60 * MINUTE),
            _ => 0,
        }
    }

    /// What comes of a click.
    fn follow(&mut self, click: &AdEvent, at: i64) {
        // More of them at the end of a window, so that there are always bursts across a border.
        let near_border = WINDOW_MS - click.time.0.rem_euclid(WINDOW_MS) < 15 * SECOND;
        if self.dice.per_million(if near_border { 80_000 } else { 7_000 }) {
            self.burst(click, at);
        }
        if self.dice.percent(5) {
            self.sell(click, at);
        }
        if self.dice.per_million(2_000) {
            self.sell_unseen(at);
        }
    }

    /// Two to six more clicks of the same device on the same ad within seconds.
    fn burst(&mut self, click: &AdEvent, at: i64) {
        let mut time = click.time;
        for _ in 0..self.dice.within(2..7) {
            time = time.plus(self.dice.skewed(80..8 * SECOND));
            // Some get lost for minutes: they raise a refund that is out already.
            let lost = if self.dice.percent(3) { self.dice.within(MINUTE..8 * MINUTE) } else { 0 };
            let due = time.0.max(at) + self.dice.skewed(0..3 * SECOND) + lost;
            self.follow_ups.push(due, AdEvent { time, ..*click });
        }
    }
}

/// Products sold.
impl Traffic {
    /// Someone who clicked buys, minutes to hours later.
    fn sell(&mut self, click: &AdEvent, at: i64) {
        let product = self.world.campaign(click.campaign).product;
        let dice = &mut self.dice;
        let wait =
            if dice.percent(10) { dice.skewed(HOUR..6 * HOUR) } else { dice.skewed(MINUTE..80 * MINUTE) };
        let time = click.time.plus(wait);
        let revenue = self.world.revenue(product, dice);
        let (device, session) = self.recognized(click);
        let (buyer, order) = (click.device, self.new_order());
        let event = Conversion { time, device, session, buyer, order, product, revenue };
        self.announce(event, at);
        // The ad server hears of only some.
        if self.dice.percent(60) {
            let reported = AdEvent { event_type: AdEventType::Conversion, time, amount: revenue, ..*click };
            self.follow_ups.push(time.0.max(at) + self.dice.skewed(0..5 * SECOND), reported);
        }
        // Another product of the same order.
        if self.dice.percent(8) {
            let product = self.world.any_product(&mut self.dice);
            let revenue = self.world.revenue(product, &mut self.dice);
            self.announce(Conversion { product, revenue, ..event }, at);
        }
    }

    /// By what the shop knows the one who clicked: the device, in the same session or in another one, or
    /// nothing but the session, as when someone goes on in an app.
    fn recognized(&mut self, click: &AdEvent) -> (Option<u32>, Option<u64>) {
        match self.dice.below(100) {
            0..35 => (Some(click.device), Some(click.session)),
            35..60 => (Some(click.device), Some(self.audience.unseen_session())),
            60..75 => (Some(click.device), None),
            75..90 => (Some(self.audience.any_device(&mut self.dice)), Some(click.session)),
            _ => (None, Some(click.session)),
        }
    }

    /// A sale that no click led to.
    fn sell_unseen(&mut self, at: i64) {
        let product = self.world.any_product(&mut self.dice);
        let buyer = self.audience.any_device(&mut self.dice);
        let (device, session) = (Some(buyer), Some(self.audience.unseen_session()));
        let time = EventTime(at + self.dice.skewed(MINUTE..HOUR));
        let revenue = self.world.revenue(product, &mut self.dice);
        let order = self.new_order();
        self.announce(Conversion { time, device, session, buyer, order, product, revenue }, at);
    }

    /// Tells of a sale, sometimes late and sometimes more than once.
    fn announce(&mut self, event: Conversion, at: i64) {
        let lost = if self.dice.percent(1) { self.dice.within(MINUTE..8 * MINUTE) } else { 0 };
        let due = event.time.0.max(at) + self.dice.skewed(0..5 * SECOND) + lost;
        self.conversions.push(due, event);
        if self.dice.percent(5) {
            for _ in 0..self.dice.within(1..3) {
                let time = if self.dice.percent(50) {
                    event.time
                } else {
                    event.time.plus(self.dice.skewed(0..10_000))
                };
                let due = time.0.max(at) + self.dice.skewed(SECOND..5 * MINUTE);
                self.conversions.push(due, Conversion { time, ..event });
            }
        }
    }

    fn conversion(&mut self, line: &mut Vec<u8>) -> Option<u32> {
        let event = self.conversions.pop()?;
        line::conversion(line, &event, Quirk::draw_format(&mut self.dice));
        Some(self.by_id(event.order))
    }

    fn new_order(&mut self) -> u64 {
        self.orders += 1;
        self.orders
    }
}
