//! Several processes as one cluster.

use std::fs;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;

use crate::support::{Place, Running, eventually, impression};

/// One row for each of the impressions.
const ROWS: &str = "SELECT count(*) FROM ad_performance_metrics_realtime";

/// Addresses that are free at the moment, a line each.
pub fn free_addresses(number: usize) -> String {
    let listeners: Vec<_> = (0..number).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    listeners.iter().map(|listener| format!("{}\n", listener.local_addr().unwrap())).collect()
}

/// Processes that follow four partitions of one impression each.
fn start(place: &Place, processes: usize, more: &str) -> Vec<Running> {
    for partition in 0..4 {
        place.write(&format!("in/ad-events/{partition}.ndjson"), impression("10:00:00", partition + 1));
    }
    place.write("hosts", free_addresses(processes));
    let start = |process| {
        let arguments =
            format!("--from in --data-dir out --follow -n {processes} -h hosts -p {process} {more}");
        place.start(&format!("process-{process}"), &arguments)
    };
    (0..processes).map(start).collect()
}

fn start_two(place: &Place, more: &str) -> Vec<Running> {
    start(place, 2, more)
}

#[test]
fn two_processes_write_what_one_writes() {
    let place = Place::with_traffic();
    place.run("--from in --data-dir one -w 1").succeeded();
    place.write("hosts", free_addresses(2));
    let common = "--from in --data-dir out -w 2 -n 2 -h hosts";
    let mut processes: Vec<_> = (0..2)
        .map(|process| place.start(&format!("process-{process}"), &format!("{common} -p {process}")))
        .collect();
    let outcomes: Vec<_> = processes.iter_mut().map(|process| process.finish().succeeded()).collect();
    assert!(place.tables("one") == place.tables("out"), "the tables differ");
    place.run("verify --from in --data-dir out").verified(&[]);
    outcomes[0].says(&["1  RTB rankings: "]);
    assert!(!outcomes[1].stdout.contains("RTB rankings"), "results are shown twice");
}

#[test]
fn a_signal_to_one_process_ends_all_in_order() {
    for (told, signal) in [(0, Signal::SIGINT), (1, Signal::SIGTERM)] {
        let place = Place::new();
        let mut processes = start_two(&place, "");
        place.await_rows(ROWS, &["4"]);
        processes[told].signal(signal);
        processes.iter_mut().for_each(|process| drop(process.finish().succeeded()));
        assert_eq!(place.rows("SELECT sum(is_final) FROM ad_performance_metrics_realtime"), ["0"]);
    }
}

#[test]
fn stop_ends_all_processes() {
    let place = Place::new();
    let mut processes = start_two(&place, "");
    place.await_rows(ROWS, &["4"]);
    place.run("stop --data-dir out").succeeded();
    processes.iter_mut().for_each(|process| drop(process.finish().succeeded()));
}

#[test]
fn a_signal_to_each_process_ends_all_in_order() {
    let place = Place::new();
    let mut processes = start_two(&place, "");
    place.await_rows(ROWS, &["4"]);
    processes.iter().for_each(|process| process.signal(Signal::SIGTERM));
    processes.iter_mut().for_each(|process| drop(process.finish().succeeded()));
}

#[test]
fn a_process_that_waits_for_others_says_for_whom_and_can_be_stopped() {
    let place = Place::new();
    place.write("in/ad-events/0.ndjson", impression("10:00:00", 1));
    place.write("hosts", free_addresses(3));
    let mut process = place.start("alone", "--from in --data-dir out --follow -n 3 -h hosts -p 1");
    let both = |said: &str| {
        said.contains("waiting for process 0 (127.0.0.1:") && said.contains("waiting for process 2")
    };
    assert!(eventually(|| both(&process.stderr())), "{}", process.stderr());
    process.end(Signal::SIGTERM).succeeded();
}

#[test]
fn processes_may_be_started_again_while_others_are_missing() {
    let place = Place::new();
    place.write("in/ad-events/0.ndjson", impression("10:00:00", 1));
    place.write("hosts", free_addresses(3));
    let start = |process: usize, times: usize| {
        let arguments = format!("--from in --data-dir out --follow -n 3 -h hosts -p {process}");
        place.start(&format!("process-{process}-{times}"), &arguments)
    };
    let waits_for_the_last = |process: &Running| process.stderr().contains("waiting for process 2 ");
    let mut processes = [start(0, 1), start(1, 1)];
    assert!(eventually(|| processes.iter().all(waits_for_the_last)));
    for number in [1, 0] {
        processes[number].signal(Signal::SIGKILL);
        processes[number].finish();
        processes[number] = start(number, 2);
        assert!(eventually(|| waits_for_the_last(&processes[number])));
    }
    let mut last = start(2, 1);
    place.await_rows(ROWS, &["1"]);
    last.end(Signal::SIGTERM).succeeded();
    processes.iter_mut().for_each(|process| drop(process.finish().succeeded()));
}

