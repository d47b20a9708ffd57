//! Redis.

use std::time::Duration;

use anyhow::anyhow;
use redis::{Client, Connection, ErrorKind, RedisError};

use super::{Fault, Url, transient};

/// How Redis is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RedisConfig {
    /// `redis://user:password@host:port/database`, or `rediss://` with TLS.
    pub url: Url,
    /// A ranking is forgotten that was not refreshed for so long; zero for never.
    pub ttl: Duration,
    /// How long to try to connect at the start.
    pub connect_timeout: Duration,
}

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(10);

impl RedisConfig {
    /// Opens a connection, once.
    ///
    /// # Errors
    /// Passing if the server can't be reached now, lasting if it refuses.
    pub fn connect(&self) -> Result<Connection, Fault> {
        let open = || -> Result<Connection, RedisError> {
            let connection = Client::open(self.url.expose())?.get_connection_with_timeout(Duration::from_secs(5))?;
            connection.set_read_timeout(Some(ANSWER))?;
            connection.set_write_timeout(Some(ANSWER))?;
            Ok(connection)
        };
        open().map_err(|error| self.fault(error).unconnected("Redis", "redis.url"))
    }

    /// What an error means, by [`transient`].
    pub fn fault(&self, error: RedisError) -> Fault {
        let place = format!("Redis at {}", self.url);
        if transient::redis(&error) {
            return Fault::Passing(anyhow!(error).context(place));
        }
        let advice = match (error.kind(), error.code()) {
            (ErrorKind::AuthenticationFailed, _) | (_, Some("WRONGPASS" | "NOAUTH")) => {
                "; check the user and the password in redis.url"
            }
            // Selecting a database is refused without the code.
            _ if error.to_string().contains("Authentication required") => {
                "; check the user and the password in redis.url"
            }
            (ErrorKind::InvalidClientConfig, _) => "; key redis.url is no address of Redis",
            (_, Some("NOPERM")) => "; give this user the right to it",
            (_, Some("WRONGTYPE")) => {
                "; a key of adtide is in use by somebody else; name another database in redis.url"
            }
            _ => "",
        };
        Fault::Lasting(anyhow!(error).context(format!("{place}{advice}")))
    }
}
