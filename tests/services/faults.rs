//! What is wrong is said, with what to do about it; and records that can't be read stop nothing.

use std::collections::BTreeMap;

use adtide_dataflows::model::Topic;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use crate::deployment::{DEADLINE, Deployment};
use crate::end_to_end::{committed, deploy};

/// What a password must not be seen as.
const SECRET: &str = "not-the-password";

/// A port at which nobody listens.
const NOBODY: &str = "127.0.0.1:1";

/// Each of the commands must fail and say all of it, within a second or a little more.
fn fails(deployment: &Deployment, commands: &[&str], settings: &[&str], words: &[&str]) {
    for command in commands {
        let mut arguments = (*command).to_owned();
        for setting in settings.iter().chain(&QUICK) {
            arguments += &format!(" --set {setting}");
        }
        let outcome = deployment.run(&arguments).failed_saying(words);
        assert!(!outcome.stderr.contains(SECRET) && !outcome.stdout.contains(SECRET), "{}", outcome.stderr);
        assert!(!outcome.stderr.contains("panicked"), "{}", outcome.stderr);
    }
}

const QUICK: [&str; 3] =
    ["postgres.connect_timeout=1s", "redis.connect_timeout=1s", "kafka.connect_timeout=1s"];

const RUN: [&str; 2] = ["run -w 2", "run --until-end"];

#[test]
fn what_is_wrong_with_a_server_is_said_with_what_to_do() {
    let Some((_alone, deployment)) = deploy("") else { return };
    // The address of the config, with another password or another place.
    let other = |key: &str, is_password: bool| {
        let config = std::fs::read_to_string(deployment.path("adtide.toml")).unwrap();
        let url = config
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(" = '")?.strip_suffix('\''))
            .unwrap();
        let (user, place) = url.rsplit_once('@').unwrap();
        let (user, _) = user.rsplit_once(':').unwrap();
        let (_, database) = place.rsplit_once('/').unwrap();
        let place = if is_password { place.to_owned() } else { format!("{NOBODY}/{database}") };
        format!("{key}={user}:{SECRET}@{place}")
    };
    let [postgres_password, nowhere_postgres] =
        [true, false].map(|is_password| other("postgres.url", is_password));
    let [redis_password, nowhere_redis] = [true, false].map(|is_password| other("redis.url", is_password));
    let tables = ["run -w 2", "run --until-end", "migrate", "init-demo", "verify"];

    fails(
        &deployment,
        &tables,
        &[&postgres_password],
        &["PostgreSQL at ", "check the user and the password in postgres.url"],
    );
    fails(&deployment, &tables, &[&nowhere_postgres], &["PostgreSQL at ", NOBODY, "postgres.url"]);
    fails(
        &deployment,
        &["worker balance"],
        &[&postgres_password],
        &["check the user and the password in postgres.url"],
    );
    fails(
        &deployment,
        &RUN,
        &[&redis_password],
        &["Redis at ", "check the user and the password in redis.url"],
    );
    fails(&deployment, &RUN, &[&nowhere_redis], &["Redis at ", NOBODY, "redis.url"]);
    fails(
        &deployment,
        &["worker budget"],
        &[&redis_password],
        &["check the user and the password in redis.url"],
    );
    let brokers = format!("kafka.brokers={NOBODY}");
    let commands =
        ["run -w 2", "run --until-end", "topics create", "topics list", "generate --to-kafka", "verify"];
    fails(&deployment, &commands, &[&brokers], &["Kafka at ", NOBODY, "kafka.brokers"]);
    let tls = "kafka.properties.security.protocol=ssl";
    fails(&deployment, &["run -w 2", "topics list"], &[tls], &["SSL", "ssl.* under kafka.properties"]);
    let sasl = [
        "kafka.properties.security.protocol=sasl_plaintext",
        "kafka.properties.sasl.mechanism=PLAIN",
        "kafka.properties.sasl.username=me",
        "kafka.properties.sasl.password=wrong",
    ];
    fails(&deployment, &["run -w 2"], &sasl, &["SASL", "sasl.* and ssl.* under kafka.properties"]);
    let missing = ["nothing-ad-events", "`adtide topics create`"];
    fails(
        &deployment,
        &["run -w 2", "run --until-end", "generate --to-kafka"],
        &["kafka.prefix=nothing-"],
        &missing,
    );
}

#[test]
fn a_topic_that_is_not_there_is_named() {
    let Some((_alone, deployment)) = deploy("") else { return };
    let admin: AdminClient<DefaultClientContext> = client(&deployment).create().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for topic in ["product-meta", "dead-letter", "adtide-progress"] {
        let name = format!("{}-{topic}", deployment.name);
        let deleted = runtime.block_on(admin.delete_topics(&[&name], &AdminOptions::new())).unwrap();
        deleted.into_iter().for_each(|deleted| assert_eq!(deleted, Ok(name.clone())));
        fails(&deployment, &RUN, &[], &[&name, "`adtide topics create`"]);
        deployment.run("topics create").succeeded();
    }
    deployment.run("run --until-end").succeeded();
}

