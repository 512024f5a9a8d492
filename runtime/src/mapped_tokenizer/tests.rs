//! Mapped Unigram vocabularies give what the `tokenizers` crate gives of the whole `tokenizer.json`, on lines of many
//! scripts.

use std::{collections::BTreeMap, fs, path::Path, process, time::Instant};

use serde_json::{Value, json};
use tokenizers::{NormalizedString, Normalizer, NormalizerWrapper, Tokenizer, normalizers::NFKC};

use super::*;

/// Scripts and other blocks of Unicode, by their first and last character.
const BLOCKS: [(u32, u32); 40] = [
    (0x61, 0x7a),
    (0x41, 0x7a),
    (0x21, 0x7e),
    (0xa1, 0x24f),
    (0x300, 0x36f),
    (0x370, 0x3ff),
    (0x400, 0x4ff),
    (0x531, 0x586),
    (0x5b0, 0x5ea),
    (0x620, 0x6ff),
    (0x901, 0x965),
    (0x981, 0x9df),
    (0xb82, 0xbcd),
    (0xe01, 0xe5b),
    (0xe81, 0xedf),
    (0x10a0, 0x10ff),
    (0x1100, 0x11f9),
    (0x1200, 0x137f),
    (0x1780, 0x17dd),
    (0x1e00, 0x1eff),
    (0x1f00, 0x1fff),
    (0x2000, 0x206f),
    (0x2100, 0x218b),
    (0x2460, 0x24ff),
    (0x2581, 0x2581),
    (0x3000, 0x303f),
    (0x3041, 0x30ff),
    (0x3300, 0x33ff),
    (0x4e00, 0x4eff),
    (0xac00, 0xad00),
    (0xf900, 0xf9ff),
    (0xfb00, 0xfb4f),
    (0xfdf0, 0xfdfc),
    (0xfe00, 0xfe0f),
    (0xff01, 0xffdc),
    (0x1d400, 0x1d4ff),
    (0x1f1e6, 0x1f1ff),
    (0x1f3fb, 0x1f64f),
    (0x0, 0x20),
    (0x200b, 0x200f),
];

/// Numbers from a seed.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }

    fn one_of<'a, T: ?Sized>(&mut self, list: &[&'a T]) -> &'a T {
        list[self.below(list.len())]
    }

    fn word(&mut self) -> String {
        let (first, last) = BLOCKS[self.below(BLOCKS.len())];
        let length = 1 + self.below(8);
        // Few characters of a block, so that pieces recur.
        let mut character = || char::from_u32(first + (self.below(12) * self.below(12)) as u32 % (last - first + 1));
        (0..length).filter_map(|_| character()).collect()
    }

    fn line(&mut self) -> String {
        let gaps =
            [" ", " ", " ", " ", " ", "  ", "   ", "", "\t", "\u{a0}", "\u{3000}", "\u{301}", "\u{1}", "``", "''"];
        let special = ["<mask>", "<s>", "</s>", "[MASK]", "<unk>", "<0x41>", "▁"];
        let mut line = String::new();
        for _ in 0..self.below(9) {
            line.push_str(self.one_of(&gaps));
            let word = if self.below(12) == 0 { self.one_of(&special).to_owned() } else { self.word() };
            line.push_str(&word);
        }
        line.push_str(if self.below(4) == 0 { self.one_of(&gaps) } else { "" });
        line
    }
}

