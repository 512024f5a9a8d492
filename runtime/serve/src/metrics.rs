//! Counts events, and writes the counts in the format of Prometheus.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use edge_run::{Memory, Prediction};
use hyper::StatusCode;
use prometheus_client::{
    encoding::{EncodeLabelSet, prometheus_text},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Metric, Registry},
};

/// Counters, gauges and histograms. [`Metrics::new`] describes each.
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<Requested, Counter>,
    request_seconds: Family<Route, Histogram>,
    client_requests: Family<Client, Counter>,
    client_texts: Family<Client, Counter>,
    client_refusals: Family<Client, Counter>,
    answers: Counter,
    batch_texts: Histogram,
    batch_tokens: Histogram,
    anonymous: Gauge,
    mapped: Gauge,
    /// Opened before the process locks itself in.
    rollup: Option<Mutex<File>>,
    pub handshake_failures: Counter,
    pub queued: Gauge,
    pub wait_seconds: Histogram,
    pub tasks: Gauge,
    pub encoders: Gauge,
    pub loads: Counter,
    pub swaps: Counter,
    pub unloads: Counter,
    pub refusals: Counter,
    pub refused: Gauge,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Requested {
    route: &'static str,
    status: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Route {
    route: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Client {
    client: String,
}

impl Metrics {
    /// Metrics at zero.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("edge_serve");
        let r = &mut registry;
        Metrics {
            requests: register(r, "requests", "Requests, by address and status", Family::default()),
            request_seconds: register(
                r,
                "request_seconds",
                "From a request's headers to its answer",
                Family::new_with_constructor(seconds as fn() -> Histogram),
            ),
            client_requests: register(r, "client_requests", "Requests, by the name of their token", Family::default()),
            client_texts: register(r, "client_texts", "Texts of a client, once for every task", Family::default()),
            client_refusals: register(r, "client_refusals", "What came faster than its rate", Family::default()),
            answers: register(r, "answers", "Texts answered, each for one task", Counter::default()),
            handshake_failures: register(r, "handshake_failures", "Clients that failed at TLS", Counter::default()),
            queued: register(r, "queued_texts", "Texts that wait for the encoder", Gauge::default()),
            wait_seconds: register(r, "wait_seconds", "What a text waits before it runs", seconds()),
            batch_texts: register(r, "batch_texts", "Texts that run together", sizes()),
            batch_tokens: register(r, "batch_tokens", "Tokens that run together", sizes()),
            tasks: register(r, "tasks", "Tasks that answer", Gauge::default()),
            encoders: register(r, "encoders", "Encoders in memory", Gauge::default()),
            loads: register(r, "task_loads", "Tasks that came", Counter::default()),
            swaps: register(r, "task_swaps", "Tasks whose patch was replaced", Counter::default()),
            unloads: register(r, "task_unloads", "Tasks that went", Counter::default()),
            refusals: register(r, "patch_refusals", "Times that a patch was refused", Counter::default()),
            refused: register(r, "refused_patches", "Patches that are refused now", Gauge::default()),
            anonymous: register(r, "anonymous_bytes", "Private memory that no file backs", Gauge::default()),
            mapped: register(r, "mapped_bytes", "Memory of mapped files, weights and code", Gauge::default()),
            rollup: File::open("/proc/self/smaps_rollup").ok().map(Mutex::new),
            registry,
        }
    }

    /// Counts a request.
    pub fn request(&self, route: &'static str, status: StatusCode, took: Duration) {
        self.requests.get_or_create(&Requested { route, status: status.as_u16() }).inc();
        self.request_seconds.get_or_create(&Route { route }).observe(took.as_secs_f64());
    }

    /// Counters of a client by its name: requests, texts, and refusals for its rate.
    pub fn client(&self, name: &str) -> (Counter, Counter, Counter) {
        let of = |family: &Family<Client, Counter>| family.get_or_create(&Client { client: name.to_owned() }).clone();
        (of(&self.client_requests), of(&self.client_texts), of(&self.client_refusals))
    }

    /// Counts texts that ran together.
    pub fn batch(&self, answers: &[edge_run::Result<Prediction>]) {
        let answered = answers.iter().flatten();
        self.answers.inc_by(answered.clone().count() as u64);
        self.batch_texts.observe(answers.len() as f64);
        self.batch_tokens.observe(answered.map(|answer| answer.timing.tokens).sum::<usize>() as f64);
    }

    /// All metrics, in the format of Prometheus.
    pub fn text(&self) -> String {
        if let Some(memory) = self.memory() {
            self.anonymous.set(memory.anonymous_bytes as i64);
            self.mapped.set(memory.file_bytes as i64);
        }
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = prometheus_text::encode(&mut text, &self.registry);
        text
    }

    fn memory(&self) -> Option<Memory> {
        let mut file = self.rollup.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rollup = String::new();
        file.seek(SeekFrom::Start(0)).ok()?;
        file.read_to_string(&mut rollup).ok()?;
        Memory::of_rollup(&rollup)
    }
}

fn register<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    registry.register(name, help, metric.clone());
    metric
}

/// From a quarter of a millisecond to eight seconds.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.00025, 2.0, 16))
}

/// From 1 to 1024.
fn sizes() -> Histogram {
    Histogram::new(exponential_buckets(1.0, 2.0, 11))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happened_is_in_the_text() {
        let metrics = Metrics::new();
        metrics.request("infer", StatusCode::OK, Duration::from_millis(3));
        metrics.swaps.inc();
        metrics.tasks.set(7);
        let text = metrics.text();
        for line in [
            "edge_serve_requests_total{route=\"infer\",status=\"200\"} 1",
            "edge_serve_request_seconds_count{route=\"infer\"} 1",
            "edge_serve_task_swaps_total 1",
            "edge_serve_tasks 7",
        ] {
            assert!(text.contains(line), "{line} is not in:\n{text}");
        }
    }
}
