//! A checkpoint's `model.safetensors`: the header is read, then every tensor.

#![no_main]

use std::cell::LazyCell;

use edge_fuzz::Place;
use hf_checkpoint::Checkpoint;
use libfuzzer_sys::fuzz_target;

thread_local! {
    static PLACE: LazyCell<Place> = LazyCell::new(Place::empty);
}

fuzz_target!(|bytes: &[u8]| {
    PLACE.with(|place| {
        place.write("model.safetensors", bytes);
        let Ok(checkpoint) = Checkpoint::open_file(&place.path("model.safetensors")) else { return };
        for name in checkpoint.names() {
            let shape = checkpoint.shape(name).expect("a tensor that is named");
            if let Ok(values) = checkpoint.read(name, shape) {
                // A product of dimensions may overflow where one of them is zero.
                assert!(values.is_empty() == shape.contains(&0));
            }
        }
    });
});
