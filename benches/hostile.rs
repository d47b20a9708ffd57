//! What hostile input costs: 100,000 records that were made to be dear, against as many that were not, in CPU
//! time of one worker. Fails if any costs twice as much.

use std::hash::Hasher;

use adtide_dataflows::model::Topic;
use adtide_dataflows::operators::PartitionState;
use adtide_dataflows::{Ingest, Settings, Statement, dataflow};
use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use rustc_hash::FxHasher;
use timely::dataflow::operators::probe::Handle;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Records of a case and topic.
const RECORDS: usize = 100_000;
/// Records an epoch.
const BATCH: usize = 10_000;
const START: i64 = 1_700_000_000_000;
/// How often each is tried; the least time counts.
const TRIES: usize = 2;

/// What comes in: topic and line.
type Input = Vec<(Topic, String)>;

fn main() {
    let colliding = colliding_texts();
    let random: Vec<_> = (0..RECORDS).map(|n| format!("{n:0width$}", width = colliding[0].len())).collect();
    let lone = |name: &str, n: usize| if name.is_empty() { format!("d-{n}") } else { name.to_owned() };
    let at_once = |_: usize| START;
    let in_order = |n: usize| START + n as i64 * 10;
    let backwards = |n: usize| START + (RECORDS - n) as i64 * 10;
    let cases: [(&str, Input, Input); 7] = [
        (
            "device ids of one hash",
            clicks(in_order, |n| random[n].clone()).collect(),
            clicks(in_order, |n| colliding[n].clone()).collect(),
        ),
        (
            "clicks and conversions of one device, in order",
            mixed(clicks(in_order, |n| lone("", n)), sales(in_order, |n| lone("", n), |n| n)),
            mixed(clicks(in_order, |n| lone("one", n)), sales(in_order, |n| lone("one", n), |n| n)),
        ),
        (
            "and the newest first",
            mixed(clicks(backwards, |n| lone("", n)), sales(backwards, |n| lone("", n), |n| n)),
            mixed(clicks(backwards, |n| lone("one", n)), sales(backwards, |n| lone("one", n), |n| n)),
        ),
        (
            "first all clicks of one device, then earlier and earlier conversions",
            clicks(in_order, |n| lone("", n)).chain(sales(backwards, |n| lone("", n), |n| n)).collect(),
            clicks(in_order, |n| lone("one", n)).chain(sales(backwards, |n| lone("one", n), |n| n)).collect(),
        ),
        (
            "first all conversions of one device, then earlier and earlier clicks",
            sales(in_order, |n| lone("", n), |n| n).chain(clicks(backwards, |n| lone("", n))).collect(),
            sales(in_order, |n| lone("one", n), |n| n).chain(clicks(backwards, |n| lone("one", n))).collect(),
        ),
        (
            "all clicks and conversions of one device at once",
            mixed(clicks(at_once, |n| lone("", n)), sales(at_once, |n| lone("", n), |n| n)),
            mixed(clicks(at_once, |n| lone("one", n)), sales(at_once, |n| lone("one", n), |n| n)),
        ),
        (
            "one order again and again, the latest first",
            mixed(clicks(in_order, |n| lone("", n)), sales(backwards, |n| lone("", n), |n| n)),
            mixed(clicks(in_order, |n| lone("", n)), sales(backwards, |n| lone("", n), |_| 0)),
        ),
    ];
    let mut is_dear = false;
    for (name, harmless, hostile) in cases {
        let least = |input: &Input| (0..TRIES).map(|_| cpu_of(input)).fold(f64::MAX, f64::min);
        let (harmless, hostile) = (least(&harmless), least(&hostile));
        println!("{name:<70} {harmless:>7.3} s  {hostile:>7.3} s  {:>5.2} x", hostile / harmless);
        is_dear |= hostile > 2.0 * harmless;
    }
    assert!(!is_dear, "hostile input costs more than twice as much");
}

fn clicks(
    time: impl Fn(usize) -> i64,
    device: impl Fn(usize) -> String,
) -> impl Iterator<Item = (Topic, String)> {
    (0..RECORDS).map(move |n| {
        let (time, device) = (time(n), serde_json::to_string(&device(n)).expect("a text can be written"));
        let line = format!(
            r#"{{"event_type":"CLICK","timestamp_field":{time},"ad_id":{n},"campaign_id":5,"advertiser_id":9,"product_id":7,"placement":"home","device_id":{device},"actual_price":0.25}}"#
        );
        (Topic::AdEvents, line)
    })
}

fn sales(
    time: impl Fn(usize) -> i64,
    device: impl Fn(usize) -> String,
    order: impl Fn(usize) -> usize,
) -> impl Iterator<Item = (Topic, String)> {
    (0..RECORDS).map(move |n| {
        let line = format!(
            r#"{{"event_type":"CONVERSION","timestamp_field":{},"device_id":"{}","order_id":"o-{}","product_id":7,"revenue_amount":6}}"#,
            time(n) + 5,
            device(n),
            order(n)
        );
        (Topic::ConversionEvents, line)
    })
}

