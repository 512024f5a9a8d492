//! Checkpoints whose tokenizer is a SentencePiece model.
//!
//! In: a checkpoint. Out: the model that it has instead of a `tokenizer.json`, and the command that converts it.
//! Nothing is refused.

use std::path::PathBuf;

use hf_checkpoint::{Checkpoint, shell_quoted};

/// The names of SentencePiece's models, and the class that reads each unless the checkpoint names another.
pub(crate) const MODELS: [(&str, &str); 4] = [
    ("sentencepiece.bpe.model", "XLMRobertaTokenizerFast"),
    ("spiece.model", "AlbertTokenizerFast"),
    ("spm.model", "DebertaV2TokenizerFast"),
    ("tokenizer.model", "LlamaTokenizerFast"),
];

/// The SentencePiece model of a checkpoint, and what to say of it: the command that makes a `tokenizer.json`. `named`
/// says whether the checkpoint names a class of tokenizers.
pub(super) fn model_in(checkpoint: &Checkpoint, named: bool) -> Option<(PathBuf, String)> {
    /// `transformers` finds their classes by itself. Of other models, such as a BERT with SentencePiece's tokenizer, it
    /// would make a tokenizer of another kind, silently.
    const KNOWN: [&str; 4] = ["albert", "camembert", "deberta-v2", "xlm-roberta"];
    let dir = checkpoint.path();
    let (file, by_file) = MODELS.into_iter().find(|(file, _)| dir.join(file).exists())?;
    let known = checkpoint.config()["model_type"].as_str().is_some_and(|model_type| KNOWN.contains(&model_type));
    let class = if named || known { "AutoTokenizer" } else { by_file };
    let found = format!(
        "only a SentencePiece model; make one with\n  pip install transformers sentencepiece protobuf\n  \
         python3 -c \"import sys; from transformers import {class} as T; d = sys.argv[1]; \
         T.from_pretrained(d).save_pretrained(d)\" {}",
        shell_quoted(dir)
    );
    Some((dir.join(file), found))
}