fn client(deployment: &Deployment) -> ClientConfig {
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", deployment.brokers());
    client
}

/// Values that no topic may have.
fn poison(topic: Topic) -> Vec<Vec<u8>> {
    let anywhere = [
        r"",
        r"not JSON",
        r"null",
        r"[]",
        r"17",
        r"{}",
        r#"{"event_type":"#,
        r#"{"event_type":17,"timestamp_field":"2026-01-05 09:00:00","campaign_id":1}"#,
        r#"{"event_type":"SOMETHING","timestamp_field":"2026-01-05 09:00:00","campaign_id":1}"#,
        r#"{"event_type":"CLICK","timestamp_field":"2026-01-05 09:00:00","campaign_id":"x","product_id":"y"}"#,
        r#"{"event_type":"CLICK","timestamp_field":"yesterday","campaign_id":1}"#,
    ];
    let here: &[&str] = match topic {
        Topic::AdEvents => &[
            r#"{"event_type":"CLICK","timestamp_field":"2026-01-05 09:00:00","campaign_id":1,"actual_price":-0.5}"#,
            r#"{"event_type":"CLICK","timestamp_field":"2026-01-05 09:00:00","campaign_id":1,"actual_price":0.505}"#,
            r#"{"event_type":"CLICK","timestamp_field":"2096-01-05 09:00:00","campaign_id":1,"actual_price":0.5}"#,
            r#"{"event_type":"CLICK","timestamp_field":"2026-01-05 09:00:00","campaign_id":99999999999999999999}"#,
        ],
        Topic::ProductMetrics => {
            &[r#"{"product_id":1,"ctr":"often","cvr":0.1}"#, r#"{"product_id":1,"ctr":-1,"cvr":0.1}"#]
        }
        Topic::ProductMeta => {
            &[r#"{"product_id":1,"product_price":-1}"#, r#"{"product_id":1,"product_price":{}}"#]
        }
        Topic::CampaignEvents | Topic::ConversionEvents => &[],
    };
    let mut poison: Vec<Vec<u8>> = anywhere.iter().chain(here).map(|text| text.as_bytes().to_vec()).collect();
    poison.push(vec![0xff, 0xfe, 0, b'{']);
    poison.push(format!(r#"{{"campaign_id":"{}""#, "long ".repeat(100_000)).into_bytes());
    poison.push("[".repeat(100_000).into_bytes());
    poison
}

#[test]
fn records_that_cannot_be_read_stop_nothing() {
    let Some((_alone, deployment)) = deploy("") else { return };
    deployment.run("generate --to-kafka --ad-events 10000").succeeded();
    let producer: BaseProducer = client(&deployment).create().unwrap();
    let send = |topic: &str, value: &[u8]| {
        let name = format!("{}-{topic}", deployment.name);
        let sent =
            producer.send(BaseRecord::<str, [u8]>::to(&name).payload(value).key("poison").partition(1));
        sent.map_err(|(error, _)| error).unwrap();
    };
    let mut expected = BTreeMap::new();
    for topic in Topic::ALL {
        let poison = poison(topic);
        poison.iter().for_each(|value| send(topic.name(), value));
        expected.insert(topic.name().to_owned(), poison.len());
    }
    producer.flush(DEADLINE).unwrap();
    deployment.run("generate --to-kafka --ad-events 10000 --seed 2 --set generator.malformed=0").succeeded();
    deployment.run("run -w 2 --until-end").succeeded();
    deployment.run("worker all --until-end").succeeded();
    deployment.verified();
    assert_eq!(dead(&deployment), expected);

    // In an output topic only workers meet them.
    for value in poison(Topic::AdEvents) {
        send("compensation-events", &value);
    }
    producer.flush(DEADLINE).unwrap();
    let credits = "SELECT count(*) FROM balance_ledger WHERE entry_type = 'CREDIT'";
    let count = || deployment.postgres().query_one(credits, &[]).unwrap().get::<_, i64>(0);
    let credited = count();
    deployment.run("worker all --until-end").succeeded();
    assert_eq!(count(), credited);
}

/// How many of the run's dead letters are poison, by topic.
fn dead(deployment: &Deployment) -> BTreeMap<String, usize> {
    let mut dead = BTreeMap::new();
    for letter in committed(deployment, "dead-letter") {
        let field = |name: &str| letter[name].as_str().unwrap_or_default().to_owned();
        assert!(!field("reason").is_empty(), "{letter}");
        // A ledger worker that reads one writes a letter of its own.
        if letter["key"] == "poison" && letter["worker"].is_null() {
            *dead.entry(field("topic")).or_default() += 1;
        }
    }
    dead
}
