//! The HTTP server: few connections, and each for a short time only, so that strangers can't take what the
//! engine needs.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use tracing::warn;

/// How many connections there may be. One more takes the place of the oldest.
pub(super) const CONNECTIONS: usize = 64;

/// How long the head of a request may take.
const HEADER: Duration = Duration::from_secs(5);

/// How long a connection lives: one request and its answer.
const LIFE: Duration = Duration::from_secs(30);

/// How far apart faults of the listener are logged, and how long it pauses after one.
const WARNINGS: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(500);

/// Serves these routes for ever.
///
/// # Errors
/// The listener can't be used at all.
pub(super) async fn serve(listener: std::net::TcpListener, routes: Router) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let mut connections: VecDeque<AbortHandle> = VecDeque::with_capacity(CONNECTIONS);
    let mut warned: Option<Instant> = None;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                connections.retain(|connection| !connection.is_finished());
                if connections.len() >= CONNECTIONS
                    && let Some(oldest) = connections.pop_front()
                {
                    oldest.abort();
                }
                connections.push_back(tokio::spawn(answer(stream, routes.clone())).abort_handle());
            }
            Err(error) => {
                if warned.is_none_or(|last| last.elapsed() >= WARNINGS) {
                    warned = Some(Instant::now());
                    warn!(%error, "a connection for metrics or health can't be accepted{}", crate::advice(&error));
                }
                sleep(PAUSE).await;
            }
        }
    }
}

async fn answer(stream: TcpStream, routes: Router) {
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEADER).keep_alive(false);
    // A client that breaks off is no matter.
    let _ =
        timeout(LIFE, server.serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes))).await;
}
