//! The numbers that the runtime has to know of a graph.
//!
//! In: a graph, and `config.json` beside it if there is one. Out: the rows of its word embeddings, the longest sequence,
//! how many token types it has, and the width of its hidden states. Refused: a number that neither says; the error names
//! the flag or field that gives it.

use std::{collections::HashSet, path::Path};

use edge_bundle::onnx::{DimValue, FLOAT, Graph, Tensor};
use hf_checkpoint::Checkpoint;
use serde::Deserialize;

use super::{
    INPUTS, refused,
    wiring::{SAME_VALUES, Wiring},
};
use crate::Result;

/// The longest sequence, by the names that `config.json` may have for it.
const LENGTHS: [&str; 4] = ["max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length"];
/// The width of hidden states, likewise.
const WIDTHS: [&str; 5] = ["hidden_size", "d_model", "dim", "emb_dim", "n_embd"];

/// Tables of a graph, whose rows are looked up.
#[derive(Default)]
pub(super) struct Tables {
    /// Rows of the table that token ids look up.
    words: Option<u32>,
    /// Rows of the table of positions.
    positions: Option<u32>,
    /// Rows of the table that token types look up.
    types: Option<u32>,
    /// Whether positions count the tokens that are no padding, so that the first has the number after the padding
    /// token's, as RoBERTa has them.
    after_padding: bool,
}

/// What a value is made of.
#[derive(Default)]
struct Origin {
    /// The graph's inputs whose values count, not their dimensions alone.
    inputs: HashSet<String>,
    /// Whether numbers are added up on the way.
    sums: bool,
}

impl Tables {
    /// Finds the tables of a graph.
    pub fn of(graph: &Graph) -> Self {
        let wiring = Wiring::of(graph);
        let inputs: HashSet<&str> = graph.input.iter().map(|input| input.name()).collect();
        let sums = graph.node.iter().filter(|node| node.op_type() == "Add").flat_map(|node| &node.input);
        let added: HashSet<&str> = sums.flat_map(|name| same_values(&wiring, name)).collect();
        let mut tables = Tables::default();
        let mut candidates = Vec::new();
        let mut width = None;
        for node in &graph.node {
            let [table, places, ..] = &node.input[..] else { continue };
            let Some((rows, columns)) = wiring.constant(table, &["Identity"]).and_then(matrix) else { continue };
            let is_added = node.output.iter().any(|name| added.contains(name.as_str()));
            match node.op_type() {
                "Gather" if is_input(&wiring, places, INPUTS[0]) => {
                    width = width.or(Some(columns));
                    tables.words = tables.words.or(Some(rows));
                }
                "Gather" => {
                    let origin = origin_of(&wiring, &inputs, places);
                    if origin.inputs.contains(INPUTS[2]) {
                        tables.types = tables.types.or(Some(rows));
                    } else if is_added && (origin.inputs.is_empty() || origin.sums) {
                        candidates.push((rows, columns, origin.sums));
                    }
                }
                // A table of which the first rows are taken.
                "Slice" if is_added => candidates.push((rows, columns, false)),
                _ => {}
            }
        }
        // A table of distances has a column for each head; one of positions is as wide as words, or as hidden states.
        let hidden = declared_width(graph);
        let wide = |columns: u32| Some(columns) == width || Some(columns) == hidden;
        let wide = candidates.into_iter().filter(|(_, columns, _)| wide(*columns));
        // One of token types that are all the same has few rows.
        if let Some((rows, _, sums)) = wide.max_by_key(|(rows, ..)| *rows) {
            (tables.positions, tables.after_padding) = (Some(rows), sums);
        }
        tables
    }

    /// Rows of the word embeddings.
    pub fn vocabulary(&self, file: &Path, beside: &Checkpoint) -> Result<u32> {
        self.words.or_else(|| number(beside, &["vocab_size"])).ok_or_else(|| {
            let expected = "a table that Gather looks input_ids up in, or config.json with vocab_size beside the graph";
            refused(file, "word embeddings", expected, "neither")
        })
    }

    /// How many token types texts may have; 0 without such an input.
    pub fn token_types(&self, graph: &Graph) -> u32 {
        match graph.input.iter().any(|input| input.name() == INPUTS[2]) {
            true => self.types.unwrap_or(2),
            false => 0,
        }
    }

