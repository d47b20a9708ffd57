//! Who sees the ads.

use super::GeneratorConfig;
use super::dice::{Dice, Zipf};

/// How long a visit takes on average, and how many ads it sees.
const VISIT_MS: u64 = 10 * 60 * 1000;
const VISIT_ADS: u64 = 12;

/// A device during one session.
#[derive(Clone, Copy)]
pub(super) struct Visit {
    pub(super) device: u32,
    pub(super) session: u64,
    /// How many more ads it sees.
    left: u32,
}

/// The visits that are going on. Each ad goes to one of them; one that ends makes room for another, so that a
/// device has many sessions in the course of time, and no state but the current ones is kept.
pub(super) struct Audience {
    devices: Zipf,
    visits: Vec<Visit>,
    sessions: u64,
}

impl Audience {
    pub(super) fn new(config: &GeneratorConfig, dice: &mut Dice) -> Audience {
        let at_once = u128::from(config.ad_events) * u128::from(VISIT_MS) / config.span_ms as u128;
        let at_once = (at_once / u128::from(VISIT_ADS)).clamp(8, 1 << 20) as usize;
        // Flat: nobody's device is a tenth of all traffic.
        let mut audience = Audience {
            devices: Zipf::new(config.devices, 300),
            visits: Vec::with_capacity(at_once),
            sessions: 0,
        };
        for _ in 0..at_once {
            let visit = audience.arrive(dice);
            audience.visits.push(visit);
        }
        audience
    }

    /// Someone sees an ad.
    #[inline]
    pub(super) fn look(&mut self, dice: &mut Dice) -> Visit {
        let index = dice.below(self.visits.len() as u64) as usize;
        let visit = self.visits[index];
        if visit.left == 0 {
            self.visits[index] = self.arrive(dice);
        } else {
            self.visits[index].left -= 1;
        }
        visit
    }

    pub(super) fn any_device(&self, dice: &mut Dice) -> u32 {
        self.devices.draw(dice)
    }

    /// A session of which no ad event tells.
    pub(super) fn unseen_session(&mut self) -> u64 {
        self.sessions += 1;
        self.sessions
    }

    fn arrive(&mut self, dice: &mut Dice) -> Visit {
        let left = dice.skewed(0..4 * VISIT_ADS as i64) as u32;
        Visit { device: self.any_device(dice), session: self.unseen_session(), left }
    }
}

/// The device's id as a number: distinct for each device, and as good as a hash for choosing a partition.
#[inline]
pub(super) fn device_number(device: u32) -> u32 {
    let mixed = (device ^ (device >> 16)).wrapping_mul(0x85eb_ca6b);
    let mixed = (mixed ^ (mixed >> 13)).wrapping_mul(0xc2b2_ae35);
    mixed ^ (mixed >> 16)
}

/// The session's id as a number, distinct for each session.
#[inline]
pub(super) fn session_number(session: u64) -> u64 {
    let mixed = session.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 32)
}

/// Two devices belong to one user.
#[inline]
pub(super) fn user_number(device: u32) -> u32 {
    100_000 + device / 2
}
