//! `adtide config`, and where settings come from.

use std::os::unix::ffi::OsStrExt;

use crate::support::Place;

#[test]
fn a_good_file_is_right() {
    let place = Place::new();
    place.write("adtide.toml", "allowed_lateness = \"0s\"\n[ranking]\nlimit = 3\n");
    place.run("config check --config adtide.toml").succeeded().says(&["adtide.toml is right"]);
    place.run("config check").succeeded().says(&["the configuration is right"]);
}

#[test]
fn a_clock_may_be_ahead_by_no_more_than_what_lateness_makes_up_for() {
    let place = Place::new();
    let check = |lateness: &str, skew: &str| {
        place.write("adtide.toml", format!("allowed_lateness = '{lateness}'\nmax_future_skew = '{skew}'\n"));
        place.run("config check --config adtide.toml")
    };
    assert!(!check("10m", "10m").succeeded().stdout.contains("warning"));
    let words = ["key max_future_skew: 10m 1s", "allowed_lateness", "set it to 10m or less"];
    check("10m", "10m 1s").failed_saying(&words);
    place.run("--config adtide.toml").failed_saying(&words);
    check("0s", "5m").succeeded().says(&["warning: allowed_lateness is 0s", "5m ahead"]);
    assert!(!check("0s", "0s").succeeded().stdout.contains("warning"));
}

#[test]
fn a_bad_file_is_named_with_the_key_and_what_would_be_right() {
    let place = Place::new();
    let complaints: [(&str, &[&str]); 9] = [
        ("[ranking]\nlimt = 3", &["unknown key ranking.limt", "did you mean ranking.limit?"]),
        ("allowed_latenes = '1s'", &["did you mean allowed_lateness?"]),
        ("[ranking]\nlimit = 'many'", &["key ranking.limit", "integer", "100", "found a string"]),
        ("[ranking]\nlimit = -1", &["key ranking.limit"]),
        ("allowed_lateness = 'soon'", &["key allowed_lateness", "soon", "10m"]),
        ("[performance]\nemit = 'never'", &["key performance.emit", "on_update", "on_close"]),
        ("statements = ['rtb_cache']", &["key statements", "rtb_cache_updater"]),
        ("ranking = 3", &["ranking", "section"]),
        ("[log]\nformat = 'xml'", &["key log.format", "json"]),
    ];
    for (text, words) in complaints {
        place.write("bad.toml", text);
        let outcome = place.run("config check --config bad.toml").failed_saying(words);
        assert!(outcome.stderr.contains("bad.toml: "), "{}", outcome.stderr);
        // A run does not start with it either.
        place.run("--config bad.toml").failed_saying(words);
        assert!(!place.path("adtide-data").exists());
    }
    place.write("bad.toml", "[ranking\nlimit = 3");
    place.run("config check --config bad.toml").failed_saying(&["bad.toml", "line 1"]);
    place.run("config check --config nothing.toml").failed_saying(&["nothing.toml"]);
}

#[test]
fn the_command_line_wins_over_the_environment_and_that_over_the_file() {
    let place = Place::new();
    place.write("adtide.toml", "idle_timeout = '11s'\nepoch_interval = '11ms'\nallowed_lateness = '11m'\n");
    let environment =
        [("ADTIDE_IDLE_TIMEOUT", "22s"), ("ADTIDE_EPOCH_INTERVAL", "22ms"), ("ADTIDE_RANKING__LIMIT", "22")];
    let show = "config show --config adtide.toml --set idle_timeout=33s --set watermark.idle_advance=true";
    let outcome = place.run_with(show, &environment).succeeded();
    outcome.says(&["idle_timeout = \"33s\"", "epoch_interval = \"22ms\"", "allowed_lateness = \"11m\""]);
    outcome.says(&["limit = 22", "idle_advance = true", "max_future_skew = \"5m\""]);
}

