//! Who may ask, and how much: the tokens of `--token-file`.
//!
//! In: a file with one token, or with lines `NAME TOKEN [requests=N] [texts=N]`; headers of requests. Out: the client
//! whose token a request bears. Refused at the start: tokens that can be guessed, two alike, and lines of another form.
//! Refused later: a request without one of the tokens, and what goes beyond the client's rate.

use std::{
    path::Path,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use bias_patch::{Digest, quoted};
use hyper::header::{AUTHORIZATION, HeaderMap};
use prometheus_client::metrics::counter::Counter;

use crate::{
    error::{Error, Result},
    metrics::Metrics,
    reply::Refusal,
};

/// A shorter token can be guessed.
const LEAST_CHARACTERS: usize = 16;

/// All clients.
#[derive(Default)]
pub(crate) struct Clients {
    /// Those with a token; none if no token is asked for.
    known: Vec<(Digest, Client)>,
    /// Everyone else, where no token is asked for.
    anyone: Client,
}

/// One of them. Its counters are in the metrics if it has a name.
#[derive(Default)]
pub(crate) struct Client {
    requests: Meter,
    texts: Meter,
    pub refused: Counter,
}

/// How much of something a client may take in a second.
#[derive(Default)]
struct Meter {
    /// None without a limit.
    bucket: Option<Mutex<Bucket>>,
    taken: Counter,
}

/// A bucket into which tokens drop, and which holds those of a second, or one.
struct Bucket {
    /// In a second.
    rate: f64,
    /// Below zero after more was taken than it held.
    level: f64,
    filled: Instant,
}

impl Clients {
    /// The clients in a file.
    ///
    /// # Errors
    /// When the file cannot be read, or a line is not as it should be.
    pub fn open(path: &Path, metrics: &Metrics) -> Result<Self> {
        let wrong = |found: String| Error::Token { path: path.to_owned(), found };
        let text = bias_patch::read_text_at_most(path, bias_patch::MOST_SMALL)?;
        let lines: Vec<&str> = text.trim_end_matches(['\r', '\n']).lines().collect();
        let mut names: Vec<&str> = Vec::new();
        let mut known: Vec<(Digest, Client)> = Vec::new();
        for (at, line) in lines.iter().enumerate() {
            let wrong = |found: &str| wrong(format!("{found} in line {}", at + 1));
            if !line.chars().all(|c| c.is_ascii_graphic() || c == ' ') {
                return Err(wrong("a tab, or another character than ASCII's,"));
            }
            let words: Vec<&str> = line.split(' ').filter(|word| !word.is_empty()).collect();
            let (name, token, limits) = match words[..] {
                [token] if lines.len() == 1 => (None, token, &[][..]),
                [name, token, ..] => (Some(name), token, &words[2..]),
                _ => return Err(wrong("no name and token")),
            };
            let digest = Digest::of(token.as_bytes());
            if token.len() < LEAST_CHARACTERS {
                return Err(wrong(&format!("a token of {} characters", token.len())));
            }
            if known.iter().any(|(other, _)| *other == digest) || name.is_some_and(|name| names.contains(&name)) {
                return Err(wrong("a name or token of a line before"));
            }
            let mut client = name.map(|name| Client::counted(metrics, name)).unwrap_or_default();
            for limit in limits {
                let (what, rate) = limit.split_once('=').unwrap_or((limit, ""));
                let meter = match what {
                    "requests" => &mut client.requests,
                    "texts" => &mut client.texts,
                    _ => return Err(wrong(&quoted(limit))),
                };
                let rate = rate.parse().ok().filter(|rate: &f64| rate.is_finite() && *rate > 0.0);
                let bucket = Bucket::full(rate.ok_or_else(|| wrong(&quoted(limit)))?);
                if meter.bucket.replace(Mutex::new(bucket)).is_some() {
                    return Err(wrong(&format!("{what} twice")));
                }
            }
            names.extend(name);
            known.push((digest, client));
        }
        match known.is_empty() {
            true => Err(wrong("none".to_owned())),
            false => Ok(Clients { known, anyone: Client::default() }),
        }
    }

    /// Whether no token is asked for.
    pub fn are_unknown(&self) -> bool {
        self.known.is_empty()
    }

    /// A client that nobody knows, and nothing limits.
    pub fn anyone(&self) -> &Client {
        &self.anyone
    }

    /// The client that sends a request.
    ///
    /// # Errors
    /// When it bears none of the tokens, where one is asked for.
    pub fn of(&self, headers: &HeaderMap) -> Result<&Client, Refusal> {
        if self.are_unknown() {
            return Ok(&self.anyone);
        }
        let given = headers.get(AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
        // Digests are compared, so that the time taken reveals nothing about a token.
        let given = given.map(Digest::of).ok_or_else(Refusal::unauthorized)?;
        let client = self.known.iter().find(|(digest, _)| *digest == given);
        client.map(|(_, client)| client).ok_or_else(Refusal::unauthorized)
    }
}

impl Client {
    fn counted(metrics: &Metrics, name: &str) -> Self {
        let (requests, texts, refused) = metrics.client(name);
        Client {
            requests: Meter { bucket: None, taken: requests },
            texts: Meter { bucket: None, taken: texts },
            refused,
        }
    }

    /// Counts a request.
    ///
    /// # Errors
    /// When it comes too soon.
    pub fn take_request(&self) -> Result<(), Refusal> {
        self.take(&self.requests, 1, "requests")
    }

    /// Counts texts, each once for every task.
    ///
    /// # Errors
    /// When they come too soon.
    pub fn take_texts(&self, count: usize) -> Result<(), Refusal> {
        self.take(&self.texts, count, "texts")
    }

    fn take(&self, meter: &Meter, count: usize, what: &str) -> Result<(), Refusal> {
        if let Some(bucket) = &meter.bucket {
            let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
            bucket.take(count as f64, Instant::now()).map_err(|wait| {
                self.refused.inc();
                // Rounded up, so that who waits as long is not too soon again.
                let seconds = wait.as_secs_f64().ceil().max(1.0) as u64;
                let rate = bucket.rate;
                let message = format!("this token has {rate} {what} a second; ask again in {seconds} s");
                Refusal::later(message, seconds)
            })?;
        }
        meter.taken.inc_by(count as u64);
        Ok(())
    }
}

impl Bucket {
    fn full(rate: f64) -> Self {
        Bucket { rate, level: rate.max(1.0), filled: Instant::now() }
    }

    /// Takes some tokens. Whoever asks for more than the bucket can hold gets them once it is full, and waits the longer
    /// afterwards: so no request is too large for ever.
    ///
    /// # Errors
    /// The time after which it will give them.
    fn take(&mut self, count: f64, now: Instant) -> Result<(), Duration> {
        let most = self.rate.max(1.0);
        let dropped = now.saturating_duration_since(self.filled).as_secs_f64() * self.rate;
        self.level = (self.level + dropped).min(most);
        self.filled = now;
        let needed = count.min(most);
        if self.level < needed {
            // A rate that is next to nothing gives more seconds than a duration holds.
            return Err(Duration::try_from_secs_f64((needed - self.level) / self.rate).unwrap_or(Duration::MAX));
        }
        self.level -= count;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(text: &str) -> Result<Clients> {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, text).unwrap();
        Clients::open(&path, &Metrics::new())
    }

    #[test]
    fn a_file_has_one_token_or_lines_with_names() {
        let digests = |text| open(text).unwrap().known.iter().map(|(digest, _)| *digest).collect::<Vec<_>>();
        assert_eq!(digests("0123456789abcdef\n"), [Digest::of(b"0123456789abcdef")]);
        let two = "a 0123456789abcdef requests=0.5\r\nb fedcba9876543210  texts=9 requests=2\n";
        assert_eq!(digests(two), [Digest::of(b"0123456789abcdef"), Digest::of(b"fedcba9876543210")]);
        for (bad, found) in [
            ("", "none"),
            ("\n", "none"),
            ("short\n", "a token of 5 characters in line 1"),
            ("a short\n", "a token of 5 characters in line 1"),
            ("0123456789abcdef\nsecond line\n", "no name and token in line 1"),
            ("a 0123456789abcdef\n\nb fedcba9876543210\n", "no name and token in line 2"),
            ("a 0123456789abcdef\na fedcba9876543210\n", "a name or token of a line before in line 2"),
            ("a 0123456789abcdef\nb 0123456789abcdef\n", "a name or token of a line before in line 2"),
            ("a 0123456789abcdef requests=0\n", "\"requests=0\" in line 1"),
            ("a 0123456789abcdef texts=inf\n", "\"texts=inf\" in line 1"),
            ("a 0123456789abcdef texts\n", "\"texts\" in line 1"),
            ("a 0123456789abcdef texts=1 texts=2\n", "texts twice in line 1"),
            ("a 0123456789abcdef bytes=1\n", "\"bytes=1\" in line 1"),
            ("a 0123456789abcd\u{e9}f\n", "a tab, or another character than ASCII's, in line 1"),
            ("a\t0123456789abcdef\n", "a tab, or another character than ASCII's, in line 1"),
        ] {
            let error = open(bad).err().unwrap_or_else(|| panic!("{bad:?} was accepted")).to_string();
            assert!(error.contains(&format!(", found {found}")), "{bad:?}: {error}");
        }
    }

    #[test]
    fn over_time_a_bucket_gives_its_rate_and_no_more() {
        let mut bucket = Bucket::full(4.0);
        let begun = bucket.filled;
        let mut given = |milliseconds| bucket.take(1.0, begun + Duration::from_millis(milliseconds)).is_ok();
        // Every tenth of a second for ten seconds: the four it held, and four a second.
        // A sample more than ten seconds, because the last token comes with the hundredth, give or take a rounding.
        assert_eq!((0..=101).filter(|at| given(at * 100)).count(), 4 + 40);
    }

    #[test]
    fn who_takes_more_than_a_bucket_holds_waits_for_it_afterwards() {
        let mut bucket = Bucket::full(10.0);
        let begun = bucket.filled;
        bucket.take(30.0, begun).unwrap();
        assert_eq!(bucket.take(1.0, begun), Err(Duration::from_millis(2100)));
        assert!(bucket.take(1.0, begun + Duration::from_millis(2000)).is_err());
        bucket.take(1.0, begun + Duration::from_millis(2200)).unwrap();
        // Of a rate that is next to nothing the wait is longer than a duration holds.
        let mut slow = Bucket::full(1e-300);
        slow.take(1.0, begun).unwrap();
        assert_eq!(slow.take(1.0, begun), Err(Duration::MAX));
    }
}
