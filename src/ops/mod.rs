//! What an operator sees of a running process: metrics, health and readiness over HTTP.
//!
//! `/metrics` is the OpenMetrics text that Prometheus reads; docs/metrics.md describes every metric.
//! `/healthz` says whether the process lives, `/readyz` whether results follow the input, and if not, why.

mod collect;
mod health;
mod http;
pub mod names;
pub mod scrape;
#[cfg(test)]
mod tests;
pub mod usage;

use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tracing::info;

pub use collect::{Process, Trials};

use crate::engine::Monitor;
use crate::ledger::Jobs;
use scrape::Scrape;

/// Says what is wrong, a sentence each; nothing if all is well.
type Check = Arc<dyn Fn() -> Vec<String> + Send + Sync>;

/// What a process tells of itself. Starts with what all have: the process itself, and what it tries again and
/// again.
pub struct Ops {
    registry: Registry,
    ready: Vec<Check>,
    live: Vec<Check>,
}

impl Default for Ops {
    fn default() -> Self {
        let ops = Ops { registry: Registry::default(), ready: Vec::new(), live: Vec::new() };
        ops.collector(Process::start()).collector(Trials)
    }
}

impl Ops {
    /// What a run of the statements tells. It is unready when no epoch was committed for `stall`, and is
    /// taken for dead when it hangs for `hang`.
    pub fn of_run(monitor: &Arc<Monitor>, stall: Duration, hang: Duration) -> Ops {
        let (ready, live) = (Arc::clone(monitor), Arc::clone(monitor));
        Ops::default()
            .collector(collect::Engine(Arc::clone(monitor)))
            .collector(collect::Sinks)
            .ready(move || health::unready(&ready, stall))
            .live(move || health::hung(&live, hang).into_iter().collect())
    }

    /// What ledger workers report. One is taken for dead when its loop hangs for `hang`.
    pub fn of_workers(jobs: &Jobs, hang: Duration) -> Ops {
        let (ready, live) = (jobs.clone(), jobs.clone());
        Ops::default()
            .collector(collect::Workers(jobs.clone()))
            .ready(move || health::workers_unready(&ready))
            .live(move || health::workers_hung(&live, hang))
    }

    /// Adds metrics to `/metrics`; [`Scrape`] helps to tell them, and [`names`] holds what they are called.
    #[must_use]
    pub fn collector(mut self, collector: impl Collector) -> Ops {
        self.registry.register_collector(Box::new(collector));
        self
    }

    /// Adds a check to `/readyz`: it says why the process is not ready.
    #[must_use]
    pub fn ready(mut self, check: impl Fn() -> Vec<String> + Send + Sync + 'static) -> Ops {
        self.ready.push(Arc::new(check));
        self
    }

    /// Adds a check to `/healthz`: it says why the process should be started again.
    #[must_use]
    pub fn live(mut self, check: impl Fn() -> Vec<String> + Send + Sync + 'static) -> Ops {
        self.live.push(Arc::new(check));
        self
    }

    /// Serves all of it at `listen` (host:port; port 0 for any) on a thread of its own, for as long as the
    /// process lives. Gives the address.
    ///
    /// # Errors
    /// It can't be listened at.
    pub fn serve(mut self, listen: &str) -> anyhow::Result<SocketAddr> {
        let bind = || -> std::io::Result<(TcpListener, SocketAddr)> {
            let listener = TcpListener::bind(listen)?;
            listener.set_nonblocking(true)?;
            let address = listener.local_addr()?;
            Ok((listener, address))
        };
        let (listener, address) = bind()
            .with_context(|| format!("key ops.listen: can't listen at {listen}; name a free host:port"))?;
        self.registry.register_collector(Box::new(Ready(self.ready.clone())));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let work = move || {
            if let Err(error) = runtime.block_on(http::serve(listener, routes(self))) {
                crate::fatal(&anyhow::Error::new(error).context("the server of the metrics can't go on"));
            }
        };
        std::thread::Builder::new().name("ops".to_owned()).spawn(work).context("can't start a thread")?;
        info!(%address, "serving /metrics, /healthz and /readyz");
        Ok(address)
    }

    fn metrics(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

fn routes(ops: Ops) -> Router {
    Router::new()
        .route("/metrics", get(async |State(ops): State<Arc<Ops>>| metrics(&ops)))
        .route("/healthz", get(async |State(ops): State<Arc<Ops>>| answer(&ops.live, "alive")))
        .route("/readyz", get(async |State(ops): State<Arc<Ops>>| answer(&ops.ready, "ready")))
        .with_state(Arc::new(ops))
}

fn metrics(ops: &Ops) -> Response {
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match ops.metrics() {
        Ok(text) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(error) => {
            (StatusCode::INTERNAL_SERVER_ERROR, format!("can't write the metrics: {error}\n")).into_response()
        }
    }
}

fn answer(checks: &[Check], well: &str) -> Response {
    let causes = causes(checks);
    if causes.is_empty() {
        return (StatusCode::OK, format!("{well}\n")).into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, format!("not {well}\n{}\n", causes.join("\n"))).into_response()
}

fn causes(checks: &[Check]) -> Vec<String> {
    checks.iter().flat_map(|check| check()).collect()
}

/// Whether the process is ready, as a metric.
struct Ready(Vec<Check>);

impl fmt::Debug for Ready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ready")
    }
}

impl Collector for Ready {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let ready = causes(&self.0).is_empty();
        Scrape::new(encoder).sample(&names::READY, f64::from(u8::from(ready)))
    }
}
