//! Panels of three small tensors. The first byte says in which number format the matrix is. Any bytes, as they are and
//! behind a right header and checksum, are read or refused.

#![no_main]

use std::cell::LazyCell;

use edge_bundle::{Manifest, PanelIndex};
use edge_fuzz::{ELEMENTS, Place, SmallPanels};
use libfuzzer_sys::fuzz_target;

thread_local! {
    static PLACE: LazyCell<(Place, [SmallPanels; 4])> = LazyCell::new(|| {
        let place = Place::empty();
        let panels = ELEMENTS.map(|element| SmallPanels::of(element, &place));
        (place, panels)
    });
}

fuzz_target!(|bytes: &[u8]| {
    let Some((format, file)) = bytes.split_first() else { return };
    PLACE.with(|places| {
        let (place, panels) = &**places;
        let SmallPanels { manifest, header, checksum, .. } = &panels[usize::from(*format) % panels.len()];
        check(place, manifest, file);
        let mut sealed = [header, file].concat();
        sealed[*checksum..*checksum + 4].copy_from_slice(&crc32fast::hash(file).to_le_bytes());
        check(place, manifest, &sealed);
    });
});

fn check(place: &Place, manifest: &Manifest, file: &[u8]) {
    place.write("panels", file);
    match PanelIndex::verify(&place.path("panels"), manifest) {
        Ok(index) => assert_eq!(index.tensors().len(), manifest.tensors.len()),
        Err(error) => assert!(error.to_string().contains("panels"), "{error}"),
    }
}