    /// The longest sequence: what is `asked` for, if the graph has as many positions; or that many.
    pub fn max_length(&self, file: &Path, beside: &Checkpoint, tokenizer: &[u8], asked: Option<u32>) -> Result<u32> {
        let rows = [self.positions, number(beside, &LENGTHS)].into_iter().flatten().min();
        let offset = match self.after_padding {
            false => 0,
            true => match number(beside, &["pad_token_id"]).or_else(|| padding_of(tokenizer)) {
                Some(id) => id.saturating_add(1),
                None => {
                    let expected = "config.json with pad_token_id beside the graph, or a padding token in the tokenizer: \
                                    positions count from it";
                    return Err(refused(file, "padding token", expected, "neither"));
                }
            },
        };
        let most = rows.map(|rows| rows.saturating_sub(offset)).filter(|most| *most > 0);
        match (asked, most) {
            (Some(asked), Some(most)) if asked > most => {
                Err(refused(file, "--max-length", format!("at most {most}, as the graph has positions"), asked))
            }
            (Some(0), _) => Err(refused(file, "--max-length", "at least 1", 0)),
            (Some(asked), _) => Ok(asked),
            (None, Some(most)) => Ok(most),
            (None, None) => {
                let expected = "--max-length N, the most tokens of a text; the graph has no table of positions, and no \
                                config.json beside it says how many there are";
                Err(refused(file, "longest sequence", expected, "none"))
            }
        }
    }
}

/// The width of the hidden states.
pub(super) fn hidden(file: &Path, graph: &Graph, beside: &Checkpoint) -> Result<u32> {
    declared_width(graph).or_else(|| number(beside, &WIDTHS)).ok_or_else(|| {
        let expected = "the width as the last dimension, or config.json with hidden_size beside the graph";
        refused(file, "output last_hidden_state", expected, "neither")
    })
}

/// The width that the graph itself says its first output has.
fn declared_width(graph: &Graph) -> Option<u32> {
    match graph.output.first()?.dims().last()?.value {
        Some(DimValue::Value(width)) => u32::try_from(width).ok().filter(|width| *width > 0),
        _ => None,
    }
}

/// A number above zero that `config.json` has by one of these names.
fn number(beside: &Checkpoint, names: &[&str]) -> Option<u32> {
    let found = |name: &&str| u32::try_from(beside.config().get(*name)?.as_i64()?).ok();
    // A padding token may be the first of all.
    names.iter().find_map(found).filter(|number| *number > 0 || names == ["pad_token_id"])
}

fn matrix(tensor: &Tensor) -> Option<(u32, u32)> {
    match tensor.dims[..] {
        [rows, columns] if tensor.data_type() == FLOAT => Some((rows.try_into().ok()?, columns.try_into().ok()?)),
        _ => None,
    }
}

/// Whether a value is an input of the graph, perhaps a part of it, or of another shape or type.
fn is_input(wiring: &Wiring<'_>, name: &str, input: &str) -> bool {
    let mut names = same_values(wiring, name);
    while let Some(slice) = names.last().and_then(|name| wiring.producer(name)).filter(|n| n.op_type() == "Slice") {
        let Some(of) = slice.input.first() else { break };
        names.extend(same_values(wiring, of));
    }
    names.contains(&input)
}

/// A value, and those that it is made of by changes of shape and type alone.
fn same_values<'v>(wiring: &Wiring<'v>, name: &'v str) -> Vec<&'v str> {
    let mut names = vec![name];
    let of = |name: &str| {
        wiring.producer(name).filter(|node| SAME_VALUES.contains(&node.op_type())).and_then(|node| node.input.first())
    };
    while let Some(name) = names.last().and_then(|name| of(name)) {
        names.push(name);
    }
    names
}

/// What a value is made of.
fn origin_of(wiring: &Wiring<'_>, inputs: &HashSet<&str>, name: &str) -> Origin {
    let (mut origin, mut seen, mut open) = (Origin::default(), HashSet::new(), vec![name]);
    while let Some(name) = open.pop() {
        if inputs.contains(name) {
            origin.inputs.insert(name.to_owned());
        }
        let Some(node) = wiring.producer(name).filter(|_| seen.insert(name)) else { continue };
        origin.sums |= node.op_type() == "CumSum";
        // Of the dimensions of a value, what it is made of does not matter.
        if !matches!(node.op_type(), "Shape" | "Size") {
            open.extend(node.input.iter().map(String::as_str));
        }
    }
    origin
}

/// The padding token of a `tokenizer.json`: what its padding says, or a token of a usual name.
fn padding_of(tokenizer: &[u8]) -> Option<u32> {
    #[derive(Deserialize)]
    struct Padded {
        padding: Option<Padding>,
        #[serde(default)]
        added_tokens: Vec<Token>,
    }
    #[derive(Deserialize)]
    struct Padding {
        pad_id: u32,
    }
    #[derive(Deserialize)]
    struct Token {
        id: u32,
        content: String,
    }
    let padded: Padded = serde_json::from_slice(tokenizer).ok()?;
    let named = |token: &Token| matches!(token.content.as_str(), "<pad>" | "[PAD]");
    let of_padding = padded.padding.map(|padding| padding.pad_id);
    of_padding.or_else(|| padded.added_tokens.into_iter().find(named).map(|token| token.id))
}
