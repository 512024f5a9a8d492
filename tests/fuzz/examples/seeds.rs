//! Writes the seeds that are no text, of the targets `panels`, `vocabulary`, `graph`, `safetensors` and `adapter`: `cargo run
//! --manifest-path tests/fuzz/Cargo.toml --example seeds`. Those of `patch` are written by a test of its crate.
#![forbid(unsafe_code)]

use std::{fs, path::Path};

use edge_bundle::vocabulary_of;
use edge_fuzz::{ELEMENTS, Place, SmallPanels};
use hf_checkpoint::to_safetensors;

fn main() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds");
    let write = |target: &str, name: &str, bytes: &[u8]| {
        fs::create_dir_all(seeds.join(target)).unwrap();
        fs::write(seeds.join(target).join(name), bytes).unwrap();
    };
    let place = Place::with_bundle("bert");
    write("graph", "bert", &fs::read(place.path("bundle/encoder.onnx")).unwrap());
    write("vocabulary", "bert", &fs::read(place.path("bundle/vocabulary.bin")).unwrap());
    for name in ["wordpiece", "bpe", "unigram"] {
        let tokenizer = fs::read(seeds.join("tokenizer").join(name)).unwrap();
        write("vocabulary", name, &vocabulary_of(&tokenizer).unwrap().unwrap());
    }
    for (number, element) in ELEMENTS.into_iter().enumerate() {
        let data = SmallPanels::of(element, &Place::empty()).data;
        write("panels", element.option(), &[&[number as u8], &data[..]].concat());
    }
    let tensors = [
        ("bert.encoder.layer.0.output.dense.bias".to_owned(), vec![3], vec![1.0, -2.0, 0.5]),
        ("w".to_owned(), vec![2, 1, 2], vec![0.0; 4]),
        ("LayerNorm.gamma".to_owned(), vec![0, 7], Vec::new()),
    ];
    write("safetensors", "f32", &to_safetensors(&tensors).unwrap());
    let (config, tensors) = edge_fuzz::adapter();
    write("adapter", "lora", &[config.as_bytes(), b"\0", &tensors].concat());
}
