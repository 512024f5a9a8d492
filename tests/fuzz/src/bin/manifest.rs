//! `bundle.json` and `base.bias`. The input is the manifest; behind a zero byte come base values, whose length and
//! digests are then put into the manifest, so that what is checked after them is reached.

#![no_main]

use std::{cell::LazyCell, fs};

use bias_patch::Digest;
use edge_bundle::{Bundle, MANIFEST, Manifest};
use edge_fuzz::Place;
use libfuzzer_sys::fuzz_target;

thread_local! {
    static PLACE: LazyCell<Place> = LazyCell::new(Place::empty);
}

fuzz_target!(|bytes: &[u8]| {
    let (text, base) = match bytes.iter().position(|byte| *byte == 0) {
        Some(at) => (&bytes[..at], &bytes[at + 1..]),
        None => (bytes, &[][..]),
    };
    PLACE.with(|place| {
        open(place, text, base);
        let Ok(mut manifest) = serde_json::from_slice::<Manifest>(text) else { return };
        let Some(entry) = manifest.files.get_mut("base.bias") else { return };
        (entry.bytes, entry.sha256) = (base.len() as u64, Digest::of(base));
        let digests = ["base.bias", "encoder.onnx"].map(|name| manifest.files.get(name).map(|entry| entry.sha256));
        let ([Some(base_digest), Some(graph)], Some(tokenizer)) = (digests, manifest.files.get("tokenizer.json"))
        else {
            return;
        };
        manifest.tokenizer = tokenizer.sha256;
        manifest.encoder =
            Manifest::identity(&manifest.config, manifest.tokenizer, [base_digest, graph], &manifest.tensors);
        open(place, &serde_json::to_vec(&manifest).expect("what was read can be written"), base);
    });
});

/// Opens a bundle of these and of as many zeros as each other file should have, up to a limit.
fn open(place: &Place, text: &[u8], base: &[u8]) {
    const MOST: u64 = 1 << 16;
    // No input finds the files of another.
    for entry in fs::read_dir(place.path("")).unwrap() {
        let _ = fs::remove_file(entry.unwrap().path());
    }
    place.write(MANIFEST, text);
    place.write("base.bias", base);
    if let Ok(manifest) = serde_json::from_slice::<Manifest>(text) {
        for (name, entry) in manifest.files.iter().filter(|(name, _)| ![MANIFEST, "base.bias"].contains(&name.as_str()))
        {
            // Names such as "../x" are the parser's to refuse, not ours to write.
            if entry.bytes <= MOST
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'.')
                && name.len() < 20
            {
                let _ = fs::write(place.path(name), vec![0; entry.bytes as usize]);
            }
        }
    }
    let Ok(bundle) = Bundle::open(&place.path("")) else { return };
    let manifest = bundle.manifest();
    assert_eq!(manifest.shape().slots.len(), manifest.slots.len());
    if let Ok(base) = bundle.base() {
        let lengths = manifest.slots.iter().map(|slot| slot.len as usize);
        assert!(base.slots().iter().map(Vec::len).eq(lengths), "base values of other lengths than the slots");
        assert!(base.slots().iter().flatten().all(|value| value.is_finite()));
    }
    let _ = bundle.verify(|_| ());
}