#[test]
fn what_is_shown_is_itself_a_configuration() {
    let place = Place::new();
    let shown = place.run("config show --set ranking.limit=3").succeeded().stdout;
    place.write("shown.toml", &shown);
    assert_eq!(place.run("config show --config shown.toml").succeeded().stdout, shown);
}

#[test]
fn wrong_variables_and_arguments_are_named() {
    let place = Place::new();
    let check = |name, value| place.run_with("config check", &[(name, value)]);
    check("ADTIDE_RANKING__LIMIT", "many").failed_saying(&[
        "ADTIDE_RANKING__LIMIT",
        "ranking.limit",
        "integer",
    ]);
    check("ADTIDE_RANKING__LIMT", "3")
        .failed_saying(&["ADTIDE_RANKING__LIMT", "did you mean ranking.limit?"]);
    check("ADTIDE_HOME", "/somewhere").succeeded();
    let wrong = |arguments, words: &[&str]| drop(place.run(arguments).refused_saying(words));
    wrong("config check --set ranking.limt=3", &["command line", "did you mean ranking.limit?"]);
    wrong("--set lookback=3h", &["command line", "did you mean conversion.lookback?"]);
    wrong("--statements rtb_cache", &["command line", "statements", "rtb_cache_updater"]);
    wrong("--log-level loud", &["key log.level", "loud", "want info"]);
    place.run("config check --set log.level=info,adtide=debug").succeeded();
    wrong("--epoch-interval 0s", &["key epoch_interval", "at least 1ms"]);
    wrong("--allowed-lateness 10", &["key allowed_lateness", "no duration"]);
    wrong("-w 0", &["--threads", "from 1 on"]);
    wrong("-n 0", &["--processes", "from 1 on"]);
    wrong("-p 5 -n 2", &["-p 5 must be less than -n 2"]);
    // But not if the file is wrong.
    place.write("bad.toml", "allowed_lateness = 'soon'");
    place.run("--config bad.toml --epoch-interval 0s").failed_saying(&["bad.toml", "soon"]);
    let outcome = place.run("config check --set ranking.limit").exited_with(2);
    assert!(outcome.stderr.contains("KEY=VALUE"), "{}", outcome.stderr);
}

#[test]
fn variables_of_others_may_hold_anything() {
    let place = Place::new();
    let value = std::ffi::OsStr::from_bytes(b"\xff");
    for name in ["ANOTHER", "ADTIDE_RANKING__LIMIT"] {
        let mut command = place.command("config check");
        assert!(command.env(name, value).output().unwrap().status.success());
    }
}

#[test]
fn a_file_may_refer_to_the_environment() {
    let place = Place::new();
    place.write("adtide.toml", "[sink]\ndata_dir = '${RESULTS}/today'\n[source]\nfrom = '${TOPICS:-in}'\n");
    let show = "config show --config adtide.toml";
    let outcome = place.run_with(show, &[("RESULTS", "/results")]).succeeded();
    outcome.says(&["data_dir = \"/results/today\"", "from = \"in\""]);
    let outcome = place.run_with(show, &[("RESULTS", "/results"), ("TOPICS", "/topics")]).succeeded();
    outcome.says(&["from = \"/topics\""]);
    place.run(show).failed_saying(&[
        "adtide.toml",
        "sink.data_dir",
        "RESULTS is not set",
        "${RESULTS:-default}",
    ]);
}

#[test]
fn a_run_goes_by_its_file() {
    let place = Place::with_traffic();
    place.write("adtide.toml", "[source]\nfrom = 'in'\n[sink]\ndata_dir = 'out'\n[ranking]\nlimit = 1\n");
    place.run("run --config adtide.toml").succeeded();
    let lengths = "SELECT DISTINCT json_array_length(ranking_list) FROM rtb_ranking_cache";
    assert_eq!(place.rows(lengths), ["1"]);
    place.run("verify --from in --data-dir out").verified(&["rankings"]);
}
