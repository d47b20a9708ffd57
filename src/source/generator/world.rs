//! What is advertised: the catalogue of products and the campaigns with their lifecycles.

use adtide_dataflows::model::CampaignEventType;

use super::GeneratorConfig;
use super::dice::{Dice, Zipf};
use super::fields::{Quirk, id, text};

pub(super) const PLACEMENTS: [&str; 8] = [
    "home_banner",
    "search_top",
    "search_sidebar",
    "product_detail",
    "cart_recommendation",
    "category_list",
    "video_preroll",
    "news_feed",
];

pub(super) const CATEGORIES: [&str; 12] = [
    "electronics",
    "fashion",
    "beauty",
    "home_garden",
    "sports",
    "toys",
    "books",
    "groceries",
    "automotive",
    "travel",
    "health",
    "pets",
];

/// What a campaign has come to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Active,
    Paused,
    Deleted,
}

impl Stage {
    pub(super) fn name(self) -> &'static str {
        match self {
            Stage::Active => "ACTIVE",
            Stage::Paused => "PAUSED",
            Stage::Deleted => "DELETED",
        }
    }
}

pub(super) struct Campaign {
    pub(super) id: i64,
    pub(super) advertiser: i64,
    pub(super) product: i64,
    pub(super) placement: usize,
    pub(super) category: usize,
    /// Minor units, as all money here.
    pub(super) bid: i64,
    pub(super) stage: Stage,
    /// The part of its ad events that is always the same, ready to copy.
    pub(super) targeting: Vec<u8>,
}

struct Product {
    category: usize,
    price: i64,
}

pub(super) struct World {
    campaigns: Vec<Campaign>,
    popularity: Zipf,
    products: Vec<Product>,
}

impl World {
    pub(super) fn new(config: &GeneratorConfig, dice: &mut Dice) -> World {
        let products: Vec<Product> = (0..config.products).map(|_| Product::new(dice)).collect();
        // A little flat: the first has some percent of all, not a fifth.
        let sold = Zipf::new(config.products, 3);
        let campaigns = (1..=config.campaigns)
            .map(|id| {
                let product = sold.draw(dice) as usize;
                let advertiser = 1 + dice.below(config.campaigns.div_ceil(10) as u64) as i64;
                Campaign::new(id as i64, advertiser, product as i64 + 1, products[product].category, dice)
            })
            .collect();
        World { campaigns, popularity: Zipf::new(config.campaigns, 3), products }
    }

    pub(super) fn campaigns(&self) -> usize {
        self.campaigns.len()
    }

    pub(super) fn products(&self) -> usize {
        self.products.len()
    }

    pub(super) fn campaign(&self, index: u32) -> &Campaign {
        &self.campaigns[index as usize]
    }

    /// The campaign whose ad is shown next.
    #[inline]
    pub(super) fn serve(&self, dice: &mut Dice) -> u32 {
        let mut choice = self.popularity.draw(dice);
        // Some ads of paused campaigns still get shown, as ad servers learn of a pause with a delay.
        for _ in 0..3 {
            if self.campaigns[choice as usize].stage == Stage::Active {
                break;
            }
            choice = self.popularity.draw(dice);
        }
        choice
    }

    /// Something happens to some campaign.
    pub(super) fn change(&mut self, dice: &mut Dice) -> (CampaignEventType, &Campaign) {
        let index = dice.below(self.campaigns.len() as u64) as usize;
        let campaign = &mut self.campaigns[index];
        let event_type = campaign.change(dice);
        (event_type, campaign)
    }

    /// The price at which one product is sold, or a set of up to three.
    pub(super) fn revenue(&self, product: i64, dice: &mut Dice) -> i64 {
        self.products[product as usize - 1].price * dice.skewed(1..4)
    }

    pub(super) fn any_product(&self, dice: &mut Dice) -> i64 {
        1 + dice.below(self.products.len() as u64) as i64
    }

    pub(super) fn price(&self, product: i64) -> i64 {
        self.products[product as usize - 1].price
    }

    /// A new price for a product, within a tenth of the old one.
    pub(super) fn reprice(&mut self, product: i64, dice: &mut Dice) -> i64 {
        let price = &mut self.products[product as usize - 1].price;
        *price = (*price * dice.within(90..111) / 100).max(100);
        *price
    }
}

impl Product {
    fn new(dice: &mut Dice) -> Product {
        Product { category: dice.below(CATEGORIES.len() as u64) as usize, price: dice.skewed(299..90_000) }
    }
}

impl Campaign {
    fn new(id: i64, advertiser: i64, product: i64, category: usize, dice: &mut Dice) -> Campaign {
        let placement = dice.below(PLACEMENTS.len() as u64) as usize;
        let bid = dice.skewed(10..600);
        let (stage, targeting) = (Stage::Active, Vec::new());
        let mut campaign = Campaign { id, advertiser, product, placement, category, bid, stage, targeting };
        campaign.prepare();
        campaign
    }

    fn change(&mut self, dice: &mut Dice) -> CampaignEventType {
        let chance = dice.below(100);
        match (self.stage, chance) {
            (Stage::Active, 0..8) => self.enter(Stage::Paused, CampaignEventType::Pause),
            // Some systems pause by an update of the status.
            (Stage::Active, 8..10) => self.enter(Stage::Paused, CampaignEventType::Update),
            (Stage::Active | Stage::Paused, 10..12) => self.enter(Stage::Deleted, CampaignEventType::Delete),
            (Stage::Active, 12..18) => self.relocate(dice),
            (Stage::Paused, 18..85) => self.enter(Stage::Active, CampaignEventType::Activate),
            (Stage::Active | Stage::Paused, _) => self.rebid(dice),
            // The id comes back.
            (Stage::Deleted, _) => self.enter(Stage::Active, CampaignEventType::Create),
        }
    }

    fn enter(&mut self, stage: Stage, event_type: CampaignEventType) -> CampaignEventType {
        self.stage = stage;
        event_type
    }

    fn rebid(&mut self, dice: &mut Dice) -> CampaignEventType {
        self.bid = (self.bid * dice.within(80..126) / 100).clamp(5, 5_000);
        CampaignEventType::Update
    }

    fn relocate(&mut self, dice: &mut Dice) -> CampaignEventType {
        if dice.percent(70) {
            self.placement = dice.below(PLACEMENTS.len() as u64) as usize;
        } else {
            self.category = dice.below(CATEGORIES.len() as u64) as usize;
        }
        self.prepare();
        CampaignEventType::Update
    }

    fn prepare(&mut self) {
        let mut targeting = std::mem::take(&mut self.targeting);
        targeting.clear();
        self::targeting(&mut targeting, self, Quirk::None);
        self.targeting = targeting;
    }
}

/// What is alike in all ad events of a campaign and in its campaign events.
pub(super) fn targeting(line: &mut Vec<u8>, campaign: &Campaign, quirk: Quirk) {
    match quirk {
        Quirk::NoCampaign if campaign.id % 2 == 0 => line.extend_from_slice(b",\"campaign_id\":null"),
        Quirk::NoCampaign => {}
        _ => id(line, "campaign_id", campaign.id, quirk),
    }
    id(line, "advertiser_id", campaign.advertiser, quirk);
    id(line, "product_id", campaign.product, quirk);
    text(line, "placement", PLACEMENTS[campaign.placement]);
    text(line, "category", CATEGORIES[campaign.category]);
}
