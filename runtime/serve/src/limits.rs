//! What a request, a client or a patch may take. Everything beyond is refused with a message that names the limit.

use std::time::Duration;

/// Bytes of a request's body.
pub const BODY_BYTES: usize = 1 << 20;
/// Bytes that have come of all bodies that are being read or answered at one time.
pub const BODIES_BYTES: usize = 32 << 20;
/// Bytes of one text. What is beyond a task's tokens would be cut, but all of it has to be read for that.
pub const TEXT_BYTES: usize = 64 << 10;
/// Answers of one request: its texts times the tasks it asks.
pub const ANSWERS: usize = 256;
/// Bytes of all texts of a request, each counted for every task that is asked.
pub const ASKED_BYTES: usize = 1 << 20;
/// Windows that a text of a span task is read in.
pub const WINDOWS: usize = 64;
/// Header lines of a request.
pub const HEADERS: usize = 64;
/// Bytes of a request's first line and headers.
pub const HEADER_BYTES: usize = 16 << 10;
/// Bytes read ahead from a connection.
pub const BUFFER_BYTES: usize = 64 << 10;
/// Connections at one time; more wait until one ends.
pub const CONNECTIONS: usize = 512;
/// For the first line and headers to come, and for the next request on an idle connection.
pub const HEADER_TIME: Duration = Duration::from_secs(10);
/// For a whole body to come.
pub const BODY_TIME: Duration = Duration::from_secs(10);
/// For a client to take a whole answer, from when it has to be waited for.
pub const ANSWER_TIME: Duration = Duration::from_secs(30);
/// For what is in flight when the process is asked to stop.
pub const STOP_TIME: Duration = Duration::from_secs(10);
/// Bytes of a patch file.
pub const PATCH_BYTES: u64 = 64 << 20;
/// Labels or spans of an answer, the likeliest first.
pub const TOP: usize = 5;
