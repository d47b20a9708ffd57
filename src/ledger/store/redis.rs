//! The budgets in Redis: a hash `budget:campaign:{id}` with `spent`, `refunded` (decimal, two places) and
//! `updated_at`.
//!
//! One script reads the sums, adds, and writes them as absolute values together with the offsets, if the
//! guard holds. Where the offsets stand: hash `adtide:worker:{name}:budget`, fields
//! `{topic}/{partition}:owner`, `:next` and `:mark`.
//!
//! A refund that is told twice counts once. The ids of those that count are kept in a set for each window,
//! `adtide:worker:{name}:budget:refunds:{window_start}`, until no refund of the window has come for
//! `worker.refund_memory`. A repeat can only come from a run that starts over, which finds no clicks that are
//! older than what Kafka keeps of ad-events; so no repeat is missed while the memory is as long as that, and
//! the sets stay as many as there are windows in it.

use std::collections::HashMap;
use std::time::Duration;

use adtide_dataflows::model::Money;
use anyhow::{Context, anyhow, ensure};
use redis::{Cmd, Connection, FromRedisValue, Script};
use serde_json::json;

use super::{BudgetChanges, Budgets, Offsets, Outcome, Step, judge};
use crate::connect::Fault;
use crate::connect::redis::RedisConfig;
use crate::ledger::feed::{Mark, Partition, Positions};

/// KEYS: the hash of offsets, the key that says whose budgets these are. ARGV: name, field, owner, earliest
/// offset. Gives the offset to read on at, or whose they are if not ours.
const CLAIM: &str = r"
local holder = redis.call('GET', KEYS[2])
if holder and holder ~= ARGV[1] then return {'other', holder} end
redis.call('SET', KEYS[2], ARGV[1])
redis.call('HSET', KEYS[1], ARGV[2] .. ':owner', ARGV[3])
redis.call('HSETNX', KEYS[1], ARGV[2] .. ':next', ARGV[4])
return {'next', redis.call('HGET', KEYS[1], ARGV[2] .. ':next')}";

/// KEYS: the hash of offsets. ARGV: a JSON object with everything else, numbers as texts.
const CHANGE: &str = include_str!("budget.lua");

/// The budgets in Redis.
pub struct RedisBudgets {
    config: RedisConfig,
    name: String,
    refund_memory: Duration,
    connection: Option<Connection>,
    claim: Script,
    change: Script,
}

impl RedisBudgets {
    /// Budgets of the deployment `name`, which connect when they are needed.
    pub fn new(config: RedisConfig, name: &str, refund_memory: Duration) -> RedisBudgets {
        RedisBudgets {
            config,
            name: name.to_owned(),
            refund_memory,
            connection: None,
            claim: Script::new(CLAIM),
            change: Script::new(CHANGE),
        }
    }

    fn offsets_key(&self) -> String {
        format!("adtide:worker:{}:budget", self.name)
    }

    /// Runs a script. A connection that failed is opened anew by the next call.
    fn invoke(
        &mut self,
        script: fn(&RedisBudgets) -> &Script,
        keys: &[&str],
        arguments: &[&str],
    ) -> Result<Vec<String>, Fault> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.config.connect()?,
        };
        let mut invocation = script(self).prepare_invoke();
        for key in keys {
            invocation.key(*key);
        }
        for argument in arguments {
            invocation.arg(*argument);
        }
        let answer = invocation.invoke(&mut connection).map_err(|error| self.config.fault(error))?;
        self.connection = Some(connection);
        Ok(answer)
    }

    fn read<T: FromRedisValue>(&mut self, command: &Cmd) -> Result<T, Fault> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.config.connect()?,
        };
        let answer = command.query(&mut connection).map_err(|error| self.config.fault(error))?;
        self.connection = Some(connection);
        Ok(answer)
    }

    /// The argument of the script.
    fn argument(&self, step: Step<'_>, changes: &BudgetChanges) -> String {
        let spent =
            changes.spent.iter().map(|(campaign, cents)| json!([campaign.to_string(), cents.0.to_string()]));
        let refunds = changes.refunds.iter().map(|refund| {
            let window = format!("{}:refunds:{}", self.offsets_key(), refund.window_start.0);
            json!([
                refund.campaign_id.to_string(),
                refund.amount.0.to_string(),
                window,
                refund.compensation_id
            ])
        });
        let advances = step.advances.iter().map(|advance| {
            let field = advance.partition.to_string();
            let mark = advance.mark_text().unwrap_or_default();
            json!([field, advance.expected.to_string(), advance.next.to_string(), mark])
        });
        json!({
            "owner": step.owner,
            "advances": advances.collect::<Vec<_>>(),
            "spent": spent.collect::<Vec<_>>(),
            "refunds": refunds.collect::<Vec<_>>(),
            "memory": self.refund_memory.as_secs().max(1).to_string(),
            "now": crate::now().to_string(),
        })
        .to_string()
    }
}

