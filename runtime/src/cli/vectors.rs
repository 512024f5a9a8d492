//! Embeddings as an array of float32 for other programs: in NumPy's format, or the values alone.
//!
//! In: a vector, or none, for each text. Out: rows of one width, `[texts, D]`, little-endian. A text without an answer
//! has a row of NaN, so row numbers never shift. Refused: tasks that are no single embedding task, and a terminal.
//!
//! NumPy's header tells the number of rows, which is known at the end. In a file the header is written then. A pipe has
//! no way back, so the rows wait in memory; without a header they go out as they come.

use std::{
    fs::File,
    io::{self, BufWriter, IsTerminal, Seek, SeekFrom, Stdout, Write},
};

use bias_patch::Kind;

use super::OutputFormat;
use crate::{Answer, Error, Prediction, Result, Task};

/// Bytes of NumPy's header, which is padded so that values begin at a multiple of 64.
const HEADER: usize = 128;

/// The rows of an array, while they are written.
pub(super) struct Rows {
    count: usize,
    /// D.
    width: usize,
}

/// Where answers go.
pub enum Destination {
    /// Standard output, as it comes.
    Stream(BufWriter<Stdout>),
    /// A file on standard output that begins at a byte with a header, which is written at the end.
    File(BufWriter<File>, u64),
    /// Memory, and at the end standard output.
    Held(Vec<u8>),
}

/// Checks that the answers of `tasks` can be written in a format. `ranked` says that labels take the place of vectors.
///
/// # Errors
/// When the format is an array, and there is not one embedding task, or standard output is a terminal.
pub fn check_format(format: OutputFormat, tasks: &[Task], ranked: bool) -> Result<()> {
    if !format.is_array() {
        return Ok(());
    }
    let refused = |found: String| {
        let expected = "one embedding task, without --labels, and a file or a pipe for its vectors".to_owned();
        Err(Error::Usage { option: "--output npy or f32".to_owned(), expected, found })
    };
    match tasks {
        _ if ranked => refused("--labels".to_owned()),
        [task] if !matches!(task.spec().kind(), Kind::Embedding(_)) => refused(task.spec().in_words()),
        [_] if io::stdout().is_terminal() => refused("a terminal; add > FILE".to_owned()),
        [_] => Ok(()),
        several => refused(format!("{} tasks", several.len())),
    }
}

impl Rows {
    /// No rows yet, of vectors of `width` values.
    pub fn of(width: usize) -> Self {
        Rows { count: 0, width }
    }

    /// Writes the row of one text.
    pub fn write(&mut self, out: &mut impl Write, answer: Option<&Prediction>) -> io::Result<()> {
        let vector = answer.and_then(|prediction| match &prediction.answer {
            Answer::Vector(vector) => Some(vector),
            _ => None,
        });
        // A row is written whole and then counted, so that the header never counts a part of one.
        match vector {
            Some(vector) => out.write_all(&vector.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())?,
            None => out.write_all(&f32::NAN.to_le_bytes().repeat(self.width))?,
        }
        self.count += 1;
        Ok(())
    }

    /// Texts, and D.
    pub fn shape(&self) -> (usize, usize) {
        (self.count, self.width)
    }
}

impl Destination {
    /// Where answers in a format go.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn of(format: OutputFormat) -> io::Result<Self> {
        match format {
            OutputFormat::Npy => match seekable()? {
                Some((file, begin)) => Ok(Destination::File(BufWriter::new(file), begin)),
                None => Ok(Destination::Held(Vec::new())),
            },
            _ => Ok(Destination::Stream(BufWriter::new(io::stdout()))),
        }
    }

    /// Writes what is left. `shape` is that of the array, if it is one.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn finish(self, shape: (usize, usize)) -> io::Result<()> {
        match self {
            Destination::Stream(mut out) => out.flush(),
            Destination::File(out, begin) => {
                let mut file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
                file.seek(SeekFrom::Start(begin))?;
                file.write_all(&header(shape))?;
                file.seek(SeekFrom::End(0)).map(drop)
            }
            Destination::Held(bytes) => {
                let mut out = io::stdout().lock();
                out.write_all(&header(shape))?;
                out.write_all(&bytes)?;
                out.flush()
            }
        }
    }
}

