//! Patch files: what is written reads back, and nothing else is read.

use std::time::{Duration, Instant};

use bias_patch::{
    Activation, Digest, EncoderShape, Encoding, Error, Head, Linear, LowRank, Module, Patch, SlotId, SlotKind,
    SlotShape, Stored, StoredSlot, Task,
};

/// Numbers in [-1, 1) from a fixed linear congruential generator.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn values(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.next() as f32 / (1u64 << 30) as f32 - 1.0).collect()
    }
}

const SLOTS: [(Module, Option<u16>, usize); 5] = [
    (Module::EmbeddingNorm, None, 8),
    (Module::Query, Some(0), 8),
    (Module::Middle, Some(0), 300),
    (Module::Value, Some(1), 8),
    (Module::Pooler, None, 8),
];

/// Every kind, and some with settings.
const KINDS: [&str; 11] = [
    "classification",
    "regression",
    "tagging",
    "span",
    "long span",
    "no answer",
    "sigmoid",
    "multi-label",
    "thresholds",
    "embedding",
    "cut embedding",
];

fn task(kind: &str) -> Task {
    let json = match kind {
        "classification" => {
            r#"{"name":"t","kind":"classification","labels":["no","yes"],"pooling":"pooler","max_length":64}"#
        }
        "regression" => r#"{"name":"t","kind":"regression","pooling":"mean","inputs":2}"#,
        "tagging" => r#"{"name":"t","kind":"tagging","labels":["A","B"]}"#,
        "long span" => r#"{"name":"t","kind":"span","inputs":2,"max_answer_length":300}"#,
        "no answer" => r#"{"name":"t","kind":"span","inputs":2,"no_answer":-1.5}"#,
        "sigmoid" => r#"{"name":"t","kind":"regression","pooling":"mean","inputs":2,"sigmoid":true}"#,
        "multi-label" => r#"{"name":"t","kind":"multi-label","labels":["A","B","C"],"pooling":"last"}"#,
        "thresholds" => {
            r#"{"name":"t","kind":"multi-label","labels":["A","B"],"pooling":"mean","thresholds":[0.25,0.75]}"#
        }
        "embedding" => r#"{"name":"t","kind":"embedding","pooling":"mean"}"#,
        "cut embedding" => {
            r#"{"name":"t","kind":"embedding","pooling":"cls","dimensions":5,"normalize":false,
                "prompts":{"default":"query: ","passage":"passage: "}}"#
        }
        _ => r#"{"name":"t","kind":"span","inputs":2}"#,
    };
    serde_json::from_str(json).unwrap()
}

fn linear(numbers: &mut Numbers, outputs: usize, inputs: usize, encoding: Encoding) -> Linear {
    let encode = |values: &[f32]| Stored::encode(values, None, encoding).unwrap();
    Linear {
        outputs: outputs as u32,
        inputs: inputs as u32,
        weight: encode(&numbers.values(outputs * inputs)),
        bias: encode(&numbers.values(outputs)),
    }
}

/// A patch with every slot in `encoding`; a hidden head layer for classification.
fn patch(kind: &str, encoding: Encoding) -> Patch {
    let mut numbers = Numbers(7);
    let slots = SLOTS.map(|(term, layer, len)| {
        // Cubed: mostly small values, as trained changes are, so that entropy coding has something to gain.
        let values: Vec<f32> = numbers.values(len).iter().map(|v| v * v * v).collect();
        let values = Stored::encode(&values, Some(&vec![0.0; len]), encoding).unwrap();
        StoredSlot { id: SlotId::new(term, layer).unwrap(), values }
    });
    let task = task(kind);
    let dense = (kind == "classification").then(|| (linear(&mut numbers, 8, 8, encoding), Activation::Tanh));
    let output = task.kind().outputs().map(|outputs| linear(&mut numbers, outputs, 8, encoding));
    let metadata = [("data", "none"), ("made", "by a test")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    Patch::new(Digest::of(b"encoder"), task, slots.to_vec(), Head { dense, output }, metadata).unwrap()
}

/// The encoder that [`SLOTS`] are of, with the inputs of its linear layers.
fn encoder() -> EncoderShape<'static> {
    let slots = SLOTS.map(|(module, layer, len)| SlotShape {
        id: SlotId::new(module, layer).unwrap(),
        name: module.symbol(),
        len: len as u32,
        inputs: module.is_linear().then_some(8),
    });
    let digest = Digest::of(b"encoder");
    EncoderShape {
        digest,
        layers: 2,
        hidden: 8,
        max_length: 128,
        pooler: true,
        key_bias_counts: false,
        slots: slots.to_vec(),
    }
}

