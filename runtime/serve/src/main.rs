//! `edge-serve`: patches in, answers over HTTP out, for months.
#![forbid(unsafe_code)]

use std::{io, path::PathBuf, process::ExitCode, time::Duration};

use clap::{Parser, ValueEnum};
use edge_run::EngineOptions;
use edge_serve::{Address, Batching, Listener, Options, Result, Supervisor, run};

/// Keep an encoder in memory and answer texts for every task whose patch is in a directory.
///
/// A patch that is renamed into the directory is checked whole and takes its task over at once; requests in flight finish on
/// the values they began with. A file that is removed ends its task. A file that is damaged, half-copied or for an encoder
/// that is not here changes nothing, and the log and GET /tasks say why.
#[derive(Parser)]
#[command(name = "edge-serve", version, after_help = EXAMPLES)]
struct Arguments {
    /// The directory of patches; every *.bias in it is a task under its own name
    #[arg(short, long, value_name = "DIR")]
    patches: PathBuf,
    /// Where to listen: IP:PORT or unix:PATH; a socket that systemd hands over goes first
    #[arg(short, long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    listen: Address,
    /// Threads that each encoder runs on
    #[arg(short, long, value_name = "N", default_value_t = 1, value_parser = at_least_one)]
    threads: usize,
    /// An encoder's bundle that is not in the store; repeat it for more
    #[arg(long = "bundle", visible_alias = "encoder", value_name = "DIR")]
    bundles: Vec<PathBuf>,
    /// Ask for the bearer token in FILE: one line, at least 16 characters
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Refuse patches that none of these keys signed; files as minisign -G writes them
    #[arg(long, value_name = "KEY", num_args = 1..)]
    trust: Vec<PathBuf>,
    /// Texts that may wait for an encoder; beyond them the answer is 429
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = at_least_one)]
    queue: usize,
    /// The most that batching may add to a text's time, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 1.0, value_parser = milliseconds)]
    wait: f64,
    /// How log lines are written, to standard error
    #[arg(long, value_enum, default_value = "text")]
    log: Log,
}

/// How log lines are written.
#[derive(Clone, Copy, ValueEnum)]
enum Log {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

const EXAMPLES: &str = r#"Examples:
  edge-serve --patches tasks                           on this machine only, port 8080; a page is at http://localhost:8080/
  edge-serve -p tasks --listen unix:/run/edge.sock     on a Unix socket
  edge-serve -p tasks --listen 0.0.0.0:8080 --token-file token --trust release.pub
                                                       for others: who knows the token may ask, and patches need a signature

  curl -d '{"text": "a joy from start to end"}' localhost:8080/predict/sst2
  curl -d '{"text": "a joy from start to end"}' localhost:8080/predict           every task, in one pass
  curl localhost:8080/tasks                                                       what answers, and what was refused

  cp new.bias tasks/.new && mv tasks/.new tasks/sst2.bias                         a new patch, without losing a request
  rm tasks/sst2.bias                                                              the task ends

An encoder is found by the digest that a patch names, in the store that edge-export writes to, or among --bundle.
Programs speak the Open Inference Protocol v2 under /v2, as Triton's clients and KServe do; metrics are under /metrics."#;

fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| "expected a number above 0".to_owned())
}

fn milliseconds(text: &str) -> Result<f64, String> {
    let found = text.parse().ok().filter(|n| (0.0..=1000.0).contains(n));
    found.ok_or_else(|| "expected a number from 0 to 1000".to_owned())
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // A log on a full disk loses lines, and nothing else.
    let log = tracing_subscriber::fmt().with_writer(io::stderr).with_target(false).log_internal_errors(false);
    match arguments.log {
        Log::Text => log.with_ansi(false).init(),
        Log::Json => log.json().init(),
    }
    let options = Options {
        patches: arguments.patches,
        bundles: arguments.bundles,
        engine: EngineOptions { threads: arguments.threads, ..EngineOptions::default() },
        batching: Batching { queue: arguments.queue, wait: Duration::from_secs_f64(arguments.wait / 1e3) },
        token_file: arguments.token_file,
        trust: arguments.trust,
    };
    let served = Listener::open(&arguments.listen).and_then(|listener| run(&options, listener, &Supervisor::connect()));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}
