//! Which errors of the servers are transient: the server is away, overloaded, restarting or failing over, and
//! the same request succeeds later. This is the only place that decides it, for sinks, sources and ledger
//! workers alike. All else that a server answers is permanent and ends the process or the worker, with
//! advice.

use rdkafka::error::RDKafkaErrorCode;
use redis::{ErrorKind, RedisError};
use tokio_postgres::error::SqlState;

/// Classes of SQLSTATE, by their first characters: connection trouble; transactions that were rolled back, by
/// a deadlock for instance; resources that ran out; a server that stops or starts; faults of its disk.
const POSTGRES_CLASSES: [&str; 5] = ["08", "40", "53", "57P0", "58"];

/// Whether an answer of PostgreSQL is transient.
pub(super) fn postgres(code: &SqlState) -> bool {
    let code = code.code();
    let single = [
        // A standby: the primary has moved, and a new connection finds it.
        SqlState::READ_ONLY_SQL_TRANSACTION,
        SqlState::LOCK_NOT_AVAILABLE,
        SqlState::QUERY_CANCELED,
        SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
    ];
    // transaction_timeout, which has no name yet.
    POSTGRES_CLASSES.iter().any(|class| code.starts_with(class))
        || code == "25P04"
        || single.iter().any(|transient| transient.code() == code)
}

/// Codes of Redis: it loads its data, is busy with a script, is out of memory or disk, or fails over.
const REDIS_CODES: [&str; 9] =
    ["LOADING", "BUSY", "OOM", "MISCONF", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "NOREPLICAS"];

/// Whether an error of Redis is transient. Within a script, servers before 7 answer `ERR Error running script
/// ...` and name the code in the text.
pub(super) fn redis(error: &RedisError) -> bool {
    match error.kind() {
        ErrorKind::Server(_) | ErrorKind::Extension => {
            let text = error.to_string();
            let mut words = text.split(|letter: char| !letter.is_ascii_alphanumeric());
            error.code().is_some_and(|code| REDIS_CODES.contains(&code))
                || words.any(|word| REDIS_CODES.contains(&word))
                || text.contains("max number of clients reached")
        }
        // It has not answered.
        ErrorKind::Io | ErrorKind::Parse => true,
        _ => false,
    }
}

/// Whether an error of librdkafka or the brokers is transient. Brokers that start, and clients that have lost
/// theirs, may not know topics that exist; whether a topic is missing is looked up at the start.
pub(super) fn kafka(code: RDKafkaErrorCode) -> bool {
    !matches!(
        code,
        RDKafkaErrorCode::Authentication
            | RDKafkaErrorCode::SaslAuthenticationFailed
            | RDKafkaErrorCode::UnsupportedSASLMechanism
            | RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::GroupAuthorizationFailed
            | RDKafkaErrorCode::ClusterAuthorizationFailed
            | RDKafkaErrorCode::TransactionalIdAuthorizationFailed
            | RDKafkaErrorCode::InvalidConfig
    )
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;
    use rdkafka::error::KafkaError;
    use redis::make_extension_error;

    use crate::connect::Fault;
    use crate::connect::kafka::KafkaConfig;
    use crate::connect::postgres::PostgresConfig;
    use crate::connect::redis::RedisConfig;

    use super::*;

    fn is_transient(fault: &Fault) -> bool {
        matches!(fault, Fault::Passing(_))
    }

    #[test]
    fn what_passes_in_postgres() {
        let fault =
            |code: &str| PostgresConfig::default().classify(Some(SqlState::from_code(code)), anyhow!("x"));
        let transient = [
            "08006", "25006", "25P03", "25P04", "40001", "40P01", "53100", "53300", "55P03", "57014",
            "57P01", "57P02", "57P03", "57P05", "58030",
        ];
        assert_eq!(transient.iter().find(|code| !is_transient(&fault(code))), None);
        let permanent = ["22021", "23505", "28P01", "3D000", "42501", "42703", "42P01", "54000", "XX001"];
        assert_eq!(permanent.iter().find(|code| is_transient(&fault(code))), None);
        assert!(is_transient(&PostgresConfig::default().classify(None, anyhow!("connection closed"))));
    }

    #[test]
    fn what_passes_in_redis() {
        let fault = |code: &str, text: &str| {
            RedisConfig::default().fault(make_extension_error(code.to_owned(), Some(text.to_owned())))
        };
        assert_eq!(REDIS_CODES.iter().find(|code| !is_transient(&fault(code, "said so"))), None);
        let old = "Error running script (call to f_1): @user_script:1: -MISCONF Redis is configured to save snapshots";
        assert!(is_transient(&fault("ERR", old)));
        let discarded =
            "Transaction discarded because of: READONLY You can't write against a read only replica.";
        assert!(is_transient(&fault("EXECABORT", discarded)));
        assert!(is_transient(&fault("ERR", "max number of clients reached")));
        let permanent =
            [("ERR", "unknown command"), ("NOPERM", "no right"), ("WRONGPASS", "no"), ("WRONGTYPE", "no")];
        assert_eq!(permanent.iter().find(|(code, text)| is_transient(&fault(code, text))), None);
    }

    #[test]
    fn what_passes_in_kafka() {
        use RDKafkaErrorCode as Code;
        let fault = |code: Code| KafkaConfig::default().fault(KafkaError::MessageConsumption(code));
        let transient = [
            Code::UnknownPartition,
            Code::UnknownTopic,
            Code::UnknownTopicOrPartition,
            Code::AllBrokersDown,
            Code::BrokerTransportFailure,
            Code::OperationTimedOut,
            Code::LeaderNotAvailable,
            Code::NotLeaderForPartition,
            // A broker that ends in the midst of a handshake.
            Code::SSL,
        ];
        assert_eq!(transient.iter().find(|code| !is_transient(&fault(**code))), None);
        let permanent = [Code::SaslAuthenticationFailed, Code::TopicAuthorizationFailed, Code::InvalidConfig];
        assert_eq!(permanent.iter().find(|code| is_transient(&fault(**code))), None);
    }
}
