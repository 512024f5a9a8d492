//! The committed header is the one that the functions of the crate make.
#![forbid(unsafe_code)]

use std::{fs, path::Path};

use cbindgen::{Builder, Config};

#[test]
fn the_header_is_that_of_the_functions() {
    let place = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut builder = Builder::new().with_config(Config::from_file(place.join("cbindgen.toml")).unwrap());
    for source in ["abi", "status", "lib"] {
        builder = builder.with_src(place.join("src").join(source).with_extension("rs"));
    }
    let (made, committed) =
        (Path::new(env!("CARGO_TARGET_TMPDIR")).join("edge_run.h"), place.join("include/edge_run.h"));
    builder.generate().unwrap().write_to_file(&made);
    assert!(
        fs::read(&made).unwrap() == fs::read(&committed).unwrap_or_default(),
        "{}: expected the header of this crate's functions, found another: copy {} there",
        committed.display(),
        made.display()
    );
}