/// A charsmap as SentencePiece writes it. Children have a block of 256 units of their own, which wastes room.
fn charsmap(entries: &BTreeMap<String, String>) -> String {
    let (mut units, mut texts) = (vec![0u32; 256], Vec::new());
    // Where a prefix of entries is, and where its children are.
    let mut nodes: BTreeMap<Vec<u8>, (usize, usize)> = BTreeMap::new();
    let mut open = |units: &mut Vec<u32>, prefix: &[u8], at: usize| {
        *nodes.entry(prefix.to_vec()).or_insert_with(|| {
            let children = units.len();
            units.resize(children + 256, 0);
            assert!((at ^ children) < 1 << 21, "offsets of Darts-clone have 21 bits");
            units[at] |= ((at ^ children) as u32) << 10;
            (at, children)
        })
    };
    for (key, value) in entries {
        let mut node = open(&mut units, &[], 0);
        for (at, byte) in key.bytes().enumerate() {
            let child = node.1 + usize::from(byte);
            units[child] |= u32::from(byte);
            node = open(&mut units, &key.as_bytes()[..=at], child);
        }
        units[node.0] |= 1 << 8;
        units[node.1] = 1 << 31 | texts.len() as u32;
        texts.extend(value.bytes().chain([0]));
    }
    let mut bytes = (4 * units.len() as u32).to_le_bytes().to_vec();
    bytes.extend(units.iter().flat_map(|unit| unit.to_le_bytes()));
    bytes.extend(texts);
    base64::encode(bytes)
}

/// What SentencePiece's own charsmaps do: compatible characters become usual ones, spaces one space, some nothing.
fn entries() -> BTreeMap<String, String> {
    let characters = BLOCKS.iter().flat_map(|(first, last)| (*first..=*last).filter_map(char::from_u32));
    let mut entries = BTreeMap::new();
    for character in characters.filter(|character| *character != '\0') {
        let mut normal = NormalizedString::from(character.to_string());
        NFKC.normalize(&mut normal).unwrap();
        let new = match character {
            '\t' | '\n' | '\r' | '\u{200b}'..='\u{200f}' => " ",
            '\u{1}'..'\u{20}' => "",
            _ => normal.get(),
        };
        if new != character.to_string() {
            entries.insert(character.to_string(), new.to_owned());
        }
    }
    let clusters = [("e\u{301}", "é"), ("a\u{300}", "à"), ("z\u{301}", "z'"), ("\u{1100}\u{1161}", "가"), ("\r\n", "")];
    entries.extend(clusters.map(|(key, new)| (key.to_owned(), new.to_owned())));
    entries
}

/// A `tokenizer.json` whose pieces are parts of such lines, most of them; scores recur, so that ways are equally good.
fn tokenizer(normalizer: Value, pre_tokenizer: Value, byte_fallback: bool, unknown: Option<u32>) -> Value {
    let mut numbers = Numbers(7);
    let names = ["<s>", "<pad>", "</s>", "<unk>", "[MASK]"];
    let mut pieces: Vec<(String, f64)> = names.map(|name| (name.to_owned(), 0.0)).to_vec();
    let steps: Option<NormalizerWrapper> = Option::deserialize(&normalizer).unwrap();
    for _ in 0..1500 {
        let mut line = NormalizedString::from(numbers.line());
        steps.iter().for_each(|steps| steps.normalize(&mut line).unwrap());
        let characters: Vec<char> = format!(" {}", line.get()).replace(' ', "▁").chars().collect();
        for _ in 0..3 {
            let from = numbers.below(characters.len());
            let piece: String = characters[from..].iter().take(1 + numbers.below(4)).collect();
            pieces.push((piece, -(numbers.below(12) as f64) - [0.0, 0.3][numbers.below(2)]));
        }
    }
    if byte_fallback {
        pieces.extend((0..=255).map(|byte| (format!("<0x{byte:02X}>"), -9.0)));
    }
    let added = |(id, name): (usize, &&str)| {
        json!({"id": id, "content": name, "single_word": false, "lstrip": *name == "[MASK]", "rstrip": false,
            "normalized": *name == "</s>", "special": true})
    };
    let mut added: Vec<Value> = names.iter().enumerate().filter(|(id, _)| *id != 3).map(added).collect();
    // Of no piece: it gets the next number.
    added.push(json!({"id": pieces.len(), "content": "<mask>", "single_word": false, "lstrip": true, "rstrip": false,
        "normalized": true, "special": true}));
    json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer, "post_processor": null, "decoder": null,
        "model": {"type": "Unigram", "unk_id": unknown, "vocab": pieces, "byte_fallback": byte_fallback}})
}

