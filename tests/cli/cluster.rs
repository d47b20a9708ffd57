//! Several processes as one cluster.

use std::net::TcpListener;

use nix::sys::signal::Signal;

use crate::support::{Place, Running, impression};

/// Addresses that are free at the moment, a line each.
fn free_addresses(number: usize) -> String {
    let listeners: Vec<_> = (0..number).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    listeners.iter().map(|listener| format!("{}\n", listener.local_addr().unwrap())).collect()
}

/// Two processes that follow four partitions of one impression each.
fn start_two(place: &Place, more: &str) -> [Running; 2] {
    for partition in 0..4 {
        place.write(&format!("in/ad-events/{partition}.ndjson"), impression("10:00:00", partition + 1));
    }
    place.write("hosts", free_addresses(2));
    [0, 1].map(|process| {
        let arguments = format!("--from in --data-dir out --follow -n 2 -h hosts -p {process} {more}");
        place.start(&format!("process-{process}"), &arguments)
    })
}

#[test]
fn two_processes_write_what_one_writes() {
    let place = Place::with_traffic();
    place.run("--from in --data-dir one -w 1").succeeded();
    place.write("hosts", free_addresses(2));
    let common = "--from in --data-dir out -w 2 -n 2 -h hosts";
    let mut processes: Vec<_> =
        (0..2).map(|process| place.start(&format!("process-{process}"), &format!("{common} -p {process}"))).collect();
    let outcomes: Vec<_> = processes.iter_mut().map(|process| process.finish().succeeded()).collect();
    assert!(place.tables("one") == place.tables("out"), "the tables differ");
    place.run("verify --from in --data-dir out").verified(&[]);
    outcomes[0].says(&["1  RTB rankings: "]);
    assert!(!outcomes[1].stdout.contains("RTB rankings"), "results are shown twice");
}

#[test]
fn an_interrupt_of_all_processes_ends_them_in_order() {
    let place = Place::new();
    let mut processes = start_two(&place, "");
    place.await_rows("SELECT count(*), sum(is_final) FROM ad_performance_metrics_realtime", &["4 0"]);
    processes.iter().for_each(|process| process.signal(Signal::SIGINT));
    processes.iter_mut().for_each(|process| drop(process.finish().succeeded()));
    assert_eq!(place.rows("SELECT sum(is_final) FROM ad_performance_metrics_realtime"), ["0"]);
}

#[test]
fn a_process_whose_peer_hangs_is_ended_by_its_watchdog() {
    let place = Place::new();
    let mut processes = start_two(&place, "--set watchdog.timeout=2s");
    place.await_rows("SELECT count(*) FROM ad_performance_metrics_realtime", &["4"]);
    processes[1].signal(Signal::SIGSTOP);
    processes[0].finish().failed_saying(&["the frontier has not moved for 2s", "watchdog.timeout"]);
}

#[test]
fn wrong_numbers_of_processes_and_workers_are_refused() {
    let place = Place::new();
    place.write("in/ad-events.ndjson", "");
    place.write("hosts", "127.0.0.1:4001\n\n");
    let run = |arguments| place.run(&format!("--from in --data-dir out {arguments}"));
    run("-n 2 -p 0 -h hosts").failed_saying(&["hostfile hosts names too few addresses, 1,", "-n is 2", "host:port"]);
    run("-n 2 -p 0 -h nothing").failed_saying(&["can't read the hostfile nothing"]);
    run("-n 2 -p 2 -h hosts").failed_saying(&["must be less than -n"]);
    run("-p 1").failed_saying(&["must be less than -n"]);
    run("-n 0").failed_saying(&["-n must be at least 1"]);
    run("-w 0").failed_saying(&["-w must be at least 1"]);
    assert!(!place.path("out").exists());
}
