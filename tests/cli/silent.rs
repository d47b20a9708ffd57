//! What neither answers nor goes away: servers that accept connections and say nothing, strangers that
//! connect and send nothing, and a reader of the log that has gone away.

use std::io::{BufRead, BufReader, Read};
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{Place, eventually};

/// A port at which the system accepts connections, and nobody ever answers.
fn silent() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

/// Settings under which everything is at this address.
fn everything_at(address: &str) -> String {
    format!(
        "--set source.kind=kafka --set sink.kind=services --set kafka.brokers={address} \
         --set postgres.url=postgres://me:geheim@{address}/db --set redis.url=rediss://:geheim@{address}/0"
    )
}

#[test]
fn a_start_against_servers_that_never_answer_ends_when_it_is_told_to() {
    let (_listener, address) = silent();
    let place = Place::new();
    let settings = everything_at(&address);
    for command in ["run -w 2", "worker balance", "worker all"] {
        let mut running = place.start("start", &format!("{command} {settings}"));
        assert!(eventually(|| running.stderr().contains("start")), "{}", running.stderr());
        // In the midst of an attempt.
        std::thread::sleep(Duration::from_millis(1500));
        let stopped = Instant::now();
        let outcome = running.end(Signal::SIGTERM);
        assert!(stopped.elapsed() < Duration::from_secs(60), "{command}: {:?}", stopped.elapsed());
        assert!(!outcome.stderr.contains("geheim"), "{}", outcome.stderr);
        outcome.succeeded();
    }
}

#[test]
fn a_start_against_servers_that_never_answer_ends_by_its_deadline() {
    let (_listener, address) = silent();
    let place = Place::new();
    let settings = everything_at(&address);
    let timeout =
        "--set kafka.connect_timeout=2s --set postgres.connect_timeout=2s --set redis.connect_timeout=2s";
    for command in ["run", "migrate", "init-demo"] {
        let started = Instant::now();
        place.run(&format!("{command} {settings} {timeout}")).failed_saying(&[&address]);
        assert!(started.elapsed() < Duration::from_secs(60), "{command}: {:?}", started.elapsed());
    }
}

#[test]
fn strangers_that_connect_and_send_nothing_are_shown_out() {
    let place = Place::new();
    let mut running =
        place.start("live", "--live --data-dir out --set generator.ad_events=20000 --listen 127.0.0.1:0");
    let mut address = None;
    let named = eventually(|| {
        let log = running.stderr();
        address = log.lines().find_map(|line| Some(line.split_once("address=")?.1.trim().to_owned()));
        address.is_some()
    });
    assert!(named, "{}", running.stderr());
    let address = address.unwrap();
    let strangers: Vec<_> = (0..400).map(|_| TcpStream::connect(&address).unwrap()).collect();
    // Who comes next is answered all the same, at once.
    let ready = || crate::ops::get(&address, "/healthz").0;
    assert_eq!(ready(), 200);
    let files = || std::fs::read_dir(format!("/proc/{}/fd", running.pid())).map_or(0, Iterator::count);
    assert!(eventually(|| files() < 200), "{} files are open", files());
    // The first was put out by those that came later, the last by its own silence.
    for mut stranger in [&strangers[0], &strangers[399]] {
        stranger.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let read = stranger.read(&mut [0; 256]);
        assert!(
            !read.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock),
            "it is still connected"
        );
    }
    assert_eq!(ready(), 200);
    running.end(Signal::SIGTERM).succeeded();
}

#[test]
fn a_reader_of_the_log_may_go_away() {
    let place = Place::new();
    for format in ["text", "json"] {
        let live = "--live --data-dir out --set generator.ad_events=20000 --set log.level=debug -w 2";
        let mut command = place.command(&format!("{live} --set log.format={format}"));
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        log.read_line(&mut line).unwrap();
        assert!(!line.is_empty());
        drop(log);
        drop(child.stdout.take());
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!(child.try_wait().unwrap(), None, "it has ended with the reader of its log");
        kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
        let mut status = None;
        assert!(eventually(|| {
            status = child.try_wait().unwrap();
            status.is_some()
        }));
        assert!(status.unwrap().success(), "{}", status.unwrap());
        std::fs::remove_dir_all(place.path("out")).unwrap();
    }
}