fn base() -> Vec<Vec<f32>> {
    SLOTS.map(|(.., len)| vec![0.0; len]).to_vec()
}

/// A low-rank term's two slots.
fn term(numbers: &mut Numbers, at: usize, rank: usize, encoding: Encoding) -> [StoredSlot; 2] {
    let (module, layer, len) = SLOTS[at];
    [(SlotKind::LoraA, 8), (SlotKind::LoraB, len)].map(|(kind, width)| {
        let id = SlotId::new(module, layer).unwrap().with_kind(kind).unwrap();
        StoredSlot { id, values: Stored::encode(&numbers.values(rank * width), None, encoding).unwrap() }
    })
}

/// [`patch`] with low-rank terms of the query and the middle of layer 0, of ranks 2 and 1, and no bias of the middle.
fn patch_with_terms(kind: &str, encoding: Encoding) -> Patch {
    let (plain, mut numbers) = (patch(kind, encoding), Numbers(8));
    let mut slots = plain.slots().to_vec();
    slots.remove(2);
    slots.splice(2..2, term(&mut numbers, 1, 2, encoding).into_iter().chain(term(&mut numbers, 2, 1, encoding)));
    Patch::new(plain.encoder(), plain.task().clone(), slots, plain.head().clone(), plain.metadata().clone()).unwrap()
}

fn encodings() -> Vec<Encoding> {
    ["f32", "f16", "i8", "i4", "i3", "i2", "i1", "i4/64", "i8/8"].iter().map(|e| e.parse().unwrap()).collect()
}

/// Makes the checksum right again after a change, so that what is behind it is tested.
fn seal(mut bytes: Vec<u8>) -> Vec<u8> {
    let body = bytes.len() - 8;
    let digest = Digest::of(&bytes[..body]);
    bytes[body..].copy_from_slice(&digest.0[..8]);
    bytes
}

#[test]
fn every_kind_and_encoding_reads_back() {
    for (number, kind) in KINDS.into_iter().enumerate() {
        for (place, encoding) in encodings().into_iter().enumerate() {
            // Miri takes a second for what takes a millisecond: there each kind and each encoding has its turn once.
            if cfg!(miri) && number % encodings().len() != place {
                continue;
            }
            let written = patch(kind, encoding);
            let bytes = written.to_bytes().unwrap();
            assert_eq!(Patch::from_bytes(&bytes).unwrap(), written, "{kind} {encoding}");
            let written = patch_with_terms(kind, encoding);
            let bytes = written.to_bytes().unwrap();
            assert_eq!(Patch::from_bytes(&bytes).unwrap(), written, "{kind} {encoding}, with terms");
        }
    }
}

#[test]
fn entropy_coding_is_used_where_it_is_smaller() {
    let size = |encoding: &str| patch("span", encoding.parse().unwrap()).to_bytes().unwrap().len();
    let values: usize = SLOTS.iter().map(|(.., len)| len).sum::<usize>() + 18;
    // Twelve bytes a slot is more than the header takes for it, so only coding explains less than the packed size.
    assert!(size("i4") < values / 2 + 12 * SLOTS.len() + 120, "{} bytes", size("i4"));
    assert!(size("i8") > size("i4") && size("i4") > size("i3") && size("i3") > size("i2") && size("i2") > size("i1"));
}

#[test]
fn version_1_stays_readable() {
    let golden = include_bytes!("golden-v1.bias");
    let expected = patch("classification", "i4".parse().unwrap());
    assert_eq!(Patch::from_bytes(golden).unwrap(), expected);
    assert_eq!(expected.to_bytes().unwrap(), golden, "version 1 is also written as it was");
}

#[test]
fn version_2_stays_readable() {
    let golden = include_bytes!("golden-v2.bias");
    let expected = patch_with_terms("classification", "i4".parse().unwrap());
    assert_eq!(Patch::from_bytes(golden).unwrap(), expected);
    assert_eq!(expected.to_bytes().unwrap(), golden, "version 2 is also written as it was");
}

