//! Limits of requests, clients and patches. Anything beyond is refused with a message that names the limit.

use std::time::Duration;

/// Bytes of a request's body.
pub const BODY_BYTES: usize = 1 << 20;
/// Bytes of all request bodies in memory at one time.
pub const BODIES_BYTES: usize = 32 << 20;
/// Bytes of one text. A longer text would be cut to the task's tokens, but only after all of it was tokenized.
pub const TEXT_BYTES: usize = 64 << 10;
/// Answers of one request: its texts times its tasks.
pub const ANSWERS: usize = 256;
/// Bytes of all texts of a request, each counted once for every task.
pub const ASKED_BYTES: usize = 1 << 20;
/// Windows of one text of a span task.
pub const WINDOWS: usize = 64;
/// Header lines of a request.
pub const HEADERS: usize = 64;
/// Bytes of a request's first line and headers.
pub const HEADER_BYTES: usize = 16 << 10;
/// Bytes of a connection's read buffer.
pub const BUFFER_BYTES: usize = 64 << 10;
/// Connections at one time; more wait until one ends.
pub const CONNECTIONS: usize = 512;
/// Time for TLS's handshake. The connection counts among [`CONNECTIONS`] meanwhile.
#[cfg(feature = "tls")]
pub const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// Time for the first line and headers to arrive, and for the next request on an idle connection.
pub const HEADER_TIME: Duration = Duration::from_secs(10);
/// Time for a whole body to arrive.
pub const BODY_TIME: Duration = Duration::from_secs(10);
/// Time for a client to read a whole answer, from when the socket is full.
pub const ANSWER_TIME: Duration = Duration::from_secs(30);
/// Time for requests in flight when the process is told to stop.
pub const STOP_TIME: Duration = Duration::from_secs(10);
/// Bytes of a patch file.
pub const PATCH_BYTES: u64 = 64 << 20;
/// Number of labels or spans in an answer, the most likely first.
pub const TOP: usize = 5;
