use std::io::Write;

use adtide_dataflows::{MetricsSource, Settings};

use super::*;
use crate::ledger::Backend;
use crate::source::generator::GeneratorConfig;

fn load(text: &str) -> anyhow::Result<Config> {
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(text.as_bytes())?;
    Config::load(Some(file.path()), &[])
}

fn complaint(text: &str) -> String {
    match load(text) {
        Ok(_) => panic!("{text:?} was accepted"),
        Err(error) => format!("{error:#}"),
    }
}

fn set(key: &str, value: &str) -> anyhow::Result<Config> {
    Config::load(None, &[(key.to_owned(), value.to_owned())])
}

fn embedded() -> Backend {
    Backend::Embedded { from: PathBuf::new(), data_dir: PathBuf::new() }
}

#[test]
fn the_default_file_holds_the_defaults_of_the_statements_and_of_the_generator() {
    let config = Config::load(None, &[]).unwrap();
    assert_eq!(config.settings(), Settings::default());
    assert_eq!(config.generator(), GeneratorConfig::default());
}

#[test]
fn a_file_changes_only_the_keys_it_names() {
    let config = load("allowed_lateness = \"0s\"\n[rtb]\nproduct_metrics = \"live\"").unwrap();
    let expected = Settings {
        allowed_lateness: 0,
        product_metrics: MetricsSource::Live { windows: 12 },
        ..Settings::default()
    };
    assert_eq!(config.settings(), expected);
}

#[test]
fn the_command_line_reaches_every_key() {
    assert_eq!(set("ranking.limit", "0").unwrap().settings().ranking_limit, 0);
    assert_eq!(set("allowed_lateness", "100h").unwrap().settings().allowed_lateness, 360_000_000);
    assert_eq!(set("performance.emit", "on_close").unwrap().settings().emit, Emit::OnClose);
    assert_eq!(set("statements", "conversion_matcher").unwrap().settings().statements.len(), 1);
    assert_eq!(set("ids.unknown", "-1, Test").unwrap().settings().unknown_ids.texts(), ["-1", "test"]);
    assert_eq!(load("ids.unknown = []").unwrap().worker_at(embedded()).unknown_ids.texts(), [""; 0]);
    assert!(set("watermark.idle_advance", "true").is_ok());
    assert!(set("generator.malformed", "0").is_ok());
}

#[test]
fn unknown_keys_are_rejected_with_the_nearest_right_name() {
    let text = complaint("[watermark]\nperformence = \"1s\"");
    assert!(
        text.contains("unknown key watermark.performence; did you mean watermark.performance?"),
        "{text}"
    );
    assert!(complaint("alowed_lateness = \"1s\"").contains("did you mean allowed_lateness?"));
    assert!(complaint("lookback = \"1s\"").contains("did you mean conversion.lookback?"));
}

#[test]
fn wrong_values_are_rejected_with_file_key_and_what_is_right() {
    let text = complaint("[ranking]\nlimit = \"many\"");
    assert!(text.contains("key ranking.limit: want an integer, as in 100"), "{text}");
    let text = complaint("allowed_lateness = \"soon\"");
    assert!(text.contains("key allowed_lateness") && text.contains("such as \"100ms\""), "{text}");
    let text = complaint("[performance]\nemit = \"never\"");
    assert!(text.contains("key performance.emit") && text.contains("on_close"), "{text}");
    assert!(complaint("[ranking]\nlimit = -1").contains("key ranking.limit"));
    assert!(complaint("ranking = 3").contains("ranking is a section"));
    assert!(
        complaint("statements = [\"rtb_cache_updater\"]\nrtb.product_metrics = \"live\"")
            .contains("performance_aggregator")
    );
    assert!(complaint("epoch_interval = \"0s\"").contains("key epoch_interval"));
    assert!(complaint("redis.ttl = \"4s\"").contains("key redis.ttl must be 0s or at least 5s"));
}

#[test]
fn environment_variables_are_filled_in() {
    let config = load("[sink]\ndata_dir = \"${ADTIDE_TEST_NOT_SET:-/tmp}/results\"").unwrap();
    assert_eq!(config.data_dir(), Path::new("/tmp/results"));
    let text = complaint("[sink]\ndata_dir = \"${ADTIDE_TEST_NOT_SET}\"");
    assert!(
        text.contains("key sink.data_dir: the environment variable ADTIDE_TEST_NOT_SET is not set"),
        "{text}"
    );
}

#[test]
fn secrets_are_in_no_message_and_not_in_what_is_shown() {
    let texts = [
        "[kafka.properties]\n\"sasl.password\" = \"geheim",
        "[kafka.properties]\n\"sasl.password\" = geheim",
        "[postgres]\nurl = postgres://me:geheim@host/db",
        "[postgres]\nurl = [\"postgres://me:geheim@host/db\"]",
        "[redis]\nurl = { password = \"geheim\" }",
    ];
    for text in texts {
        let said = complaint(text);
        assert!(!said.contains("geheim"), "{said}");
    }
    assert!(complaint(texts[0]).contains("line 2, column "), "{}", complaint(texts[0]));

    let mut file = tempfile::NamedTempFile::new().unwrap();
    let text = "postgres.url = 'host=h user=me password=geheim'\nredis.url = 'redis://:geheim@host/0'\n\
                checkpoint.url = 's3://key:geheim@bucket'\n[kafka.properties]\n'sasl.oauthbearer.config' = 'secret=geheim'\n\
                'ssl.key.pem' = 'geheim'\n'Sasl.PassWord' = 'geheim'\n'client.rack' = 'r1'";
    file.write_all(text.as_bytes()).unwrap();
    let shown = Config::show(Some(file.path()), &[]).unwrap();
    assert!(!shown.contains("geheim"), "{shown}");
    assert!(shown.contains("\"r1\"") && shown.contains("password=***"), "{shown}");
}