#[test]
fn version_3_stays_readable() {
    for (kind, golden) in [
        ("thresholds", &include_bytes!("golden-v3-thresholds.bias")[..]),
        ("cut embedding", include_bytes!("golden-v3-embedding.bias")),
        ("no answer", include_bytes!("golden-v3-no-answer.bias")),
    ] {
        let expected = patch_with_terms(kind, "i4".parse().unwrap());
        assert_eq!(Patch::from_bytes(golden).unwrap(), expected);
        assert_eq!(expected.to_bytes().unwrap(), golden, "version 3 is also written as it was");
    }
}

#[test]
fn dimensions_are_at_most_the_width_of_the_vector() {
    let (whole, base) = (patch("cut embedding", Encoding::F32), base());
    assert!(whole.apply(&encoder(), &base).is_ok());
    let json = r#"{"name":"t","kind":"embedding","pooling":"cls","dimensions":DIMS}"#;
    let with = |dimensions: &str, head: Head| {
        let task = serde_json::from_str(&json.replace("DIMS", dimensions)).unwrap();
        Patch::new(whole.encoder(), task, Vec::new(), head, []).unwrap().check(&encoder())
    };
    let narrow = || Head::of(linear(&mut Numbers(1), 3, 8, Encoding::F32));
    assert!(with("8", Head::default()).is_ok() && with("3", narrow()).is_ok());
    let error = with("4", narrow()).unwrap_err().to_string();
    assert!(error.contains("dimensions: expected at most 3, the width of the vector, found 4"), "{error}");
    assert!(with("9", Head::default()).is_err());
}

#[test]
fn a_patch_has_the_lowest_version_that_holds_it() {
    let version =
        |bytes: Vec<u8>, version: u8| Patch::from_bytes(&seal([&bytes[..8], &[version], &bytes[9..]].concat()));
    let message = |found: bias_patch::Result<Patch>| found.unwrap_err().to_string();
    let (plain, with) = (patch("span", Encoding::F32), patch_with_terms("span", Encoding::F32));
    let (plain, with) = (plain.to_bytes().unwrap(), with.to_bytes().unwrap());
    assert_eq!((plain[8], with[8]), (1, 2));
    assert_eq!(message(version(plain.clone(), 2)), "version: expected 1, for it needs no other, found 2");
    assert_eq!(message(version(with.clone(), 1)), "version of a patch with slot lora_a.q.0: expected 2, found 1");
    // Version 3 has a list of settings after its header, so its bytes are others.
    assert_eq!(patch_with_terms("embedding", Encoding::F32).to_bytes().unwrap()[8], 3);
    assert!(message(version(with.clone(), 3)).starts_with("header"));
    for unknown in [0, 4] {
        assert!(message(version(with.clone(), unknown)).contains("reads versions up to 3"));
    }
}

#[test]
fn low_rank_terms_are_applied_beside_the_biases() {
    let (encoder, base) = (encoder(), base());
    let patch = patch_with_terms("classification", Encoding::F32);
    let values = patch.apply(&encoder, &base).unwrap();
    assert_eq!(values.slots[2], base[2], "its bias is not stored");
    let found: Vec<(usize, usize)> = values.low_rank.iter().map(|term| (term.slot, term.rank)).collect();
    assert_eq!(found, [(1, 2), (2, 1)]);
    let LowRank { a, b, .. } = &values.low_rank[1];
    assert_eq!((a.len(), b.len()), (8, 300));
    let stored = |at: usize| patch.slots()[at].values.values(None);
    assert_eq!((a, b), (&stored(4), &stored(5)));

    // Converted as the rest is; and if one part is left out, both are.
    let coarse = patch.convert(&encoder, &base, "i2".parse().unwrap(), Encoding::F16).unwrap();
    assert_eq!(coarse.slots().len(), patch.slots().len());
    let without = |left_out: SlotKind| {
        let keep = |id: SlotId| (id.kind != left_out || id.module != Module::Query).then_some(Encoding::F16);
        patch.convert_each(&encoder, &base, keep, |_| Encoding::F16).unwrap()
    };
    for kind in [SlotKind::LoraA, SlotKind::LoraB] {
        let ids: Vec<String> = without(kind).slots().iter().map(|slot| slot.id.to_string()).collect();
        assert_eq!(ids, ["beln", "bq.0", "lora_a.m2.0", "lora_b.m2.0", "bv.1", "bpool"]);
    }
}