impl Write for Destination {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Destination::Stream(out) => out.write(bytes),
            Destination::File(out, _) => out.write(bytes),
            Destination::Held(held) => {
                let short =
                    "a pipe has no way back to npy's header, so all vectors wait in memory; use -o f32, or a file";
                held.try_reserve(bytes.len()).map_err(|_| io::Error::new(io::ErrorKind::OutOfMemory, short))?;
                held.write(bytes)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Destination::Stream(out) => out.flush(),
            Destination::File(out, _) => out.flush(),
            Destination::Held(_) => Ok(()),
        }
    }
}

/// Standard output with room for a header, and where that begins, if it is a file whose bytes can be written twice.
fn seekable() -> io::Result<Option<(File, u64)>> {
    let Some(mut file) = standard_output()? else { return Ok(None) };
    let length = |file: &File| file.metadata().map(|metadata| metadata.len());
    let Ok(begin) = file.stream_position() else { return Ok(None) };
    if !file.metadata()?.is_file() || begin != length(&file)? {
        return Ok(None);
    }
    // Zeros are no header, so that a file of a run that was killed is refused.
    file.write_all(&[0; HEADER])?;
    // A file that is open for appending takes every write at its end.
    file.seek(SeekFrom::Start(begin))?;
    file.write_all(&[0; HEADER])?;
    if length(&file)? == begin + HEADER as u64 {
        return Ok(Some((file, begin)));
    }
    file.set_len(begin)?;
    file.seek(SeekFrom::Start(begin))?;
    Ok(None)
}

#[cfg(unix)]
fn standard_output() -> io::Result<Option<File>> {
    use std::os::fd::AsFd;
    Ok(Some(io::stdout().as_fd().try_clone_to_owned()?.into()))
}

#[cfg(not(unix))]
fn standard_output() -> io::Result<Option<File>> {
    Ok(None)
}

/// NumPy's header of an array, format 1.0.
fn header((count, width): (usize, usize)) -> [u8; HEADER] {
    let mut header = [b' '; HEADER];
    let shape = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({count}, {width}), }}");
    header[..8].copy_from_slice(b"\x93NUMPY\x01\x00");
    header[8..10].copy_from_slice(&(HEADER as u16 - 10).to_le_bytes());
    // Two numbers of at most twenty digits leave room.
    header[10..10 + shape.len()].copy_from_slice(shape.as_bytes());
    header[HEADER - 1] = b'\n';
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vector(values: &[f32]) -> Prediction {
        let answer = Answer::Vector(values.to_vec());
        Prediction { answer, logits: Vec::new(), truncated: false, timing: Default::default() }
    }

    #[test]
    fn a_text_without_an_answer_keeps_its_row() {
        let (mut rows, mut out) = (Rows::of(2), Vec::new());
        for answer in [None, None, Some(&vector(&[1.0, -2.5])), None, Some(&vector(&[0.5, 3.0]))] {
            rows.write(&mut out, answer).unwrap();
        }
        assert_eq!(rows.shape(), (5, 2));
        let values: Vec<f32> = out.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        assert_eq!((&values[4..6], &values[8..]), (&[1.0, -2.5][..], &[0.5, 3.0][..]));
        assert!(values[..4].iter().chain(&values[6..8]).all(|value| value.is_nan()));
    }

    #[test]
    fn the_header_is_numpys() {
        // As numpy 2.4 writes an array of zeros((3, 384), "<f4"): its header is as long.
        let due = "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 384), }";
        let found = header((3, 384));
        assert_eq!(found[..10], *b"\x93NUMPY\x01\x00\x76\x00");
        assert_eq!(found[10..], *format!("{due:117}\n").as_bytes());
        assert_eq!(header((usize::MAX, usize::MAX))[HEADER - 1], b'\n');
    }
}
