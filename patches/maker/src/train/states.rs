//! What the encoder computes of each training text below the first trained layer. It is the same in every step, so it is
//! computed once and kept in a file.
//!
//! In: the texts of a step, by number. Out: their states, read or computed: the same bits. Refused: a file that cannot be
//! made or read. The file has no name, so nothing is left of it whenever the process ends.

use std::{
    fs::File,
    io::{ErrorKind, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
};

use bias_patch::Values;
use edge_run::{Cut, Encoder, Tokenized};

use crate::Result;

/// The states of texts.
pub(super) struct States {
    cut: Cut,
    file: File,
    /// The directory of the file, for errors.
    dir: PathBuf,
    /// Where those of each text lie in the file, and how many floats they are; none of those that are not kept.
    places: Vec<Option<(u64, usize)>>,
    /// The length of the file.
    end: u64,
    /// The most bytes that it may have.
    limit: u64,
}

impl States {
    /// None are kept yet. The file takes at most `limit` bytes in the directory of `beside`.
    pub fn begin(cut: Cut, beside: &Path, limit: u64) -> Result<Self> {
        let dir = match beside.parent() {
            Some(dir) if dir != Path::new("") => dir,
            _ => Path::new("."),
        };
        let file = tempfile::tempfile_in(dir).map_err(bias_patch::Error::io(dir, "create a file in"))?;
        Ok(States { cut, file, dir: dir.to_owned(), places: Vec::new(), end: 0, limit })
    }

    /// The states of numbered texts. Those that are not kept are computed, at most `tokens` tokens together, and kept
    /// while the limit allows it. `values` may differ from call to call above the cut only.
    pub fn of(
        &mut self,
        encoder: &Encoder,
        values: &Values,
        texts: &[(usize, &Tokenized)],
        tokens: usize,
    ) -> Result<Vec<Vec<f32>>> {
        let most = texts.iter().map(|(number, _)| number + 1).max().unwrap_or(0);
        self.places.resize(self.places.len().max(most), None);
        let new = || texts.iter().filter(|(number, _)| self.places[*number].is_none());
        let lacking: Vec<&Tokenized> = new().map(|(_, text)| *text).collect();
        let mut computed = encoder.states(&self.cut, values, &lacking, tokens)?.into_iter();
        let mut states = Vec::with_capacity(texts.len());
        for (number, _) in texts {
            states.push(match self.places[*number] {
                Some(place) => self.read(place)?,
                None => {
                    let states = computed.next().expect("states of each text that lacked them");
                    self.places[*number] = self.keep(&states)?;
                    states
                }
            });
        }
        Ok(states)
    }

    /// The cut that the states cross.
    pub fn cut(&self) -> &Cut {
        &self.cut
    }

    fn read(&mut self, (start, floats): (u64, usize)) -> Result<Vec<f32>> {
        let mut states = vec![0.0f32; floats];
        let read = self.file.seek(SeekFrom::Start(start));
        read.and_then(|_| self.file.read_exact(bytemuck::cast_slice_mut(&mut states)))
            .map_err(bias_patch::Error::io(&self.dir, "read kept states in"))?;
        Ok(states)
    }

    /// Appends states to the file, and gives their place; none if that would be beyond the limit, or the disk is full.
    fn keep(&mut self, states: &[f32]) -> Result<Option<(u64, usize)>> {
        let (start, bytes) = (self.end, bytemuck::cast_slice::<f32, u8>(states));
        let end = start + bytes.len() as u64;
        if end > self.limit {
            return Ok(None);
        }
        match self.file.seek(SeekFrom::Start(start)).and_then(|_| self.file.write_all(bytes)) {
            Ok(()) => {
                self.end = end;
                Ok(Some((start, states.len())))
            }
            // What is kept already fills the disk. The rest is computed, as beyond the limit.
            Err(error) if is_full(error.kind()) => {
                self.limit = self.end;
                Ok(None)
            }
            Err(error) => Err(bias_patch::Error::io(&self.dir, "keep states in")(error).into()),
        }
    }
}

fn is_full(error: ErrorKind) -> bool {
    matches!(error, ErrorKind::StorageFull | ErrorKind::FileTooLarge | ErrorKind::QuotaExceeded)
}
