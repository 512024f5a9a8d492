//! `edge-serve`: a resident process that answers texts over HTTP.
//!
//! In: flags, a directory of patches, requests. Out: answers, and log lines on standard error. Refused: an unknown flag
//! or value (exit code 2); a file or address that cannot be used (exit code 1).

use std::{ffi::OsString, io, path::PathBuf, time::Duration};

use crate::{Address, Batching, Listener, Options, Result, Supervisor, TlsFiles, run};
use clap::{CommandFactory, Parser, ValueEnum};
use edge_run::{Activations, EngineOptions, MOST_THREADS};

/// Answer texts over HTTP with the patches in a directory, and keep their encoders in memory
///
/// Rename a patch into the directory to start or replace its task. Requests in flight finish with the values they began
/// with. Remove the file to end the task. A file that is damaged, half-copied or for an unknown encoder changes
/// nothing; the log and GET /tasks say why.
#[derive(Parser)]
#[command(name = "edge-serve", version, after_help = EXAMPLES)]
struct Arguments {
    /// Serve every *.bias file in this directory, under the task name that is stored in it
    #[arg(short, long, value_name = "DIR")]
    patches: PathBuf,
    /// Listen on this address, IP:PORT or unix:PATH; a socket from systemd takes precedence
    #[arg(short, long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    listen: Address,
    /// Run each encoder on N threads
    #[arg(short, long, value_name = "N", default_value_t = 1, value_parser = threads)]
    threads: usize,
    /// How exactly to compute with activations; with f32 weights it is always in f32
    #[arg(long, value_enum, default_value = "short")]
    activations: Activations,
    /// Use this bundle besides those in the store; repeat the flag for more bundles
    #[arg(long = "bundle", visible_alias = "encoder", value_name = "DIR")]
    bundles: Vec<PathBuf>,
    /// Require a bearer token in FILE: one of at least 16 characters, or on each line NAME TOKEN [requests=N] [texts=N]
    ///
    /// requests=N and texts=N limit what comes with a token in a second, each text counted once for every task. Metrics
    /// count requests and texts by NAME.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Speak TLS, and show the certificate in FILE: PEM, the server's own first, then those between it and its authority
    ///
    /// Files that replace those of --tls-* are used from the first connection after a second.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_certificate: Option<PathBuf>,
    /// The private key of that certificate: PEM without a password
    #[arg(long, value_name = "FILE", requires = "tls_certificate")]
    tls_key: Option<PathBuf>,
    /// Serve only clients with a certificate that one of those in FILE has signed
    #[arg(long, value_name = "FILE", requires = "tls_certificate")]
    tls_clients: Option<PathBuf>,
    /// Refuse patches that none of these public keys signed; key files are as minisign -G writes them
    #[arg(long, value_name = "KEY", num_args = 1..)]
    trust: Vec<PathBuf>,
    /// Let at most N texts wait for an encoder; refuse further ones with status 429
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = at_least_one)]
    queue: usize,
    /// Delay a text by at most MS milliseconds to run it together with others
    #[arg(long, value_name = "MS", default_value_t = 1.0, value_parser = milliseconds)]
    wait: f64,
    /// Say that the server is ready while no task answers, for one whose tasks come later
    ///
    /// Without this flag GET /v2/health/ready is 200 if at least one task answers, else 503.
    #[arg(long)]
    ready_without_tasks: bool,
    /// Write log lines to standard error in this format
    #[arg(long, value_enum, default_value = "text")]
    log: Log,
}

/// How log lines are written.
#[derive(Clone, Copy, ValueEnum)]
enum Log {
    /// Lines for people
    Text,
    /// One JSON object a line
    Json,
}

const EXAMPLES: &str = r#"Examples:
  On this machine only, port 8080; a page is at http://localhost:8080/:
    edge-serve --patches tasks
  On a Unix socket:
    edge-serve -p tasks --listen unix:/run/edge.sock
  For other machines, which need the token; patches need a signature:
    edge-serve -p tasks --listen 0.0.0.0:8080 --token-file token \
        --trust release.pub
  The same, encrypted:
    edge-serve -p tasks --listen 0.0.0.0:8443 --token-file token \
        --tls-certificate tls/cert.pem --tls-key tls/key.pem

  One task, and every task in one pass:
    curl -d '{"text": "a joy from start to end"}' localhost:8080/predict/sst2
    curl -d '{"text": "a joy from start to end"}' localhost:8080/predict
  What answers, and what was refused:
    curl localhost:8080/tasks

  A new patch, without losing a request; the end of a task:
    cp new.bias tasks/.new && mv tasks/.new tasks/sst2.bias
    rm tasks/sst2.bias

A patch names its encoder by digest. It is looked up in the store, to which
edge-export writes, and in each --bundle. Addresses under /v2 speak the Open
Inference Protocol v2, as Triton's clients and KServe do. Metrics are under
/metrics."#;

fn threads(text: &str) -> Result<usize, String> {
    let found = text.parse().ok().filter(|n| (1..=MOST_THREADS).contains(n));
    found.ok_or_else(|| format!("expected 1 to {MOST_THREADS}"))
}

fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| format!("expected 1 to {}", usize::MAX))
}

fn milliseconds(text: &str) -> Result<f64, String> {
    let found = text.parse().ok().filter(|n| (0.0..=1000.0).contains(n));
    found.ok_or_else(|| "expected a number from 0 to 1000".to_owned())
}

/// The command line, to write manual pages and completions from.
pub fn definition() -> clap::Command {
    Arguments::command()
}

/// Runs the command and gives its exit code. The first of `arguments` is the program's name. Usage errors, `--help` and
/// `--version` end the process.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let arguments = Arguments::parse_from(arguments);
    // On a full disk, log lines are lost and the process goes on.
    let log = tracing_subscriber::fmt().with_writer(io::stderr).with_target(false).log_internal_errors(false);
    match arguments.log {
        Log::Text => log.with_ansi(false).init(),
        Log::Json => log.json().init(),
    }
    let files = arguments.tls_certificate.zip(arguments.tls_key);
    let tls = files.map(|(certificate, key)| TlsFiles { certificate, key, clients: arguments.tls_clients });
    let options = Options {
        patches: arguments.patches,
        bundles: arguments.bundles,
        engine: EngineOptions {
            threads: arguments.threads,
            activations: arguments.activations,
            ..EngineOptions::default()
        },
        batching: Batching { queue: arguments.queue, wait: Duration::from_secs_f64(arguments.wait / 1e3) },
        token_file: arguments.token_file,
        tls,
        trust: arguments.trust,
        ready_without_tasks: arguments.ready_without_tasks,
    };
    let served = Listener::open(&arguments.listen).and_then(|listener| run(&options, listener, &Supervisor::connect()));
    match served {
        Ok(()) => 0,
        Err(error) => {
            tracing::error!("{error}");
            1
        }
    }
}