#[test]
fn low_rank_terms_that_do_not_fit_are_refused() {
    let (encoder, mut numbers) = (encoder(), Numbers(9));
    let good = patch("span", Encoding::F32);
    let make = |slots: Vec<StoredSlot>| Patch::new(good.encoder(), good.task().clone(), slots, good.head().clone(), []);
    let [a, b] = term(&mut numbers, 1, 2, Encoding::F32);
    let message = |result: bias_patch::Result<Patch>| result.unwrap_err().to_string();
    assert_eq!(message(make(vec![a.clone()])), "slot lora_b.q.0: expected one, for there is lora_a.q.0, found none");
    assert_eq!(message(make(vec![b.clone()])), "slot lora_a.q.0: expected one, for there is lora_b.q.0, found none");
    let beside = |slot: &StoredSlot, len: usize| StoredSlot {
        id: slot.id,
        values: Stored::encode(&vec![0.5; len], None, Encoding::F32).unwrap(),
    };
    let check = |a: StoredSlot, b: StoredSlot| make(vec![a, b]).unwrap().check(&encoder).unwrap_err().to_string();
    assert_eq!(check(beside(&a, 8), b.clone()), "slot lora_b.q.0: expected rank 1, as lora_a.q.0 has, found rank 2");
    assert_eq!(check(beside(&a, 15), b.clone()), "slot lora_a.q.0 (bq): expected 1 to 8 times 8 values, found 15");
    assert_eq!(check(a.clone(), beside(&b, 72)), "slot lora_b.q.0 (bq): expected 1 to 8 times 8 values, found 72");
    let other = term(&mut numbers, 3, 1, Encoding::F32)
        .map(|slot| StoredSlot { id: SlotId { layer: Some(7), ..slot.id }, ..slot });
    let [a, b] = other;
    assert_eq!(check(a, b), "slot lora_a.v.7: the encoder has no such slot (it has 2 layers)");
    // A linear layer that takes no term in this encoder.
    let mut other = encoder;
    other.slots.iter_mut().filter(|slot| slot.id.module == Module::Query).for_each(|slot| slot.inputs = None);
    let both = make(term(&mut numbers, 1, 2, Encoding::F32).into()).unwrap();
    let error = both.check(&other).unwrap_err().to_string();
    assert_eq!(error, "slot lora_a.q.0 (bq): expected none, for this encoder takes no low-rank term there, found one");
    let norm = SlotId::new(Module::EmbeddingNorm, None).unwrap();
    let error = norm.with_kind(SlotKind::LoraA).unwrap_err().to_string();
    assert_eq!(error, "low-rank term of eln: expected a linear layer, found a LayerNorm");
}

/// Anybody's file may have as many slots as there are layers to name.
#[test]
fn many_terms_take_time_in_proportion() {
    let good = patch("span", Encoding::F32);
    let values = Stored::encode(&[0.5], None, Encoding::F32).unwrap();
    let of_layer = |layer: u16| {
        let id = SlotId::new(Module::Query, Some(layer)).unwrap();
        [SlotKind::LoraA, SlotKind::LoraB].map(|kind| (id.with_kind(kind).unwrap(), values.clone()))
    };
    let slots = (0..=u16::MAX).flat_map(of_layer).map(|(id, values)| StoredSlot { id, values });
    let slots: Vec<StoredSlot> = slots.collect();
    let begun = Instant::now();
    let made = Patch::new(good.encoder(), good.task().clone(), slots, good.head().clone(), []).unwrap();
    let bytes = made.to_bytes().unwrap();
    assert_eq!(Patch::from_bytes(&bytes).unwrap(), made);
    let spent = begun.elapsed();
    assert!(spent < Duration::from_secs(20), "{} slots took {spent:?}", made.slots().len());
}