fn mixed(one: impl Iterator<Item = (Topic, String)>, other: impl Iterator<Item = (Topic, String)>) -> Input {
    one.zip(other).flat_map(|(one, other)| [one, other]).collect()
}

/// The CPU time in seconds that one worker takes for this input, until every window is closed and all is
/// settled.
fn cpu_of(input: &Input) -> f64 {
    let statements = vec![Statement::ConversionMatcher, Statement::DuplicateDetector];
    let settings = Settings { statements, ..Settings::default() };
    let input = input.clone();
    timely::execute_directly(move |worker| {
        let probe = Handle::new();
        let mut inputs = worker.dataflow(|scope| {
            let (inputs, outputs, _state) = dataflow(scope, &settings);
            outputs.attributions.probe_with(&probe);
            outputs.compensations.probe_with(&probe);
            inputs
        });
        let mut ingest = Ingest::new(&settings);
        let topics = [Topic::AdEvents, Topic::ConversionEvents];
        let partitions = topics.map(|topic| ingest.add_partition(topic, 0, 0));
        let before = cpu();
        let mut epoch = |ingest: &mut Ingest, state: PartitionState| {
            partitions.iter().for_each(|partition| ingest.report(*partition, state));
            let epoch = inputs.epoch();
            inputs.send(ingest.batch());
            inputs.advance_to(epoch + 1);
            worker.step_while(|| probe.less_equal(&epoch));
        };
        let mut offset = 0;
        for batch in input.chunks(BATCH) {
            for (topic, line) in batch {
                let partition = partitions[usize::from(*topic == Topic::ConversionEvents)];
                ingest.record(partition, offset, line.as_bytes());
                offset += 1;
            }
            epoch(&mut ingest, PartitionState::Active);
        }
        epoch(&mut ingest, PartitionState::Finished);
        // What is finished takes effect in the next.
        epoch(&mut ingest, PartitionState::Finished);
        cpu() - before
    })
}

/// The time in seconds that this thread was on a CPU, by Linux's own account.
fn cpu() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|ns| ns.parse::<f64>().ok()).unwrap_or_default() / 1e9
}

/// Different texts of one hash by a hasher without a seed.
///
/// That hasher takes 16 bytes at a time, two words x and y, and multiplies `state ^ x` by `CONSTANT ^ y`.
/// With `c = state ^ CONSTANT`, the words `y ^ c` and `x ^ c` give the same product. So each block of 16
/// bytes for which all four words are texts doubles the number of texts of one hash.
fn colliding_texts() -> Vec<String> {
    const SEEDS: [u64; 2] = [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344];
    const CONSTANT: u64 = 0xa409_3822_299f_31d0;
    const BLOCKS: u32 = 17;
    let product = |one: u64, other: u64| {
        let product = u128::from(one) * u128::from(other);
        product as u64 ^ (product >> 64) as u64
    };
    // Without what JSON escapes, which costs time of its own.
    let is_plain = |byte: &u8| (b' '..0x7f).contains(byte) && !b"\"\\".contains(byte);
    let is_text = |word: u64| word.to_le_bytes().iter().all(is_plain);
    let mut dice = Xoshiro256PlusPlus::seed_from_u64(1);
    let mut text = || {
        u64::from_le_bytes([(); 8].map(|()| {
            b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_"
                [(dice.next_u64() % 64) as usize]
        }))
    };
    let mut states = SEEDS;
    // Each choice is the words as they are and swapped; a block that only leads on has one.
    let mut choices: Vec<Vec<[u64; 2]>> = Vec::new();
    while choices.iter().filter(|choice| choice.len() == 2).count() < BLOCKS as usize {
        let (c, (x, y)) = (states[0] ^ CONSTANT, (text(), text()));
        let swapped = [y ^ c, x ^ c];
        let both = swapped.iter().all(|word| is_text(*word));
        let can_be_swapped = c.to_le_bytes().iter().all(|byte| *byte < 0x80);
        if can_be_swapped && !both {
            continue;
        }
        // The state after this block is that before the one after the next: it must allow a swap there.
        let after = product(states[0] ^ x, CONSTANT ^ y);
        if !(after ^ CONSTANT).to_le_bytes().iter().all(|byte| *byte < 0x80) {
            continue;
        }
        choices.push(if both { vec![[x, y], swapped] } else { vec![[x, y]] });
        states = [states[1], after];
    }
    let texts: Vec<String> = (0..RECORDS)
        .map(|number| {
            let mut bits = number;
            let words = choices.iter().flat_map(|choice| {
                let words = choice[(bits & 1).min(choice.len() - 1)];
                bits >>= u32::from(choice.len() == 2);
                words
            });
            let bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).chain([b'.'; 16]).collect();
            String::from_utf8(bytes).expect("all words are texts")
        })
        .collect();
    let hash = |text: &String| {
        let mut hasher = FxHasher::default();
        hasher.write(text.as_bytes());
        hasher.finish()
    };
    assert!(texts.iter().all(|text| hash(text) == hash(&texts[0])), "the hasher is another by now");
    texts
}
