//! `encoder.onnx`: any bytes in the place of an encoder's graph are lowered to operators or refused.

#![no_main]

use std::cell::LazyCell;

use edge_bundle::Manifest;
use edge_fuzz::Place;
use edge_run::{Encoder, EngineOptions};
use libfuzzer_sys::fuzz_target;

thread_local! {
    static PLACE: LazyCell<(Place, Manifest)> = LazyCell::new(|| {
        let place = Place::with_bundle("bert");
        let manifest = place.bundle().manifest().clone();
        (place, manifest)
    });
}

fuzz_target!(|bytes: &[u8]| {
    PLACE.with(|places| {
        let (place, manifest) = &**places;
        place.write_into_bundle(manifest, "encoder.onnx", bytes);
        if let Err(error) = Encoder::load(place.bundle(), EngineOptions { threads: 1, ..EngineOptions::default() }) {
            assert!(error.to_string().contains("encoder.onnx"), "{error}");
        }
    });
});