#[test]
fn an_answer_length_is_written_only_where_it_is_another() {
    let (short, long) = (patch("span", Encoding::F32), patch("long span", Encoding::F32));
    let (without, with) = (short.to_bytes().unwrap(), long.to_bytes().unwrap());
    let header = u32::from_le_bytes(without[12..16].try_into().unwrap());
    assert_eq!(with[12..16], (header + 2).to_le_bytes(), "300 is a varint of two bytes");
    let end = 16 + header as usize;
    assert_eq!(with[end..end + 2], [0xac, 0x02]);
    assert_eq!([&with[16..end], &with[end + 2..with.len() - 8]].concat(), without[16..without.len() - 8]);

    // The default written out, no length at all, more than there is, and a length where there are no answers.
    let put = |bytes: &[u8], varint: &[u8]| {
        let header = u32::from_le_bytes(bytes[12..16].try_into().unwrap());
        let end = 16 + header as usize;
        let length = (header + varint.len() as u32).to_le_bytes();
        let made = [&bytes[..12], &length, &bytes[16..end], varint, &bytes[end..]].concat();
        Patch::from_bytes(&seal(made)).unwrap_err().to_string()
    };
    let cases: [(&[u8], &str); 5] = [
        (&[30], "max_answer_length: expected nothing where it is the default"),
        (&[0], "max_answer_length: expected 1 to 1048576 tokens, found 0"),
        (&[0x80, 0x80, 0x80, 0x01], "max_answer_length: expected 1 to 1048576 tokens, found 2097152"),
        (&[0xac, 0x82, 0x00], "shortest form"),
        (&[31, 0], "header"),
    ];
    for (varint, said) in cases {
        let error = put(&without, varint);
        assert!(error.contains(said), "{varint:?}: {error}");
    }
    let error = put(&patch("tagging", Encoding::F32).to_bytes().unwrap(), &[31]);
    assert!(error.contains("max_answer_length: expected none for a tagging task"), "{error}");
}

#[test]
fn every_truncation_and_every_flipped_bit_is_refused() {
    for kind in KINDS {
        let bytes = patch(kind, "i3".parse().unwrap()).to_bytes().unwrap();
        for len in 0..bytes.len() {
            assert!(Patch::from_bytes(&bytes[..len]).is_err(), "{kind}: {len} of {} bytes were accepted", bytes.len());
        }
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Patch::from_bytes(&flipped).is_err(), "{kind}: flipped bit {bit} was accepted");
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert!(matches!(Patch::from_bytes(&longer), Err(Error::Checksum { .. })), "{kind}");
    }
}

/// The fuzz target puts the right checksum behind its input, so its seeds have none.
#[test]
fn the_fuzz_target_starts_from_a_patch_of_each_kind() {
    let seeds = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/seeds/patch");
    for kind in KINDS {
        let bytes = patch_with_terms(kind, "i4".parse().unwrap()).to_bytes().unwrap();
        let seed = seeds.join(kind.replace(' ', "-"));
        if std::env::var_os("WRITE_SEEDS").is_some() {
            std::fs::write(&seed, &bytes[..bytes.len() - 8]).unwrap();
        }
        let found = std::fs::read(&seed).unwrap_or_default();
        assert!(found == bytes[..bytes.len() - 8], "{}: run this test with WRITE_SEEDS=1", seed.display());
    }
}

