//! The patches that ship: each opens, and is written again to the same bytes.

use std::{fs, path::Path};

use bias_patch::Patch;

#[test]
fn every_shipped_patch_is_written_again_to_the_same_bytes() {
    let library = Path::new(env!("CARGO_MANIFEST_DIR")).join("../library");
    let mut names = Vec::new();
    for entry in fs::read_dir(&library).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "bias") {
            continue;
        }
        let bytes = fs::read(&path).unwrap();
        let patch = Patch::open(&path).unwrap();
        assert!(patch.to_bytes().unwrap() == bytes, "{}: other bytes", path.display());
        assert!(patch.slots().is_sorted_by(|a, b| a.id < b.id), "{}", path.display());
        names.push(patch.task().name().to_owned());
    }
    names.sort();
    assert_eq!(names, ["answer", "embed", "mrpc", "pos", "sst2", "stsb"]);
}
