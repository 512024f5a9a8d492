//! Labelled texts. The first byte says which form the file has, the second for which kind of task it is read.

#![no_main]

use std::{cell::LazyCell, collections::BTreeMap};

use bias_patch::Task;
use edge_fuzz::{Place, task};
use edge_patch::data::{read_examples, read_texts};
use libfuzzer_sys::fuzz_target;

const FORMS: [&str; 7] = ["tsv", "csv", "jsonl", "json", "conll", "conllu", "txt"];
const KINDS: [&str; 7] =
    ["classification", "classification 2", "regression", "tagging", "span", "multi-label", "embedding"];

thread_local! {
    static PLACE: LazyCell<(Place, BTreeMap<&'static str, Task>)> =
        LazyCell::new(|| (Place::empty(), KINDS.map(|kind| (kind, task(kind, "t"))).into()));
}

fuzz_target!(|bytes: &[u8]| {
    let [form, kind, file @ ..] = bytes else { return };
    let form = FORMS[usize::from(*form) % FORMS.len()];
    let kind = KINDS[usize::from(*kind) % KINDS.len()];
    PLACE.with(|places| {
        let (place, tasks) = &**places;
        let (name, task) = (format!("texts.{form}"), &tasks[kind]);
        place.write(&name, file);
        let path = place.path(&name);
        let strict = read_examples(&path, task, false);
        let lenient = read_examples(&path, task, true);
        if let Ok(strict) = strict {
            let lenient = lenient.expect("what is read whole is read in part");
            assert_eq!(strict.examples, lenient.examples);
            assert!(lenient.skipped.is_empty());
        }
        let _ = read_texts(&path, task, true);
    });
});
