//! Workers as members of their consumer groups, and what an operator sees of them.

use nix::sys::signal::Signal;

use super::place::Place;
use super::{assert_balanced, click, refund};
use crate::deployment::eventually;

/// A session that no test waits for the end of.
const LONG_SESSION: &str = "--set kafka.properties.session.timeout.ms=240000";

fn clicks(count: u32) -> Vec<String> {
    (0..count).map(|second| click(second, 1, 1)).collect()
}

fn has_debits(place: &Place, count: u32) -> bool {
    eventually(|| {
        place.rows("SELECT count(*) FROM balance_ledger WHERE entry_type = 'DEBIT'") == [count.to_string()]
    })
}

#[test]
fn after_a_kill_a_worker_gets_its_partitions_back_without_waiting_for_the_sessions_end() {
    let Some(place) = Place::new(4) else { return };
    let command = format!("worker all {LONG_SESSION}");
    let first = place.start("first", &command);
    place.produce("ad-events", &clicks(100));
    assert!(has_debits(&place, 100), "{}", first.log());
    first.signal(Signal::SIGKILL);
    drop(first);
    let mut second = place.start("second", &command);
    place.produce("ad-events", &clicks(100));
    assert!(has_debits(&place, 200), "{}", second.log());
    // In order it is the same, and another slot is another member: neither is pushed out.
    second.end(Signal::SIGTERM);
    let (third, fourth) = (place.start("third", &command), place.start("fourth", &command));
    place.produce("ad-events", &clicks(100));
    assert!(has_debits(&place, 300), "{}", third.log());
    for running in [&third, &fourth] {
        assert!(!running.log().contains("another process"), "{}", running.log());
    }
    assert_balanced(&place);
}

#[test]
fn of_two_processes_with_one_name_both_work_on() {
    let Some(place) = Place::new(4) else { return };
    let command = "worker balance --set worker.instance=same";
    let first = place.start("first", command);
    place.produce("ad-events", &clicks(100));
    assert!(has_debits(&place, 100), "{}", first.log());
    let second = place.start("second", command);
    let is_told = || first.log().contains("give each its own worker.instance");
    assert!(eventually(is_told), "{}\n{}", first.log(), second.log());
    place.produce("ad-events", &clicks(100));
    assert!(has_debits(&place, 200), "{}\n{}", first.log(), second.log());
    assert!(!second.log().contains("give each its own worker.instance"), "{}", second.log());
    assert_balanced(&place);
}

#[test]
fn new_partitions_are_found_and_the_lag_is_that_of_the_whole_topic() {
    let Some(mut place) = Place::new(1) else { return };
    let lag = |count: u32| format!("adtide_worker_lag_records{{worker=\"balance\"}} {count}.0\n");
    let command =
        format!("worker balance {LONG_SESSION} --set kafka.discovery_interval=1s --listen 127.0.0.1:0");
    let first = place.start("first", &command);
    place.produce("ad-events", &clicks(1));
    assert!(has_debits(&place, 1), "{}", first.log());
    place.set_partitions("ad-events", 3);
    place.produce("ad-events", &clicks(3));
    assert!(has_debits(&place, 4), "{}", first.log());
    assert!(eventually(|| first.get("/metrics").1.contains(&lag(0))), "{}", first.get("/metrics").1);
    assert_eq!(first.get("/readyz"), (200, "ready\n".to_owned()));
    // It hangs, and keeps its partitions: another one has nothing to read, but knows what waits.
    first.signal(Signal::SIGSTOP);
    let second = place.start("second", &command);
    place.produce("ad-events", &clicks(300));
    assert!(eventually(|| second.get("/metrics").1.contains(&lag(300))), "{}", second.get("/metrics").1);
    let (status, text) = second.get("/readyz");
    assert_eq!((status, text.contains("worker balance: starting")), (503, true), "{text}");
    first.signal(Signal::SIGCONT);
    assert!(has_debits(&place, 304), "{}", first.log());
}

#[test]
fn a_worker_that_fails_does_so_alone_and_starts_again() {
    let Some(place) = Place::new(1) else { return };
    place.produce("ad-events", &clicks(1));
    place.produce("compensation-events", &[refund("r-1", 1, "0.50")]);
    place.run("worker all --until-end");
    place.execute("UPDATE worker_offsets SET next_offset = 5 WHERE worker = 'compensation'");
    let running = place.start("all", "worker all --listen 127.0.0.1:0");
    let fails = || running.log().matches("worker failed worker=\"compensation\"").count();
    assert!(eventually(|| fails() >= 4), "{}", running.log());
    let (status, text) = running.get("/readyz");
    assert_eq!(
        (status, text.contains("worker compensation: failed, and starts again")),
        (503, true),
        "{text}"
    );
    assert_eq!(running.get("/healthz").0, 200);
    place.produce("ad-events", &clicks(100));
    assert!(has_debits(&place, 101), "{}", running.log());
    place.execute("UPDATE worker_offsets SET next_offset = 1 WHERE worker = 'compensation'");
    place.produce("compensation-events", &[refund("r-2", 1, "0.25")]);
    let credited =
        || place.rows("SELECT sum(amount) FROM balance_ledger WHERE entry_type = 'CREDIT'") == ["0.75"];
    assert!(eventually(credited), "{}", running.log());
    assert!(eventually(|| running.get("/readyz").0 == 200), "{}", running.get("/readyz").1);
    assert_balanced(&place);
}

#[test]
fn a_worker_that_can_not_start_ends_with_the_reason() {
    let Some(place) = Place::new(1) else { return };
    let error = place.fails("worker balance --set postgres.url=postgres://nobody@127.0.0.1/?port=x");
    assert!(error.contains("postgres.url"), "{error}");
}