/// A file of the given bytes, which the caller removes.
fn file(bytes: &[u8], name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("edge-run-unigram-{name}-{}", process::id()));
    fs::write(&path, bytes).unwrap();
    path
}

fn opened(path: &Path) -> Result<MappedTokenizer> {
    let words = Vocabulary::parse(Mapped::open(path)?)?;
    Ok(mapped_tokenizer(words)?.tokenizer)
}

/// Compares ids, pieces, words and offsets of each line, or that both refuse it. Gives the number of lines, of tokens
/// and of lines that were refused.
fn compare(tokenizer: &[u8], name: &str, lines: impl Iterator<Item = String>) -> [usize; 3] {
    let mut whole = Tokenizer::from_bytes(tokenizer).unwrap();
    whole.with_post_processor(None::<PostProcessorWrapper>);
    let path = file(&edge_bundle::vocabulary_of(tokenizer).unwrap().unwrap(), name);
    let mapped = opened(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let mut counts = [0; 3];
    for line in lines {
        counts[0] += 1;
        match (whole.encode_char_offsets(&line[..], false), mapped.encode_char_offsets(&line[..], false)) {
            (Ok(due), Ok(found)) => {
                assert_eq!(found, due, "{name}: {line:?}");
                counts[1] += due.len();
            }
            (Err(_), Err(_)) => counts[2] += 1,
            (due, found) => panic!("{name}: {line:?}: expected {due:?}, found {found:?}"),
        }
    }
    counts
}

fn lines(seed: u64, count: usize) -> impl Iterator<Item = String> {
    let mut numbers = Numbers(seed);
    (0..count).map(move |_| numbers.line())
}

#[test]
fn lines_of_many_scripts_become_the_tokens_of_the_whole_tokenizer() {
    let charsmap = json!({"type": "Precompiled", "precompiled_charsmap": charsmap(&entries())});
    let replace = |pattern: Value, content: &str| json!({"type": "Replace", "pattern": pattern, "content": content});
    let quote = |text: &str| replace(json!({"String": text}), "\"");
    let spaces = replace(json!({"Regex": " {2,}"}), " ");
    let step = |name: &str| json!({"type": name});
    let strip = json!({"type": "Strip", "strip_left": true, "strip_right": true});
    let sequence = |parts: Vec<Value>| json!({"type": "Sequence", "normalizers": parts});
    let space = |scheme: &str, split: bool| json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split});
    let words = json!({"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, space("always", true)]});
    let xlm_r = sequence(vec![charsmap.clone(), spaces.clone()]);
    let albert_steps = vec![
        quote("``"),
        quote("''"),
        step("NFKD"),
        step("StripAccents"),
        step("Lowercase"),
        charsmap.clone(),
        spaces.clone(),
    ];
    let deberta = sequence(vec![strip, charsmap.clone(), spaces]);
    for (name, tokenizer, count) in [
        ("xlm-r", tokenizer(charsmap.clone(), words, false, Some(3)), 10_000),
        ("e5", tokenizer(xlm_r, space("always", true), false, Some(3)), 2_000),
        ("albert", tokenizer(sequence(albert_steps), space("always", true), false, Some(3)), 2_000),
        ("deberta", tokenizer(deberta, space("first", false), false, Some(3)), 2_000),
        ("bytes", tokenizer(sequence(vec![sequence(vec![charsmap])]), space("never", true), true, Some(3)), 2_000),
        ("plain", tokenizer(Value::Null, space("never", false), false, Some(3)), 2_000),
    ] {
        let [compared, tokens, refused] = compare(tokenizer.to_string().as_bytes(), name, lines(1, count));
        assert!(compared == count && tokens > 4 * count, "{name}: {tokens} tokens of {compared} lines");
        assert_eq!(refused, 0, "{name}");
    }
    // Without an unknown token, lines with an unknown character are refused.
    let unset = tokenizer(step("Lowercase"), space("first", true), true, None);
    let [_, tokens, refused] = compare(unset.to_string().as_bytes(), "unset", lines(1, 2_000));
    assert!(tokens > 100 && refused > 100, "{tokens} tokens, {refused} lines refused");
}

#[test]
fn texts_that_grow_are_known_to_grow() {
    let charsmap = json!({"type": "Precompiled", "precompiled_charsmap": charsmap(&entries())});
    for (normalizer, due) in [(charsmap, 33 + 1 + 2), (json!({"type": "Lowercase"}), 3 + 1 + 2)] {
        let tokenizer = tokenizer(normalizer, Value::Null, false, Some(3)).to_string();
        let path = file(&edge_bundle::vocabulary_of(tokenizer.as_bytes()).unwrap().unwrap(), "grown");
        let tokenizer = opened(&path).unwrap();
        fs::remove_file(&path).unwrap();
        // The first becomes eighteen characters. The second becomes nothing, but is there before.
        assert_eq!(tokenizer.get_normalizer().unwrap().most_bytes("\u{fdfa}\u{1}é"), due);
    }
}

#[test]
fn damaged_files_give_tokens_or_are_refused() {
    let charsmap = charsmap(&[("A".to_owned(), "ab".to_owned())].into());
    let normalizer = json!({"type": "Precompiled", "precompiled_charsmap": charsmap});
    let pieces = json!([["<unk>", 0.0], ["a", -1.0], ["ab", -1.5], ["é", -2.0], ["▁", -2.0], ["<0x41>", -3.0]]);
    let model = json!({"type": "Unigram", "unk_id": 0, "byte_fallback": true, "vocab": pieces});
    let whole = json!({"normalizer": normalizer, "model": model}).to_string();
    let whole = edge_bundle::vocabulary_of(whole.as_bytes()).unwrap().unwrap();
    let mut read = 0;
    for at in 0..whole.len() {
        // Most of the charsmap is zeros that nothing points to.
        if whole[at] == 0 && at % 7 > 0 {
            continue;
        }
        for value in [0, 1, 0x80, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] = value;
            let path = file(&bytes, "damaged");
            let tokenizer = opened(&path);
            fs::remove_file(&path).unwrap();
            let Ok(tokenizer) = tokenizer else { continue };
            let _ = tokenizer.encode_char_offsets("A ab éaA▁é👍xx", false);
            read += 1;
        }
    }
    assert!(read > 1000, "{read}");
}

