//! The rows of a JSON array, one at a time.
//!
//! In: bytes that begin with `[`. Out: the bytes of each element, whatever lines they stand on. An element is not parsed
//! here: what is wrong with one leaves the others as they are. Refused: an array without its end, bytes after it, a comma
//! without an element, and an element of more than 64 MiB.

use std::io::{self, BufRead};

use super::input::{MOST_BYTES, too_long};

/// An array that is being read.
#[derive(Default)]
pub(super) struct Array {
    /// How many elements were read.
    elements: usize,
    closed: bool,
}

impl Array {
    /// The array in `reader`, past its `[`; none if its bytes begin with something else. White space and a byte order
    /// mark may come first. Also gives how many bytes were read.
    ///
    /// # Errors
    /// When nothing can be read.
    pub fn begin(reader: &mut impl BufRead) -> io::Result<Option<(Self, usize)>> {
        let buffer = reader.fill_buf()?;
        let text = buffer.strip_prefix(b"\xef\xbb\xbf").unwrap_or(buffer).trim_ascii_start();
        if !text.starts_with(b"[") {
            return Ok(None);
        }
        let before = buffer.len() - text.len() + 1;
        reader.consume(before);
        Ok(Some((Array::default(), before)))
    }

    /// The next element, and how many bytes were read; no element at the end.
    ///
    /// # Errors
    /// When nothing can be read, the array ends without `]`, or something follows it.
    pub fn next(&mut self, reader: &mut impl BufRead) -> io::Result<(Option<Vec<u8>>, usize)> {
        let (mut element, mut read) = (Vec::new(), 0);
        let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
        while !self.closed {
            let buffer = reader.fill_buf()?;
            if buffer.is_empty() {
                let reason = "expected ] at the end of the array, found the end of the input";
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, reason));
            }
            let end = buffer.iter().position(|byte| {
                match byte {
                    _ if escaped => escaped = false,
                    b'\\' if in_string => escaped = true,
                    b'"' => in_string = !in_string,
                    _ if in_string => {}
                    b'[' | b'{' => depth += 1,
                    b',' | b']' if depth == 0 => return true,
                    b']' | b'}' => depth = depth.saturating_sub(1),
                    _ => {}
                }
                false
            });
            let taken = end.unwrap_or(buffer.len());
            if element.len() + taken > MOST_BYTES {
                return Err(too_long(&format!("element {}", self.elements + 1)));
            }
            element.extend_from_slice(&buffer[..taken]);
            let used = taken + usize::from(end.is_some());
            self.closed = end.is_some_and(|at| buffer[at] == b']');
            reader.consume(used);
            read += used;
            if end.is_some() {
                // An empty array has no element.
                if self.closed && self.elements == 0 && element.trim_ascii().is_empty() {
                    break;
                }
                self.elements += 1;
                if element.trim_ascii().is_empty() {
                    let reason =
                        format!("expected element {} of the array, found none: a comma too many", self.elements);
                    return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
                }
                return Ok((Some(element), read));
            }
        }
        loop {
            let buffer = reader.fill_buf()?;
            let count = buffer.len();
            if !buffer.trim_ascii().is_empty() {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "expected nothing after the array, found more"));
            }
            if count == 0 {
                return Ok((None, read));
            }
            reader.consume(count);
            read += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;

    /// The elements of a text that is read `chunk` bytes at a time.
    fn elements(text: &str, chunk: usize) -> Result<Vec<String>, String> {
        let mut reader = BufReader::with_capacity(chunk, text.as_bytes());
        let (mut array, mut read) = Array::begin(&mut reader).unwrap().ok_or("none")?;
        let mut found = Vec::new();
        loop {
            let (element, bytes) = array.next(&mut reader).map_err(|error| error.to_string())?;
            read += bytes;
            match element {
                Some(element) => found.push(String::from_utf8(element).unwrap().trim().to_owned()),
                None => break,
            }
        }
        assert_eq!(read, text.len());
        Ok(found)
    }

    #[test]
    fn elements_are_parted_wherever_the_bytes_are() {
        for chunk in [1, 2, 3, 1000] {
            let text = "[{\"a\": \"x,]\\\"}\\\\\"},\n [1, [2, {}]] ,\"é\", null\n]\n";
            let due = ["{\"a\": \"x,]\\\"}\\\\\"}", "[1, [2, {}]]", "\"é\"", "null"];
            assert_eq!(elements(text, chunk).unwrap(), due, "{chunk}");
            assert_eq!(elements("[]", chunk).unwrap(), [""; 0]);
            assert_eq!(elements("[ \n]", chunk).unwrap(), [""; 0]);
            // What is wrong with one element is found when it is parsed.
            assert_eq!(elements("[1,}]", chunk).unwrap(), ["1", "}"]);
        }
        assert_eq!(elements("\u{feff}\n [1]", 1000).unwrap(), ["1"]);
        assert_eq!(elements("{\"a\": []}", 1000), Err("none".to_owned()));
        assert_eq!(elements("", 1000), Err("none".to_owned()));
    }

    #[test]
    fn an_array_has_an_end_and_nothing_after_it() {
        for (text, reason) in [
            ("[1, 2", "expected ]"),
            ("[\"a]", "expected ]"),
            ("[[1]", "expected ]"),
            ("[1]\n[2]", "nothing after"),
            ("[1,]", "element 2 of the array, found none"),
            ("[,1]", "element 1"),
            ("[1, ,2]", "element 2"),
        ] {
            assert!(elements(text, 2).unwrap_err().contains(reason), "{text}");
        }
    }
}
