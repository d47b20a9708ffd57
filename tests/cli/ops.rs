//! What an operator sees of a run: metrics, health, readiness, and a log of JSON.

use std::io::{Read, Write};
use std::net::TcpStream;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{Place, Running, eventually};

const LIVE: &str = "--live --data-dir out -w 2 --set generator.ad_events=2000000 --listen 127.0.0.1:0";

/// What a page answers: status and body.
pub fn get(address: &str, page: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {page} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

fn events(address: &str) -> f64 {
    let (status, text) = get(address, "/metrics");
    assert_eq!(status, 200, "{text}");
    let good = text.lines().filter(|line| line.starts_with("adtide_events_total{topic=\"ad-events\""));
    good.filter(|line| line.contains("good"))
        .map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap())
        .sum()
}

/// The address that the log names.
fn address(running: &Running) -> String {
    let mut found = None;
    let named = eventually(|| {
        let log = running.stderr();
        found = log.lines().find_map(|line| Some(line.split_once("address=")?.1.trim().to_owned()));
        found.is_some()
    });
    assert!(named, "{}", running.stderr());
    found.unwrap()
}

#[test]
fn a_run_tells_its_metrics_and_that_it_is_well() {
    let place = Place::new();
    let mut running = place.start("live", LIVE);
    let address = address(&running);
    assert!(
        eventually(|| get(&address, "/readyz") == (200, "ready\n".to_owned())),
        "{:?}",
        get(&address, "/readyz")
    );
    assert_eq!(get(&address, "/healthz"), (200, "alive\n".to_owned()));
    let before = events(&address);
    assert!(eventually(|| events(&address) > before), "no more than {before} events");
    let text = get(&address, "/metrics").1;
    for sample in [
        "adtide_ready 1.0\n",
        "adtide_sink_commits_total{sink=\"sqlite\"} ",
        "adtide_sink_commit_seconds_bucket{le=\"+Inf\",sink=\"topics\"} ",
        "adtide_state_rows{statement=\"rtb_cache_updater\",what=\"ranked_campaigns\"} ",
        "adtide_frontier_lag_seconds 0.",
        "adtide_spend_total ",
        "process_resident_memory_bytes ",
    ] {
        assert!(text.contains(sample), "{sample} is not in {text}");
    }
    assert_eq!(get(&address, "/nothing").0, 404);
    running.end(Signal::SIGINT).succeeded();
}

#[test]
fn a_port_in_use_is_an_error_that_names_it() {
    let place = Place::with_traffic();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    place.run(&format!("--from in --data-dir out --listen {address}")).failed_saying(&[
        "key ops.listen",
        &address.to_string(),
        "name a free host:port",
    ]);
    place.run("--from in --listen nowhere").refused_saying(&["key ops.listen", "nowhere", "127.0.0.1:9464"]);
}

#[test]
fn a_log_of_json_is_nothing_but_json() {
    let place = Place::new();
    let mut running = place.start("live", &format!("{LIVE} --set log.format=json --log-level debug"));
    assert!(eventually(|| running.stderr().contains("\"committed\"")), "{}", running.stderr());
    let outcome = running.end(Signal::SIGINT).succeeded();
    let lines: Vec<Value> = outcome
        .stderr
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    for message in ["starting", "restart plan", "sink opened: it is new", "committed", "stopped"] {
        assert!(
            lines.iter().any(|line| line["message"] == message),
            "{message:?} is not in {}",
            outcome.stderr
        );
    }
    let committed = lines.iter().find(|line| line["message"] == "committed").unwrap();
    assert!(
        committed["sink"].is_string() && committed["epoch"].is_u64() && committed["rows"].is_u64(),
        "{committed}"
    );
    // What ends a run is JSON too.
    place.write("in/ad-events/first.ndjson", "{}\n");
    let outcome = place.run("--from in --data-dir other --set log.format=json").exited_with(1);
    let last: Value = serde_json::from_str(outcome.stderr.lines().last().unwrap()).unwrap();
    assert_eq!(last["level"], "ERROR", "{last}");
    assert!(last["message"].as_str().unwrap().contains("first.ndjson"), "{last}");
}
