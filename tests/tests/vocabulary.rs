//! The mapped vocabulary gives the token ids of `tokenizer.json`, whatever the text.

use std::{fs, path::Path};

use bias_patch::Task;
use edge_bundle::{Bundle, MANIFEST, VOCABULARY};
use edge_export::verify;
use edge_run::{Encoder, Text};
use system_tests::{ENCODERS, real_bundle, small_bundle, task};
use tempfile::TempDir;
use tokenizers::{Encoding, PostProcessor, TruncationParams, truncate_encodings};

/// Texts that are hard for a tokenizer: cases, accents, scripts without spaces, long words, special tokens as text,
/// control characters.
const HARD: [&str; 16] = [
    "The film was good!",
    "unhappy, very unhappily bad",
    "CAFÉ café cafe\u{301} ﬁlm",
    "電影很好 the 映画",
    "un un-happy unun ##happy # ##",
    "[CLS] good [SEP] bad [UNK] [MASK]",
    "<s>good</s> bad <mask> <unk><pad>",
    "the  films was  goood,ooooooooo  \u{a0}fifilm thethe",
    "good\u{0}bad\u{ad}\u{200b} \u{feff}film\tvery\r\nbad",
    "👍🏽 naïve Ω≈ç√ ½ …—",
    "'s don't $5.00 a_b x/y e@f.g",
    "İstanbul ǅ ß ſ",
    "ا ل ع ر ب ي ة हिन्दी",
    "!!!???...,,,",
    "a",
    "goodgoodbadgoodunhappyverygoodgoodbadgoodunhappyverygoodgoodbadgoodunhappyverygoodgoodbadgoodunhappyverygoodgood",
];

/// The bundle as earlier versions wrote it: without `vocabulary.bin`, and without its entry in the manifest.
fn without_vocabulary(bundle: &Bundle, dir: &Path) -> Bundle {
    for entry in fs::read_dir(bundle.dir()).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), dir.join(entry.file_name())).unwrap();
    }
    let text = fs::read(dir.join(MANIFEST)).unwrap();
    let mut manifest: serde_json::Value = serde_json::from_slice(&text).unwrap();
    manifest["files"].as_object_mut().unwrap().remove(VOCABULARY).expect("a vocabulary");
    fs::write(dir.join(MANIFEST), manifest.to_string()).unwrap();
    fs::remove_file(dir.join(VOCABULARY)).unwrap();
    Bundle::open(dir).unwrap()
}

/// Compares the tokens of every text, alone and as the context of a question. Gives the number of texts.
fn compare(bundle: &Bundle, texts: &[String]) -> usize {
    let dir = TempDir::new().unwrap();
    let whole = Encoder::open(without_vocabulary(bundle, dir.path()).dir()).unwrap();
    let mapped = Encoder::open(bundle.dir()).unwrap();
    // Tags are of words and answers of characters, so they tell where tokens are.
    let (one, two) = (task("one", "tagging", 1), task("two", "span", 2));
    for text in texts {
        for (task, text) in [(&one, Text::one(text)), (&two, Text::pair("good", text))] {
            let (due, found) = (whole.tokenized(task, &text).unwrap(), mapped.tokenized(task, &text).unwrap());
            assert_eq!(found.len(), due.len(), "{text:?}");
            for (found, due) in found.iter().zip(&due) {
                assert_eq!(found.ids(), due.ids(), "{text:?}");
                // Words, and the tokens of the second text with their characters.
                assert_eq!(format!("{found:?}"), format!("{due:?}"), "{text:?}");
            }
        }
    }
    texts.len()
}

#[test]
fn ids_are_those_of_the_whole_tokenizer() {
    let mut compared = 0;
    for name in ENCODERS {
        let (_dir, bundle) = small_bundle(name);
        assert!(bundle.manifest().files.contains_key(VOCABULARY), "{name}");
        compared += compare(&bundle, &HARD.map(str::to_owned));
    }
    // WordPiece, byte-level BPE and Unigram.
    assert_eq!(compared, ENCODERS.len() * HARD.len());
}

