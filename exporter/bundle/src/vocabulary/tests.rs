//! Vocabularies are made and read; damaged ones are refused, or find nothing.

use serde_json::Value;

use super::*;

const TOKENIZER: &str = r###"{"version":"1.0","model":{"type":"WordPiece","unk_token":"[UNK]",
    "vocab":{"[UNK]":0,"a":5,"##a":2,"été":3,"":4}},"normalizer":null}"###;

/// As RoBERTa's. A merge that is said twice counts where it is said last.
const BPE: &str = r#"{"version":"1.0","model":{"type":"BPE","dropout":null,"unk_token":null,
    "continuing_subword_prefix":"","end_of_word_suffix":"","fuse_unk":false,
    "vocab":{"a":7,"b":1,"é":2,"ab":3,"aba":9,"éé":4},
    "merges":[["a","b"],["é","é"],["ab","a"],["a","b"]]}}"#;

/// As XLM-RoBERTa's, and a piece that is there twice.
fn unigram() -> String {
    r#"{"version":"1.0","added_tokens":[{"id":0,"content":"<unk>"}],"normalizer":{"type":"Sequence","normalizers":[
        {"type":"Precompiled","precompiled_charsmap":"CHARSMAP"},{"type":"Lowercase"}]},
        "model":{"type":"Unigram","unk_id":0,"vocab":[["<unk>",0.0],["ab",-1.5],["a",-3],["ab",-2.5],["▁été",-7.25],
        ["abcd",-2.0],["b",-4.0]]}}"#
        .replace("CHARSMAP", &base64::encode(charsmap()))
}

/// A charsmap of one entry: "A" becomes "éa".
fn charsmap() -> Vec<u8> {
    let mut units = [0u32; 256 + 0x42];
    // The children of the root are at 256, the value of the child "A" at 256 too.
    units[0] = 256 << 10;
    units[256 + 0x41] = 0x41 << 10 | 1 << 8 | 0x41;
    units[256] = 1 << 31 | 2;
    let mut bytes = (4 * units.len() as u32).to_le_bytes().to_vec();
    bytes.extend(units.iter().flat_map(|unit| unit.to_le_bytes()));
    bytes.extend("x\0éa\0".as_bytes());
    bytes
}

fn made() -> Vec<u8> {
    vocabulary_of(TOKENIZER.as_bytes()).unwrap().unwrap()
}

fn made_of(model: &str) -> Result<Option<Vec<u8>>> {
    vocabulary_of(format!("{{\"model\":{model}}}").as_bytes())
}

#[test]
fn every_token_is_found_and_no_other() {
    let vocabulary = Vocabulary::parse(made()).unwrap();
    assert_eq!(vocabulary.len(), 5);
    for (token, id) in [("[UNK]", 0), ("a", 5), ("##a", 2), ("été", 3), ("", 4)] {
        assert_eq!(vocabulary.id(token.as_bytes()), Some(id), "{token}");
    }
    for token in ["b", "##", "ét", "A"] {
        assert_eq!(vocabulary.id(token.as_bytes()), None, "{token}");
    }
    let ids: Vec<u32> = vocabulary.iter().map(|(_, id)| id).collect();
    assert_eq!(ids, [0, 2, 3, 4, 5]);
    let settings: Value = serde_json::from_slice(vocabulary.settings()).unwrap();
    assert_eq!(settings["model"]["vocab"], Value::Object(serde_json::Map::new()));
    assert_eq!(settings["model"]["unk_token"], "[UNK]");
    assert_eq!((vocabulary.kind(), vocabulary.merge(5, 2)), (VocabularyKind::WordPiece, None));
    for (id, token) in [(0, Some("[UNK]")), (4, Some("")), (5, Some("a")), (1, None), (6, None)] {
        assert_eq!(vocabulary.token_of(id), token.map(str::as_bytes), "{id}");
    }
}

