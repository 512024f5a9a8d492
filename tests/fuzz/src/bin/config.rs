//! A checkpoint's `config.json`, up to the graph that is built of it. Tensors are missing, so every input is refused.

#![no_main]

use std::cell::LazyCell;

use edge_fuzz::Place;
use libfuzzer_sys::fuzz_target;

thread_local! {
    static PLACE: LazyCell<Place> = LazyCell::new(|| Place::with_checkpoint("bert", false));
}

fuzz_target!(|bytes: &[u8]| {
    PLACE.with(|place| {
        place.write("checkpoint/config.json", bytes);
        assert!(!place.refuse_checkpoint().is_empty());
    });
});
