//! What the binary says about itself.

use adtide::cli::Cli;
use clap::CommandFactory;

use crate::support::Place;

/// Every command: its words, and its flags.
fn commands() -> Vec<(String, Vec<String>)> {
    fn add(command: &clap::Command, words: &str, all: &mut Vec<(String, Vec<String>)>) {
        let flags = command
            .get_arguments()
            .filter_map(|argument| argument.get_long().map(|long| format!("--{long}")));
        all.push((words.to_owned(), flags.collect()));
        for inner in command.get_subcommands() {
            add(inner, &format!("{words} {}", inner.get_name()), all);
        }
    }
    let mut all = Vec::new();
    add(&Cli::command(), "", &mut all);
    all
}

#[test]
fn every_command_lists_every_flag() {
    let place = Place::new();
    let commands = commands();
    assert!(commands.len() >= 7, "{commands:?}");
    for (words, flags) in commands {
        let outcome = place.run(&format!("{words} --help")).succeeded();
        for flag in flags.iter().map(String::as_str).chain(["--help", "Usage: adtide"]) {
            outcome.says(&[flag]);
        }
    }
}

#[test]
fn the_hostfile_has_timelys_letter() {
    Place::new().run("run --help").succeeded().says(&["-h, --hostfile", "-w, --threads", "-n, ", "-p, "]);
}

#[test]
fn the_version_is_that_of_the_package() {
    for flag in ["--version", "-V"] {
        let outcome = Place::new().run(flag).succeeded();
        assert_eq!(outcome.stdout, format!("adtide {}\n", env!("CARGO_PKG_VERSION")));
    }
}

#[test]
fn unknown_flags_and_commands_are_refused_with_the_nearest_one() {
    let place = Place::new();
    let outcome = place.run("--from in --folow").exited_with(2);
    assert!(outcome.stderr.contains("--follow"), "{}", outcome.stderr);
    let outcome = place.run("verfy").exited_with(2);
    assert!(outcome.stderr.contains("verify"), "{}", outcome.stderr);
}

#[test]
fn the_letter_of_the_hostfile_shows_the_way_to_help() {
    let place = Place::new();
    for words in ["-h", "run -h", "verify -h"] {
        let outcome = place.run(words).exited_with(2);
        assert!(
            outcome.stderr.contains("hostfile") && outcome.stderr.contains("use --help"),
            "{}",
            outcome.stderr
        );
    }
}

#[test]
fn a_negative_duration_is_refused_as_a_duration() {
    let outcome = Place::new().run("--from in --allowed-lateness -5m");
    assert!(
        !outcome.status.success() && outcome.stderr.contains("key allowed_lateness"),
        "{}",
        outcome.stderr
    );
    assert!(outcome.stderr.contains("-5m") && outcome.stderr.contains("such as"), "{}", outcome.stderr);
}
