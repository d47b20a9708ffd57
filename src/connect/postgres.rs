//! PostgreSQL.

use std::time::Duration;

use anyhow::{Context, anyhow};
use postgres::config::SslMode;
use postgres::error::SqlState;
use postgres::{Client, Config, NoTls};
use postgres_native_tls::MakeTlsConnector;

use super::{Fault, Url, transient};

/// How PostgreSQL is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PostgresConfig {
    /// `postgres://user:password@host:port/database?sslmode=...`, as libpq has it.
    pub url: Url,
    /// How long to try to connect at the start.
    pub connect_timeout: Duration,
}

impl PostgresConfig {
    /// Opens a connection, once. TLS as `sslmode` says: disable, prefer (the default) or require; the server's
    /// certificate is checked against the system's authorities.
    ///
    /// # Errors
    /// Passing if the server can't be reached now, lasting if it refuses.
    pub fn connect(&self, application: &str) -> Result<Client, Fault> {
        let mut config: Config =
            self.url.expose().parse().context("key postgres.url is no address").map_err(Fault::Lasting)?;
        config.application_name(application);
        config.connect_timeout(Duration::from_secs(5));
        config.keepalives_idle(Duration::from_secs(10));
        // Without it a server that vanished in the middle of a statement would be waited for for hours.
        config.tcp_user_timeout(Duration::from_secs(30));
        let connected = if config.get_ssl_mode() == SslMode::Disable {
            config.connect(NoTls)
        } else {
            let connector = native_tls::TlsConnector::new().context("can't set up TLS").map_err(Fault::Lasting)?;
            config.connect(MakeTlsConnector::new(connector))
        };
        connected.map_err(|error| self.fault(error).unconnected("PostgreSQL", "postgres.url"))
    }

    /// What an error means, by [`transient`].
    pub fn fault(&self, error: postgres::Error) -> Fault {
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