#[test]
#[ignore = "needs a tokenizer.json, which EDGE_TOKENIZER names"]
fn a_real_tokenizer_gives_the_same_tokens() {
    let path = std::env::var("EDGE_TOKENIZER").expect("EDGE_TOKENIZER names a tokenizer.json");
    let tokenizer = fs::read(Path::new(&path)).unwrap();
    let [lines, tokens, _] = compare(&tokenizer, "real", lines(2, 10_000));
    println!("{path}: the same {tokens} tokens of {lines} lines");

    let start = Instant::now();
    let bytes = edge_bundle::vocabulary_of(&tokenizer).unwrap().unwrap();
    println!("made in {:?}, {} bytes", start.elapsed(), bytes.len());
    let path = file(&bytes, "timed");
    let start = Instant::now();
    let mapped = opened(&path).unwrap();
    let opened = start.elapsed();
    fs::remove_file(&path).unwrap();
    let start = Instant::now();
    let whole = Tokenizer::from_bytes(&tokenizer).unwrap();
    println!("opened in {opened:?}, whole in {:?}", start.elapsed());
    for (seed, kind) in [(3, "first"), (3, "again")] {
        let lines: Vec<String> = self::lines(seed, 2000).collect();
        let start = Instant::now();
        lines.iter().for_each(|line| drop(mapped.encode_char_offsets(&line[..], false).unwrap()));
        let mapped = start.elapsed();
        let start = Instant::now();
        lines.iter().for_each(|line| drop(whole.encode_char_offsets(&line[..], false).unwrap()));
        println!("2,000 lines, {kind}: {mapped:?}, whole {:?}", start.elapsed());
    }
}