#[test]
fn long_texts_are_cut_as_the_tokenizers_crate_cuts_them() {
    const LIMIT: usize = 40;
    // Pieces that a beginning may end between: words, spaces, special tokens, accents that stand alone.
    let pieces = [" ", " ", " ", "  ", "\t ", " \n", "\u{a0}", "<mask>", "[MASK]", "\u{301}", "'s", "``"];
    let words: Vec<&str> = HARD.iter().flat_map(|text| text.split(' ')).chain(pieces).collect();
    // A text of `count` pieces, `step` apart.
    let long = |count: usize, step: usize| -> String {
        (0..count).map(|at| if at % 3 == 1 { " " } else { words[at * step % words.len()] }).collect()
    };
    let (one, pair) = (task("one", "classification", 1), task("two", "classification", 2));
    let (mut cut, mut compared) = (0, 0);
    for name in ENCODERS {
        let (_dir, bundle) = small_bundle(name);
        let encoder = Encoder::open(bundle.dir()).unwrap();
        let mut whole = tokenizers::Tokenizer::from_file(bundle.dir().join("tokenizer.json")).unwrap();
        whole.with_padding(None).with_truncation(None).unwrap();
        let special = |pair| whole.get_post_processor().map_or(0, |processor| processor.added_tokens(pair));
        let mut check = |task: &Task, first: &str, second: Option<&str>| {
            let text = second.map_or_else(|| Text::one(first), |second| Text::pair(first, second));
            let found = match encoder.tokenized(task, &text) {
                Ok(found) => found,
                // Characters that a tokenizer drops.
                Err(error) => return assert!(error.to_string().contains("empty text"), "{name}: {error}, {text:?}"),
            };
            let tokens = |text: &str| whole.encode(text, false).unwrap();
            let params = TruncationParams { max_length: LIMIT - special(second.is_some()), ..Default::default() };
            let (mut first_due, mut second_due) =
                truncate_encodings(tokens(first), second.map(tokens), &params).unwrap();
            // Every pair of what was cut off would be a result.
            first_due.take_overflowing();
            second_due.as_mut().map(Encoding::take_overflowing);
            let due = whole.post_process(first_due, second_due, true).unwrap();
            assert_eq!(found[0].ids(), due.get_ids(), "{name}: {first:?}, {second:?}");
            compared += 1;
            cut += usize::from(due.get_ids().len() == LIMIT);
        };
        // Words of one unknown token, with more bytes than a token has of a beginning, and several tokens where they
        // are cut.
        for before in 0..17 {
            check(&one, &format!("{} {}", "z".repeat(before), "unhappylyzzzzzzz ".repeat(80)), None);
        }
        for step in [1, 7, 19] {
            let (whole, short, spaces) = (long(700, step), long(9, step), " ".repeat(3000));
            let same = "good".repeat(700);
            for text in
                [&whole, &format!("{spaces}{whole}"), &format!("{same} {whole}"), &format!("{short}{spaces}{short}")]
            {
                check(&one, text, None);
                // The shorter of two may have more tokens than there is room for.
                for other in [&long(90, step + 1), &long(900, step), &short, text] {
                    check(&pair, text, Some(other));
                    check(&pair, other, Some(text));
                }
            }
        }
    }
    assert!(cut > 1200 && compared > 1600, "{cut} of {compared}");
}

#[test]
fn a_vocabulary_of_other_words_is_found_by_verify() {
    for name in ["bert", "roberta", "xlm-roberta"] {
        let (_dir, bundle) = small_bundle(name);
        let path = bundle.dir().join(VOCABULARY);
        let mut bytes = fs::read(&path).unwrap();
        let at = bytes.len() - 1;
        bytes[at] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let error = verify(bundle.dir(), &mut |_| ()).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(VOCABULARY), "{error}");
        // A manifest with the digest of the wrong words is refused too.
        let text = fs::read_to_string(bundle.dir().join(MANIFEST)).unwrap();
        let old = bundle.manifest().files[VOCABULARY].sha256.to_string();
        let new = bias_patch::Digest::of(&bytes).to_string();
        fs::write(bundle.dir().join(MANIFEST), text.replace(&old, &new)).unwrap();
        let error = verify(bundle.dir(), &mut |_| ()).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("words: expected those of tokenizer.json"), "{error}");
    }
}

#[test]
#[ignore = "needs the real encoder and EDGE_REFERENCE"]
fn ids_of_whole_data_sets_are_those_of_the_whole_tokenizer() {
    let bundle = real_bundle();
    compare(&bundle, &HARD.map(str::to_owned));
    let data = Path::new(&std::env::var_os("EDGE_REFERENCE").expect("EDGE_REFERENCE names the reference directory"))
        .join("data");
    for set in ["SST-2", "MRPC", "STS-B", "CoLA", "RTE", "UD-EWT-POS"] {
        let text = fs::read_to_string(data.join(set).join("dev.tsv")).unwrap();
        let texts: Vec<String> = text.lines().map(|line| line.replace('\t', " ")).collect();
        println!("{set:12} {} lines, the same ids", compare(&bundle, &texts));
    }
}
