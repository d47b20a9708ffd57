//! Redis.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread::Builder;
use std::time::Duration;

use anyhow::{Context, anyhow};
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

/// How long one attempt to connect may take: TCP, TLS and the login together.
const CONNECTING: Duration = Duration::from_secs(5);

/// How many attempts may be under way whose time is up: a handshake by TLS with a server that never answers
/// ends only when that one closes the connection.
const STUCK: usize = 8;

static UNDER_WAY: AtomicUsize = AtomicUsize::new(0);

impl RedisConfig {
    /// Opens a connection, once, within a few seconds.
    ///
    /// # Errors
    /// Passing if the server can't be reached now, lasting if it refuses.
    pub fn connect(&self) -> Result<Connection, Fault> {
        let client = Client::open(self.url.expose()).map_err(|error| self.fault(error))?;
        if UNDER_WAY.fetch_add(1, Ordering::Relaxed) >= STUCK {
            UNDER_WAY.fetch_sub(1, Ordering::Relaxed);
            return Err(self.silent());
        }
        let open = move || -> Result<Connection, RedisError> {
            let connection = client.get_connection_with_timeout(CONNECTING)?;
            connection.set_read_timeout(Some(ANSWER))?;
            connection.set_write_timeout(Some(ANSWER))?;
            Ok(connection)
        };
        // On a thread of its own, as the library's handshake by TLS has no deadline.
        let (send, opened) = sync_channel(1);
        let attempt = move || {
            let opened = open();
            UNDER_WAY.fetch_sub(1, Ordering::Relaxed);
            let _ = send.send(opened);
        };
        let thread = Builder::new().name("redis-connect".to_owned()).spawn(attempt);
        thread.context("can't start a thread").map_err(Fault::Lasting)?;
        match opened.recv_timeout(CONNECTING + Duration::from_millis(500)) {
            Ok(opened) => opened.map_err(|error| self.unconnected(error)),
            Err(_) => Err(self.silent()),
        }
    }

    fn silent(&self) -> Fault {
        let tls = if self.url.expose().starts_with("rediss") { "; is that a port for TLS?" } else { "" };
        Fault::Passing(anyhow!(
            "Redis at {} accepts connections, but does not answer within {CONNECTING:?}{tls}",
            self.url
        ))
    }

    /// What the error of an attempt to connect means.
    fn unconnected(&self, error: RedisError) -> Fault {
        let said = error.to_string();
        if ["SSL", "TLS", "certificate"].iter().any(|word| said.contains(word)) {
            let context =
                format!("Redis at {}: no connection by TLS; check its certificate and redis.url", self.url);
            return Fault::Passing(anyhow!(error).context(context));
        }
        self.fault(error).unconnected("Redis", "redis.url")
    }

    /// What an error means, by `transient`.
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

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_server_that_accepts_and_never_answers_is_away() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        for scheme in ["redis", "rediss"] {
            let url = Url::new(format!("{scheme}://:secret@{address}/0"));
            let started = Instant::now();
            let fault = RedisConfig { url, ..RedisConfig::default() }.connect().err().unwrap();
            assert!(started.elapsed() < Duration::from_secs(30));
            assert!(matches!(fault, Fault::Passing(_)), "{fault:?}");
            let said = format!("{:#}", fault.into_error());
            assert!(said.contains(&address.to_string()) && !said.contains("secret"), "{said}");
            assert_eq!(said.contains("a port for TLS"), scheme == "rediss", "{said}");
        }
        // What hangs is bounded.
        let url = Url::new(format!("rediss://{address}/0"));
        let config = RedisConfig { url, ..RedisConfig::default() };
        let all: Vec<_> = (0..2 * STUCK).map(|_| config.clone()).collect();
        let threads: Vec<_> =
            all.into_iter().map(|config| std::thread::spawn(move || config.connect().is_err())).collect();
        assert!(threads.into_iter().all(|thread| thread.join().unwrap()));
        // The first attempt, without TLS, may have ended meanwhile.
        assert!((STUCK - 1..=STUCK).contains(&UNDER_WAY.load(Ordering::Relaxed)));
        drop(listener);
        let end = Instant::now() + Duration::from_secs(30);
        while UNDER_WAY.load(Ordering::Relaxed) > 0 {
            assert!(Instant::now() < end, "the attempts do not end with the server");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
