//! Patches. Any bytes, as they are and with a right checksum, are read or refused; what is read is written back and
//! reads again.

#![no_main]

use bias_patch::{Digest, Patch};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    let mut sealed = bytes.to_vec();
    sealed.extend_from_slice(&Digest::of(bytes).0[..8]);
    check(&sealed);
});

fn check(bytes: &[u8]) {
    if let Ok(patch) = Patch::from_bytes(bytes) {
        let written = patch.to_bytes().expect("a patch that was read can be written");
        assert_eq!(Patch::from_bytes(&written).expect("what was written reads"), patch);
    }
}
