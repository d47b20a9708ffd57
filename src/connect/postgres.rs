//! PostgreSQL.

mod client;

use std::time::Duration;

use anyhow::{Context, anyhow};
use postgres_native_tls::MakeTlsConnector;
use tokio_postgres::config::SslMode;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Config, NoTls};

pub use client::{Client, Transaction};

use super::{Fault, Url, transient};

/// How PostgreSQL is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostgresConfig {
    /// `postgres://user:password@host:port/database?sslmode=...`, as libpq has it.
    pub url: Url,
    /// How long to try to connect at the start.
    pub connect_timeout: Duration,
    /// How long an answer to one statement may take.
    pub statement_timeout: Duration,
}

impl Default for PostgresConfig {
    fn default() -> Self {
        let (connect_timeout, statement_timeout) = (Duration::from_secs(30), Duration::from_secs(60));
        PostgresConfig { url: Url::default(), connect_timeout, statement_timeout }
    }
}

/// How long one attempt to connect may take: TCP, TLS and the login together.
const CONNECTING: Duration = Duration::from_secs(5);

impl PostgresConfig {
    /// Opens a connection, once, within a few seconds. TLS as `sslmode` says: disable, prefer (the default)
    /// or require; the server's certificate is checked against the system's authorities.
    ///
    /// # Errors
    /// Passing if the server can't be reached now, lasting if it refuses.
    pub fn connect(&self, application: &str) -> Result<Client, Fault> {
        // What can't be parsed may be a password at the wrong place, so the parser's own words are not shown.
        let config = self.url.expose().parse::<Config>();
        let mut config = config.map_err(|_| Fault::Lasting(anyhow!("key postgres.url is no address")))?;
        config.application_name(application);
        config.connect_timeout(CONNECTING);
        // Of a host that has vanished; one that is frozen meets the deadlines of `client`.
        config.keepalives_idle(Duration::from_secs(10));
        config.keepalives_interval(Duration::from_secs(5));
        config.keepalives_retries(3);
        config.tcp_user_timeout(Duration::from_secs(30));
        let (place, patience) = (format!("PostgreSQL at {}", self.url), self.statement_timeout);
        let connected = if config.get_ssl_mode() == SslMode::Disable {
            Client::connect(&config, NoTls, place, CONNECTING, patience)
        } else {
            let connector =
                native_tls::TlsConnector::new().context("can't set up TLS").map_err(Fault::Lasting)?;
            Client::connect(&config, MakeTlsConnector::new(connector), place, CONNECTING, patience)
        };
        match connected.context("can't start a runtime").map_err(Fault::Lasting)? {
            Some(Ok(client)) => Ok(client),
            Some(Err(error)) => Err(self.unconnected(error)),
            None => Err(Fault::Passing(anyhow!(
                "PostgreSQL at {} accepts connections, but does not answer within {CONNECTING:?}",
                self.url
            ))),
        }
    }

    /// What the error of an attempt to connect means.
    fn unconnected(&self, error: tokio_postgres::Error) -> Fault {
        let tls = std::iter::successors(std::error::Error::source(&error), |error| error.source())
            .any(|cause| cause.is::<native_tls::Error>());
        if tls || error.to_string().contains("TLS") {
            return Fault::Passing(anyhow!(error).context(format!(
                "PostgreSQL at {}: no connection by TLS; check sslmode in postgres.url, and the server's certificate",
                self.url
            )));
        }
        self.fault(error).unconnected("PostgreSQL", "postgres.url")
    }

    /// What an error means, by `transient`.
    pub fn fault(&self, error: tokio_postgres::Error) -> Fault {
        self.classify(error.code().cloned(), anyhow!(error))
    }

    /// The same for an error of which the server's code is known; None if the server said nothing.
    pub(crate) fn classify(&self, code: Option<SqlState>, error: anyhow::Error) -> Fault {
        let place = format!("PostgreSQL at {}", self.url);
        let Some(code) = code else {
            // No word from the server: the connection broke, or there never was one.
            return Fault::Passing(error.context(place));
        };
        if transient::postgres(&code) {
            return Fault::Passing(error.context(place));
        }
        let advice = match code {
            SqlState::INVALID_PASSWORD | SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
                "; check the user and the password in postgres.url"
            }
            SqlState::INVALID_CATALOG_NAME => "; create the database, or name another in postgres.url",
            SqlState::INSUFFICIENT_PRIVILEGE => "; give this user the right to it",
            SqlState::UNDEFINED_TABLE | SqlState::UNDEFINED_COLUMN => "; run `adtide migrate`",
            _ => "",
        };
        Fault::Lasting(error.context(format!("{place}{advice}")))
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_server_that_accepts_and_never_answers_is_away() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        for mode in ["disable", "prefer", "require"] {
            let url = Url::new(format!("postgres://me:secret@{address}/db?sslmode={mode}"));
            let started = Instant::now();
            let fault = PostgresConfig { url, ..PostgresConfig::default() }.connect("test").err().unwrap();
            assert!(started.elapsed() < Duration::from_secs(30));
            assert!(matches!(fault, Fault::Passing(_)), "{fault:?}");
            let said = format!("{:#}", fault.into_error());
            assert!(said.contains("does not answer within 5s") && !said.contains("secret"), "{said}");
        }
    }
}