impl Offsets for RedisBudgets {
    fn claim(
        &mut self,
        _worker: &str,
        owner: &str,
        partition: &Partition,
        earliest: u64,
    ) -> Result<u64, Fault> {
        let (key, name) = (self.offsets_key(), self.name.clone());
        let keys = [key.as_str(), "adtide:worker:budget:name"];
        let answer = self.invoke(
            |budgets| &budgets.claim,
            &keys,
            &[&name, &partition.to_string(), owner, &earliest.to_string()],
        )?;
        let read = || match answer.as_slice() {
            [kind, next] if kind == "next" => next.parse::<u64>().context("no offset in Redis"),
            [_, other] => Err(anyhow!(
                "the budgets in Redis are those of the deployment {other:?}, and this one is {name:?}: name another \
                 database in redis.url, or set name = {other:?}"
            )),
            _ => Err(anyhow!("an answer of Redis is not as expected: {answer:?}")),
        };
        read().map_err(Fault::Lasting)
    }

    fn mark(&mut self, _worker: &str, partition: &Partition) -> Result<Option<Mark>, Fault> {
        let mark: Option<String> =
            self.read(redis::cmd("HGET").arg(self.offsets_key()).arg(format!("{partition}:mark")))?;
        let mark = mark.filter(|mark| !mark.is_empty()).map(|mark| serde_json::from_str(&mark)).transpose();
        mark.with_context(|| format!("Redis has no mark that can be read of {partition}"))
            .map_err(Fault::Lasting)
    }

    fn positions(&mut self, _worker: &str) -> Result<Positions, Fault> {
        let fields: HashMap<String, String> = self.read(redis::cmd("HGETALL").arg(self.offsets_key()))?;
        Ok(fields.iter().filter_map(|(field, next)| position(field, next)).collect())
    }
}

/// A field of the hash of offsets, if it is where a partition stands.
fn position(field: &str, next: &str) -> Option<(Partition, u64)> {
    let (topic, number) = field.strip_suffix(":next")?.rsplit_once('/')?;
    Some((Partition { topic: topic.to_owned(), number: number.parse().ok()? }, next.parse().ok()?))
}

impl Budgets for RedisBudgets {
    fn change(&mut self, step: Step<'_>, changes: &BudgetChanges) -> Result<Outcome<(u64, Money)>, Fault> {
        let (key, argument) = (self.offsets_key(), self.argument(step, changes));
        let answer = self.invoke(|budgets| &budgets.change, &[&key], &[&argument])?;
        read_answer(step, &answer).map_err(Fault::Lasting)
    }
}

fn read_answer(step: Step<'_>, answer: &[String]) -> anyhow::Result<Outcome<(u64, Money)>> {
    match answer {
        [kind, number, cents] if kind == "applied" => {
            // A sum need not fit 64 bits.
            let cents = i64::try_from(cents.parse::<u128>()?).unwrap_or(i64::MAX);
            Ok(Outcome::Applied((number.parse()?, Money(cents))))
        }
        [kind, stored @ ..] if kind == "refused" => {
            let stored = stored.chunks(2).map(|stored| match stored {
                [owner, next] if !next.is_empty() => Ok(Some((owner.clone(), next.parse()?))),
                _ => Ok(None),
            });
            let stored = stored.collect::<anyhow::Result<Vec<_>>>()?;
            Ok(match judge(step, &stored) {
                Outcome::AppliedBefore => Outcome::AppliedBefore,
                _ => Outcome::Fenced,
            })
        }
        _ => {
            ensure!(false, "an answer of Redis is not as expected: {answer:?}");
            Ok(Outcome::Fenced)
        }
    }
}
