//! Adapters of PEFT: `adapter_config.json`, and behind a zero byte `adapter_model.safetensors`. Any bytes are imported
//! or refused; a patch that is made of them and has low-rank terms can be written as an adapter, which imports as the
//! same patch.

#![no_main]

use std::cell::LazyCell;

use bias_patch::{SlotKind, Task};
use edge_bundle::Bundle;
use edge_fuzz::Place;
use edge_patch::{extract_peft, import};
use libfuzzer_sys::fuzz_target;
use serde_json::json;

thread_local! {
    static PLACE: LazyCell<(Place, Bundle, Task)> = LazyCell::new(|| {
        let place = Place::with_bundle("bert");
        let (bundle, (config, tensors)) = (place.bundle(), edge_fuzz::adapter());
        place.write_adapter(config.as_bytes(), &tensors);
        let task = json!({ "name": "t", "kind": "classification", "labels": ["no", "yes"], "pooling": "pooler", "max_length": 40 });
        let task: Task = serde_json::from_value(task).unwrap();
        import(&bundle, &place.path("adapter"), task.clone(), &[]).expect("the seed imports");
        (place, bundle, task)
    });
}

fuzz_target!(|bytes: &[u8]| {
    let Some(end) = bytes.iter().position(|byte| *byte == 0) else { return };
    PLACE.with(|places| {
        let (place, bundle, task) = &**places;
        place.write_adapter(&bytes[..end], &bytes[end + 1..]);
        let Ok(imported) = import(bundle, &place.path("adapter"), task.clone(), &[]) else { return };
        let patch = imported.patch;
        if !patch.slots().iter().any(|slot| slot.id.kind == SlotKind::LoraA) {
            return;
        }
        // Not every head has a place in transformers' model.
        let Ok(adapter) = extract_peft(bundle, &patch) else { return };
        adapter.save(&place.path("again")).expect("an adapter can be written");
        let again = import(bundle, &place.path("again"), task.clone(), &[]).expect("what was written reads");
        assert_eq!((again.patch.slots(), again.patch.head()), (patch.slots(), patch.head()));
    });
});