#[test]
fn processes_that_were_started_differently_say_so() {
    let place = Place::new();
    place.write("in/ad-events/0.ndjson", impression("10:00:00", 1));
    place.write("hosts", free_addresses(2));
    let common = "--from in --data-dir out --follow -n 2 -h hosts";
    let mut processes = [0, 1].map(|process| {
        place.start(&format!("process-{process}"), &format!("{common} -p {process} -w {}", 1 + process))
    });
    let said = processes
        .each_mut()
        .map(|process| process.finish().failed_saying(&["start all processes alike"]).stderr);
    assert!(said[0].contains("process 1 runs with -w 2, and this one with -w 1"), "{}", said[0]);
    assert!(said[1].contains("process 0 runs with -w 1, and this one with -w 2"), "{}", said[1]);
}

#[test]
fn a_stranger_at_the_port_does_no_harm() {
    let place = Place::new();
    place.write("in/ad-events/0.ndjson", impression("10:00:00", 1));
    let hosts = free_addresses(2);
    place.write("hosts", &hosts);
    let common = "--from in --data-dir out --follow -n 2 -h hosts";
    let mut first = place.start("process-0", &format!("{common} -p 0"));
    for greeting in ["GET / HTTP/1.1\r\n\r\n", ""] {
        let mut stranger = None;
        assert!(eventually(|| {
            stranger = TcpStream::connect(hosts.lines().next().unwrap()).ok();
            stranger.is_some()
        }));
        stranger.unwrap().write_all(greeting.as_bytes()).unwrap();
    }
    let mut second = place.start("process-1", &format!("{common} -p 1"));
    place.await_rows(ROWS, &["1"]);
    assert!(first.stderr().contains("is no process of this cluster"), "{}", first.stderr());
    first.signal(Signal::SIGTERM);
    drop([first.finish().succeeded(), second.finish().succeeded()]);
}

#[test]
fn a_killed_process_ends_the_others_with_75_and_one_message() {
    let place = Place::new();
    let mut processes = start(&place, 3, "-w 2");
    place.await_rows(ROWS, &["4"]);
    processes[1].signal(Signal::SIGKILL);
    for at in [0, 2] {
        let said = processes[at].finish().exited_with(75).stderr;
        let address =
            std::fs::read_to_string(place.path("hosts")).unwrap().lines().nth(1).unwrap().to_owned();
        assert!(said.contains(&format!("adtide: error: process 1 ({address}) has ended")), "{said}");
        assert!(!said.contains("panicked"), "{said}");
        assert_eq!(said.matches("all processes have to be started again").count(), 1, "{said}");
    }
}

#[test]
fn a_process_that_hangs_is_found_by_its_silence() {
    let place = Place::new();
    let mut processes = start_two(&place, "--set cluster.heartbeat_timeout=1s");
    place.await_rows(ROWS, &["4"]);
    processes[1].signal(Signal::SIGSTOP);
    let said = processes[0].finish().exited_with(75).stderr;
    assert!(said.contains("process 1 (127.0.0.1:") && said.contains("has been silent for 1s"), "{said}");
    // It is told as soon as it goes on.
    processes[1].signal(Signal::SIGCONT);
    let said = processes[1].finish().exited_with(75).stderr;
    assert!(said.contains("has taken this one for dead"), "{said}");
}

#[test]
fn wrong_numbers_of_processes_and_workers_are_refused() {
    let place = Place::new();
    place.write("in/ad-events.ndjson", "");
    place.write("hosts", "127.0.0.1:4001\n\n");
    let run = |arguments| place.run(&format!("--from in --data-dir out {arguments}"));
    run("-n 2 -p 0 -h hosts").failed_saying(&[
        "hostfile hosts names too few addresses, 1,",
        "-n is 2",
        "host:port",
    ]);
    run("-n 2 -p 0 -h nothing").failed_saying(&["can't read the hostfile nothing"]);
    run("-n 2 -p 2 -h hosts").refused_saying(&["must be less than -n"]);
    run("-p 1").refused_saying(&["must be less than -n"]);
    run("-n 0").refused_saying(&["--processes", "from 1 on"]);
    run("-w 0").refused_saying(&["--threads", "from 1 on"]);
    assert!(!place.path("out").exists());
}

#[test]
fn a_cluster_that_has_run_is_started_again_for_as_long_as_it_takes() {
    let place = Place::new();
    // The first process lives long enough; those after it fail at once, as while a server is away.
    let process = "#!/bin/sh\nif mkdir \"$0.ran\" 2>/dev/null; then sleep 6; fi\nexit 1\n";
    place.write("adtide", process);
    let binary = place.path("adtide");
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).unwrap();
    let cluster = |arguments: &[&str]| {
        let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/cluster"));
        command.args(arguments).env("ADTIDE_CLUSTER_DIR", place.path("cluster")).env("ADTIDE_BIN", &binary);
        command.stdout(Stdio::null()).status().unwrap()
    };
    assert!(cluster(&["up", "-n", "1"]).success());
    let starts = || {
        fs::read_to_string(place.path("cluster/run/starts")).unwrap_or_default().trim().parse().unwrap_or(0)
    };
    let is_kept_up = eventually(|| starts() >= 5);
    let log = fs::read_to_string(place.path("cluster/log/supervisor.log")).unwrap();
    cluster(&["down"]);
    assert!(is_kept_up, "{log}");
}
