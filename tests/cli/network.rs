//! Hosts as network namespaces, and one of them cut off. Needs the rights of root and `ip` of iproute2;
//! without, it says so and is skipped.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use nix::sys::signal::Signal;

use crate::support::{Place, Running, eventually};

/// Three hosts at one switch. Each is a namespace, and so is the switch, so nothing outside of them is
/// touched. They go away with this value.
struct Network {
    prefix: String,
}

const HOSTS: usize = 3;

impl Network {
    /// None, and a word about it, where that is not possible.
    fn build() -> Option<Network> {
        remove_leftovers();
        let network = Network { prefix: format!("adtide-{}", std::process::id()) };
        match network.try_build() {
            Ok(()) => Some(network),
            Err(reason) => {
                eprintln!("SKIPPED: network namespaces can't be made here: {reason}");
                None
            }
        }
    }

    fn try_build(&self) -> Result<(), String> {
        let switch = self.switch();
        ip(&format!("netns add {switch}"))?;
        ip(&format!("-n {switch} link add bridge type bridge"))?;
        ip(&format!("-n {switch} link set bridge up"))?;
        for host in 0..HOSTS {
            let name = self.host(host);
            ip(&format!("netns add {name}"))?;
            ip(&format!("link add cable netns {name} type veth peer name port-{host} netns {switch}"))?;
            ip(&format!("-n {name} address add {}/24 dev cable", address(host)))?;
            ip(&format!("-n {name} link set cable up"))?;
            ip(&format!("-n {name} link set lo up"))?;
            ip(&format!("-n {switch} link set port-{host} master bridge"))?;
            self.plug(host, "up")?;
        }
        Ok(())
    }

    fn switch(&self) -> String {
        format!("{}-switch", self.prefix)
    }

    fn host(&self, host: usize) -> String {
        format!("{}-{host}", self.prefix)
    }

    /// Puts the cable of a host in (`up`) or pulls it out (`down`), at the switch.
    fn plug(&self, host: usize, state: &str) -> Result<(), String> {
        ip(&format!("-n {} link set port-{host} {state}", self.switch()))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        remove(&self.prefix);
    }
}

fn address(host: usize) -> String {
    format!("10.83.7.{}", host + 1)
}

fn ip(arguments: &str) -> Result<(), String> {
    let output =
        Command::new("ip").args(arguments.split(' ')).output().map_err(|error| format!("ip: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if output.status.success() { Ok(()) } else { Err(format!("ip {arguments}: {said}")) }
}

/// The namespaces that tests have made.
fn namespaces() -> Vec<String> {
    let entries = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("adtide-")).collect()
}

fn remove(prefix: &str) {
    for name in namespaces().iter().filter(|name| name.starts_with(&format!("{prefix}-"))) {
        let _ = ip(&format!("netns delete {name}"));
    }
}

/// Those of tests that were killed.
fn remove_leftovers() {
    for name in namespaces() {
        if let Some(pid) = name.split('-').nth(1).filter(|pid| !Path::new("/proc").join(pid).exists()) {
            remove(&format!("adtide-{pid}"));
        }
    }
}

/// Takes the second half of each partition of a topic away; gives files and what is missing in them.
fn hold_back(place: &Place, topic: &str) -> Vec<(String, Vec<u8>)> {
    let halve = |entry: fs::DirEntry| {
        let (path, name) = (entry.path(), format!("in/{topic}/{}", entry.file_name().to_string_lossy()));
        let bytes = fs::read(&path).unwrap();
        let half = bytes[..bytes.len() / 2].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        fs::write(&path, &bytes[..half]).unwrap();
        (name, bytes[half..].to_vec())
    };
    fs::read_dir(place.path("in").join(topic)).unwrap().map(|entry| halve(entry.unwrap())).collect()
}

fn start(place: &Place, network: &Network, round: u32) -> Vec<Running> {
    let start = |host| {
        let arguments = format!("--from in --data-dir out --follow -n {HOSTS} -h hosts -p {host}");
        place.start_in_namespace(&network.host(host), &format!("host-{host}-{round}"), &arguments)
    };
    (0..HOSTS).map(start).collect()
}

#[test]
fn a_host_that_is_cut_off_ends_and_so_do_the_others_and_all_go_on_when_it_is_back() {
    let Some(network) = Network::build() else { return };
    let place = Place::with_traffic();
    let later: Vec<_> =
        ["ad-events", "conversion-events"].iter().flat_map(|topic| hold_back(&place, topic)).collect();
    place.write("hosts", (0..HOSTS).map(|host| format!("{}:2101\n", address(host))).collect::<String>());
    let rows = || place.rows("SELECT count(*) FROM ad_performance_metrics_realtime");
    let mut hosts = start(&place, &network, 1);
    assert!(eventually(|| rows() > vec!["0".to_owned()]), "{}", hosts[0].stderr());

    let cut = Instant::now();
    network.plug(2, "down").unwrap();
    let said: Vec<_> = hosts.iter_mut().map(|host| host.finish().exited_with(75).stderr).collect();
    let names = |said: &str, process| {
        said.contains(&format!("process {process} ({}:2101) has been silent for 5s", address(process)))
    };
    assert!(names(&said[0], 2) && names(&said[1], 2), "{said:?}");
    assert!(names(&said[2], 0) || names(&said[2], 1), "{said:?}");
    eprintln!("all three have ended {:.1?} after one of them was cut off", cut.elapsed());

    network.plug(2, "up").unwrap();
    let before = rows();
    let mut hosts = start(&place, &network, 2);
    later.iter().for_each(|(file, records)| place.append(file, records));
    assert!(eventually(|| rows() != before), "{}", hosts[0].stderr());
    hosts[1].signal(Signal::SIGTERM);
    hosts.iter_mut().for_each(|host| drop(host.finish().succeeded()));
    place.run("--from in --data-dir out --resume --until-end").succeeded();
    place.run("verify --from in --data-dir out").verified(&["performance", "attributions", "refunds"]);
}