#[test]
fn every_merge_is_found_and_no_other() {
    let vocabulary = Vocabulary::parse(vocabulary_of(BPE.as_bytes()).unwrap().unwrap()).unwrap();
    assert_eq!(vocabulary.kind(), VocabularyKind::Bpe);
    assert_eq!(vocabulary.id("éé".as_bytes()), Some(4));
    assert_eq!(vocabulary.token_of(9), Some(&b"aba"[..]));
    for (left, right, due) in [(7, 1, Some((3, 3))), (2, 2, Some((1, 4))), (3, 7, Some((2, 9))), (1, 7, None)] {
        assert_eq!(vocabulary.merge(left, right), due, "{left} {right}");
    }
    let settings: Value = serde_json::from_slice(vocabulary.settings()).unwrap();
    assert_eq!(settings["model"]["merges"], Value::Array(Vec::new()));
    // The same merges as older files write them.
    let older = BPE.replace("[\"a\",\"b\"]", "\"a b\"").replace("[\"é\",\"é\"]", "\"é é\"");
    let older = older.replace("\"merges\":[", "\"merges\":[\"#version: 0.2\",").replace("[\"ab\",\"a\"]", "\"ab a\"");
    assert_eq!(vocabulary_of(older.as_bytes()).unwrap(), vocabulary_of(BPE.as_bytes()).unwrap());
    for merges in [r#"["a"]"#, r#"[["a","b","ab"]]"#, r#"[["a","c"]]"#, r#"["b a"]"#, "[1]", "{}"] {
        let error = made_of(&format!(r#"{{"type":"BPE","vocab":{{"a":0,"b":1,"ab":2}},"merges":{merges}}}"#));
        let error = error.unwrap_err().to_string();
        assert!(error.contains("model.merges"), "{merges}: {error}");
    }
}

#[test]
fn every_piece_is_found_with_its_score() {
    let vocabulary = Vocabulary::parse(vocabulary_of(unigram().as_bytes()).unwrap().unwrap()).unwrap();
    assert_eq!((vocabulary.kind(), vocabulary.len()), (VocabularyKind::Unigram, 7));
    for (piece, id) in
        [("<unk>", Some(0)), ("ab", Some(3)), ("a", Some(2)), ("▁été", Some(4)), ("abc", None), ("", None)]
    {
        assert_eq!(vocabulary.id(piece.as_bytes()), id, "{piece}");
    }
    let pieces: Vec<_> =
        ["<unk>", "ab", "a", "ab", "▁été", "abcd", "b"].map(str::as_bytes).into_iter().zip(0..).collect();
    assert_eq!(vocabulary.iter().collect::<Vec<_>>(), pieces);
    let scores: Vec<_> = (0..8).map(|id| vocabulary.score(id)).collect();
    let due = [0.0, -1.5, -3.0, -2.5, -7.25, -2.0, -4.0].map(Some);
    assert_eq!((&scores[..7], scores[7], vocabulary.lowest_score()), (&due[..], None, Some(-7.25)));
    assert_eq!((vocabulary.token_of(4), vocabulary.token_of(7)), (Some("▁été".as_bytes()), None));
    for (text, due) in [("abcde", &[(1, 2), (2, 3), (4, 5)][..]), ("abc", &[(1, 2), (2, 3)]), ("▁ét", &[]), ("", &[])]
    {
        assert_eq!(vocabulary.prefixes(text.as_bytes()).collect::<Vec<_>>(), due, "{text}");
    }
    let charsmap = vocabulary.charsmap().unwrap();
    for (part, due) in [("A", Some("éa")), ("Ab", Some("éa")), ("a", None), ("", None), ("\0", None)] {
        assert_eq!(charsmap.replacement(part), due, "{part:?}");
    }
    let settings: Value = serde_json::from_slice(vocabulary.settings()).unwrap();
    assert_eq!(settings["model"]["vocab"], Value::Array(Vec::new()));
    assert_eq!(settings["normalizer"]["normalizers"][0]["precompiled_charsmap"], "");
    assert_eq!(settings["normalizer"]["normalizers"][1]["type"], "Lowercase");
    // Words of the other kinds have neither scores nor a charsmap.
    let words = Vocabulary::parse(made()).unwrap();
    assert_eq!((words.score(0), words.lowest_score(), words.charsmap().is_none()), (None, None, true));
}

#[test]
fn pieces_that_do_not_fit_are_refused() {
    for (from, to, said) in [
        ("\"unk_id\":0", "\"unk_id\":7", "model.unk_id: expected a number below 7"),
        ("\"unk_id\":0", "\"unk_id\":-1", "model.unk_id"),
        ("[\"a\",-3]", "[\"a\"]", "JSON"),
        ("[\"a\",-3]", "[\"a\",\"-3\"]", "JSON"),
        ("AAAA", "AAA?", "precompiled_charsmap"),
    ] {
        assert!(unigram().contains(from), "{from}");
        let error = vocabulary_of(unigram().replacen(from, to, 1).as_bytes()).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
    for bytes in [&[][..], &[8, 0, 0, 0, 1, 2, 3], &[4, 0, 0, 0, 0, 0, 0, 0, 0xff]] {
        let other = unigram().replace(&base64::encode(charsmap()), &base64::encode(bytes));
        let error = vocabulary_of(other.as_bytes()).unwrap_err().to_string();
        assert!(error.contains("bytes that are none"), "{bytes:?}: {error}");
    }
    // The format has room for one charsmap.
    let two = unigram().replace("{\"type\":\"Lowercase\"}", "{\"precompiled_charsmap\":\"BAAAAAAAAAA=\"}");
    assert_eq!(vocabulary_of(two.as_bytes()).unwrap(), None);
}

#[test]
fn models_of_other_kinds_have_none() {
    for (model, due) in [
        (r#"{"type":"Unigram","vocab":[],"unk_id":null}"#, true),
        (r#"{"vocab":[["a",0]]}"#, true),
        (r#"{"type":"WordLevel","vocab":{"a":0}}"#, false),
        (r#"{"vocab":{"a":0}}"#, false),
        (r#"{"max_input_chars_per_word":100,"vocab":{"a":0}}"#, true),
        (r#"{"type":"BPE","vocab":{},"merges":[]}"#, true),
        (r#"{"vocab":{},"merges":[],"byte_fallback":false}"#, true),
        (r#"{"type":"BPE","vocab":{},"merges":[],"dropout":0.1}"#, false),
        (r#"{"type":"BPE","vocab":{},"merges":[],"unk_token":"<unk>"}"#, true),
        (r###"{"type":"BPE","vocab":{},"merges":[],"continuing_subword_prefix":"##"}"###, false),
        (r#"{"type":"BPE","vocab":{},"merges":[],"end_of_word_suffix":"</w>"}"#, false),
        (r#"{"type":"BPE","vocab":{},"merges":[],"byte_fallback":true}"#, true),
        (r#"{"type":"BPE","vocab":{},"merges":[],"ignore_merges":true}"#, true),
    ] {
        assert_eq!(made_of(model).unwrap().is_some(), due, "{model}");
    }
    assert!(made_of(r#"{"type":"WordPiece","vocab":{"a":-1}}"#).unwrap_err().to_string().contains("\"a\""));
    assert!(vocabulary_of(b"{").is_err());
}

#[test]
fn a_bpe_with_options_has_a_version_that_older_readers_refuse() {
    let version = |model: &str| made_of(model).unwrap().unwrap()[8];
    for (option, due) in [
        ("\"fuse_unk\":true", 2),
        ("\"unk_token\":null,\"byte_fallback\":false,\"ignore_merges\":null", 2),
        ("\"unk_token\":\"a\"", 4),
        ("\"byte_fallback\":true", 4),
        ("\"ignore_merges\":true", 4),
    ] {
        let model = format!(r#"{{"type":"BPE","vocab":{{"a":0,"aa":1}},"merges":["a a"],{option}}}"#);
        assert_eq!(version(&model), due, "{option}");
        let vocabulary = Vocabulary::parse(made_of(&model).unwrap().unwrap()).unwrap();
        assert_eq!((vocabulary.kind(), vocabulary.merge(0, 0)), (VocabularyKind::Bpe, Some((0, 1))));
    }
}

#[test]
fn damaged_bytes_are_refused_or_find_nothing() {
    let heads = [(0, "BIASVOCB"), (8, "version"), (10, "zeros")];
    // The numbers that say how long the parts are.
    let unigram = unigram();
    for (json, counts, preamble_bytes) in [(TOKENIZER, 4, 28), (BPE, 6, 36), (&unigram[..], 5, 40)] {
        let whole = vocabulary_of(json.as_bytes()).unwrap().unwrap();
        let counts = (HEAD_BYTES..HEAD_BYTES + 4 * counts).step_by(4).map(|at| (at, "bytes"));
        for (at, said) in heads.into_iter().chain(counts) {
            let mut bytes = whole.clone();
            // No version is the other's.
            bytes[at] ^= if at == 8 { 0x40 } else { 1 };
            let error = Vocabulary::parse(bytes).unwrap_err().to_string();
            assert!(error.contains(said), "byte {at}: {error}");
        }
        for length in 0..whole.len() {
            assert!(Vocabulary::parse(&whole[..length]).is_err(), "{length} bytes");
        }
        // Whatever the tables say, a search ends.
        for at in preamble_bytes..whole.len() {
            for value in [0, 1, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] = value;
                if let Ok(vocabulary) = Vocabulary::parse(bytes) {
                    let _ = (vocabulary.id(b"a"), vocabulary.id(b"c"), vocabulary.iter().count());
                    let _ = (vocabulary.merge(7, 1), vocabulary.merge(1, 1), vocabulary.token_of(3));
                    let _ = (vocabulary.prefixes(b"abcd").count(), vocabulary.score(1));
                    let _ =
                        vocabulary.charsmap().map(|charsmap| (charsmap.replacement("A"), charsmap.replacement("B")));
                }
            }
        }
    }
}

#[test]
fn tables_without_room_are_refused() {
    let whole = vocabulary_of(BPE.as_bytes()).unwrap().unwrap();
    let number = |at: usize| word_at(&whole[HEAD_BYTES..], at).unwrap();
    for (at, record_bytes, said) in [(1, 8, "places:"), (4, 12, "places of merges:")] {
        // A record more and its bytes as places fewer leave the length as it is.
        let places = number(at) - record_bytes / 4;
        let mut bytes = whole.clone();
        bytes[HEAD_BYTES + 4 * at..][..4].copy_from_slice(&places.to_le_bytes());
        let records = at + 1;
        bytes[HEAD_BYTES + 4 * records..][..4].copy_from_slice(&(number(records) + 1).to_le_bytes());
        let error = Vocabulary::parse(bytes).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
}

#[test]
fn a_charsmap_that_is_none_is_refused_wherever_it_is() {
    // Without bytes, without base64, without a trie; with a trie of gigabytes.
    for charsmap in ["null", "7", "\"?\"", "\"\"", "\"AAAAAA==\"", "\"/////wAAAAA=\""] {
        for normalizer in [
            format!(r#"{{"type":"Precompiled","precompiled_charsmap":{charsmap}}}"#),
            format!(r#"{{"precompiled_charsmap":{charsmap}}}"#),
            format!(
                r#"{{"type":"Sequence","normalizers":[{{"type":"Lowercase"}},{{"precompiled_charsmap":{charsmap}}}]}}"#
            ),
            r#"{"type":"Precompiled"}"#.to_owned(),
        ] {
            let error = take_charsmaps(&mut serde_json::from_str(&normalizer).unwrap()).unwrap_err().to_string();
            assert!(error.contains("expected a table of SentencePiece's normalizer"), "{error}");
        }
    }
}