#[test]
fn each_attack_gets_its_own_answer() {
    let bytes = patch("classification", Encoding::F32).to_bytes().unwrap();
    let with = |at: usize, new: &[u8]| {
        let mut changed = bytes.clone();
        changed[at..at + new.len()].copy_from_slice(new);
        Patch::from_bytes(&seal(changed)).unwrap_err()
    };
    assert!(matches!(Patch::from_bytes(b""), Err(Error::NotAPatch)));
    assert!(matches!(Patch::from_bytes(b"something else, long enough"), Err(Error::NotAPatch)));
    assert!(matches!(with(8, &[4, 0]), Error::Version { expected: 3, found: 4, .. }));
    assert!(matches!(with(10, &[1]), Error::Field { field, .. } if field.contains("preamble")));
    assert!(
        matches!(with(12, &u32::MAX.to_le_bytes()), Error::Length { part, expected: 0xffff_ffff, .. } if part == "header")
    );
    assert!(matches!(with(12, &[1, 0, 0, 0]), Error::Field { field, .. } if field == "header"));

    // One payload byte too many and too few.
    let body = bytes.len() - 8;
    let longer = [&bytes[..body], &[0; 9]].concat();
    assert!(matches!(Patch::from_bytes(&seal(longer)), Err(Error::Length { part, .. }) if part == "payload"));
    let shorter = [&bytes[..body - 1], &[0; 8]].concat();
    assert!(
        matches!(Patch::from_bytes(&seal(shorter)), Err(Error::Length { part, .. }) if part.starts_with("head output"))
    );

    // The payload begins with embedding LayerNorm values; its place follows from the lengths of what is after it.
    let payload = 4 * (SLOTS.iter().map(|(.., len)| len).sum::<usize>() + 8 * 8 + 8 + 2 * 8 + 2);
    let first = body - payload;
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let error = with(first + 4 * 3, &bad.to_le_bytes());
        assert!(matches!(&error, Error::Field { field, .. } if field == "slot beln, number 3"), "{error}");
    }
    let error = with(body - 4, &f32::NAN.to_le_bytes());
    assert!(matches!(&error, Error::Field { field, .. } if field.starts_with("head output bias")), "{error}");
}

#[test]
fn parts_that_disagree_make_no_patch() {
    let good = patch("classification", Encoding::F32);
    let make = |slots: Vec<StoredSlot>, head: Head| Patch::new(good.encoder(), good.task().clone(), slots, head, []);
    let message = |result: bias_patch::Result<Patch>| result.unwrap_err().to_string();
    let slots = good.slots().to_vec();

    let mut twice = slots.clone();
    twice.insert(1, slots[0].clone());
    assert!(message(make(twice, good.head().clone())).contains("each slot once"));
    let mut reversed = slots.clone();
    reversed.reverse();
    assert!(message(make(reversed, good.head().clone())).contains("in the order of the forward pass"));
    let mut numbers = Numbers(1);
    let narrow = Head::of(linear(&mut numbers, 3, 8, Encoding::F32));
    assert!(message(make(slots.clone(), narrow)).contains("head output weight: expected 2 rows"));
    let mut unchained = good.head().clone();
    unchained.output = Some(linear(&mut numbers, 2, 5, Encoding::F32));
    assert!(message(make(slots.clone(), Head::default())).contains("head output weight: expected 2 rows"));
    assert!(message(make(slots, unchained)).contains("head output weight: expected 8 columns, found 5"));
}

/// Random damage with a right checksum: never a panic, never slow, and what is accepted is written back as it was.
#[test]
fn random_damage_is_survived() {
    let mut numbers = Numbers(42);
    let seeds: Vec<Vec<u8>> = KINDS
        .iter()
        .flat_map(|kind| encodings().into_iter().flat_map(move |e| [patch(kind, e), patch_with_terms(kind, e)]))
        .map(|patch| patch.to_bytes().unwrap())
        .collect();
    let (mut accepted, begun) = (0, Instant::now());
    const ROUNDS: usize = 40_000;
    for _ in 0..ROUNDS {
        let mut bytes = seeds[numbers.below(seeds.len())].clone();
        for _ in 0..=numbers.below(4) {
            // The header is where damage is most interesting.
            let span = if numbers.below(4) > 0 { bytes.len().min(160) } else { bytes.len() };
            let at = numbers.below(span);
            match numbers.below(4) {
                0 => bytes[at] ^= 1 << numbers.below(8),
                1 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][numbers.below(5)],
                2 => drop(bytes.drain(at..(at + numbers.below(9)).min(bytes.len()))),
                _ => drop(bytes.splice(at..at, (0..numbers.below(9)).map(|n| n as u8 ^ 0x80).collect::<Vec<_>>())),
            }
        }
        if bytes.len() < 8 {
            continue;
        }
        if let Ok(read) = Patch::from_bytes(&seal(bytes)) {
            accepted += 1;
            let again = Patch::from_bytes(&read.to_bytes().unwrap()).unwrap();
            assert_eq!(again, read);
        }
    }
    assert!(accepted > 0, "damage to values alone is still a patch");
    let spent = begun.elapsed();
    assert!(spent < Duration::from_secs(120), "{ROUNDS} damaged patches took {spent:?}");
}
