//! Panels files: made once, made again if damaged, refused for another processor, and not left in part on a full disk.

use std::{fs, process::Stdio};

use system_tests::{assert_refused, assert_succeeded, command, in_shell, int8, place::Place, small_bundle_with};

#[test]
fn a_prepared_encoder_has_its_panels_before_the_first_text() {
    let place = Place::new("bert");
    let panels = place.home.path().join("bundle/panels-f32x16.bin");
    let prepare = || command("edge-run", place.home.path()).arg("prepare").arg(place.bundle.dir()).output().unwrap();
    assert!(!panels.exists());
    for how in ["made", "found"] {
        let said = assert_succeeded(&prepare());
        let bytes = fs::metadata(&panels).unwrap().len();
        assert_eq!(said, format!("{}: {bytes} bytes, {how}\n", panels.display()));
    }
    fs::remove_file(&panels).unwrap();
    fs::write(place.home.path().join("bundle/weights.bin"), b"short").unwrap();
    assert_refused(&prepare(), &["weights.bin", "expected", "bytes, found 5"]);
}

#[test]
fn panels_are_made_once_and_again_when_they_are_damaged() {
    let place = Place::new("bert");
    let panels = place.home.path().join("bundle/panels-f32x16.bin");
    let run = || assert_succeeded(&place.run(&["-p", "label.bias", "--logits"], b"good\n"));
    let first = run();
    let bytes = fs::read(&panels).unwrap();
    let made = fs::metadata(&panels).unwrap().modified().unwrap();
    assert_eq!(run(), first);
    assert_eq!(fs::metadata(&panels).unwrap().modified().unwrap(), made, "made again for nothing");
    let mut altered = bytes.clone();
    altered[bytes.len() - 100] ^= 1;
    let mut other_version = bytes.clone();
    other_version[8] = 9;
    fs::write(&panels, &altered).unwrap();
    let verified = command("edge-export", place.home.path()).arg("verify").arg(place.bundle.dir()).output().unwrap();
    assert_refused(&verified, &["panels-f32x16.bin", "checksum mismatch"]);
    for damaged in [&altered, &other_version, &bytes[..bytes.len() - 4].to_vec(), &b"short".to_vec()] {
        fs::write(&panels, damaged).unwrap();
        assert_eq!(run(), first);
        assert_eq!(fs::read(&panels).unwrap(), bytes, "panels were not made again");
    }
    // Several processes at once, while there are none.
    fs::remove_file(&panels).unwrap();
    fs::write(place.home.path().join("one.txt"), "good\n").unwrap();
    let children: Vec<_> = (0..6)
        .map(|_| {
            let mut run = command("edge-run", place.home.path());
            let run = run.current_dir(place.home.path()).args([
                "--bundle",
                "bundle",
                "-p",
                "label.bias",
                "--logits",
                "one.txt",
            ]);
            run.stdout(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for child in children {
        assert_eq!(assert_succeeded(&child.wait_with_output().unwrap()), first);
    }
    assert_eq!(fs::read(&panels).unwrap(), bytes);
    let left = fs::read_dir(place.bundle.dir()).unwrap().count();
    assert_eq!(left, place.bundle.manifest().files.len() + 2, "something is left beside the panels");
}

#[test]
fn panels_of_other_kernels_say_which_and_what_to_do() {
    let place = Place::new("bert");
    let (_other, int8) = small_bundle_with("bert", int8());
    let bundle = place.home.path().join("bundle");
    let panels = bundle.join("panels-f32x16.bin");
    let run = || place.run(&["-p", "label.bias"], b"good\n");
    let answer = assert_succeeded(&run());
    let (good, weights) = (fs::read(&panels).unwrap(), fs::read(bundle.join("weights.bin")).unwrap());
    fs::remove_file(bundle.join("weights.bin")).unwrap();
    assert_eq!(assert_succeeded(&run()), answer);

    // The layout's name follows the preamble of 16 bytes and its own length.
    let mut wider = good.clone();
    assert_eq!(&wider[17..23], b"f32x16");
    wider[17..23].copy_from_slice(b"f32x32");
    let mut later = good.clone();
    later[8] = 3;
    let mut another = good.clone();
    another[23] ^= 1;
    assert_succeeded(&command("edge-run", place.home.path()).arg("prepare").arg(int8.dir()).output().unwrap());
    let int8_panels = fs::read(int8.dir().join("panels-i8x16x4.bin")).unwrap();
    let helps = [
        "expected weights.bin, or the panels of this program's kernels, panels-f32x16.bin",
        "edge-run prepare bundle",
        "edge-export CHECKPOINT --panels only --weights f32",
        "targets/build BOARD",
    ];
    for (what, bytes, said) in [
        ("width", &wider, "layout: expected f32x16, as this program's kernels read, found \"f32x32\", for others"),
        ("version", &later, "version 3 of the panels format, but this program reads version 1 or 2"),
        ("encoder", &another, "encoder: expected"),
        ("weights", &int8_panels, "found \"i8x16x4\", for others"),
    ] {
        fs::write(&panels, bytes).unwrap();
        println!("{what}");
        assert_refused(&run(), &[&helps[..], &["panels-f32x16.bin: ", said]].concat());
        assert_eq!(&fs::read(&panels).unwrap(), bytes, "{what}: they are left as they are");
    }
    // Under the name of another board's layout; then without any.
    fs::rename(&panels, bundle.join("panels-f32x32.bin")).unwrap();
    assert_refused(&run(), &[&helps[..], &["found panels-f32x32.bin"]].concat());
    fs::remove_file(bundle.join("panels-f32x32.bin")).unwrap();
    assert_refused(&run(), &[&helps[..], &["found neither"]].concat());
    // The command in the message works.
    fs::write(bundle.join("weights.bin"), &weights).unwrap();
    assert_succeeded(&command("edge-run", place.home.path()).arg("prepare").arg(&bundle).output().unwrap());
    assert_eq!(assert_succeeded(&run()), answer);
    assert_eq!(fs::read(&panels).unwrap(), good);
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_leaves_nothing_of_the_panels() {
    let place = Place::new("bert");
    let bundle = place.home.path().join("bundle");
    let list = || {
        let names = fs::read_dir(&bundle).unwrap().map(|entry| entry.unwrap().file_name());
        names.collect::<std::collections::BTreeSet<_>>()
    };
    let before = list();
    assert!(!before.contains(std::ffi::OsStr::new("panels-f32x16.bin")));
    // Four kilobytes for a file: enough for the note that a file was checked, too little for panels.
    const LIMIT: &str = "f 8";
    for arguments in [&["prepare", "bundle"][..], &["--bundle", "bundle", "-p", "label.bias"]] {
        let refused = place.limited(LIMIT, arguments, b"good\n");
        assert_refused(&refused, &["bundle/panels-f32x16.bin: cannot write", "large"]);
        assert_eq!(list(), before, "{arguments:?}");
        assert!(!place.home.path().join("cache/edge-run/panels").exists(), "{arguments:?}");
    }
    assert_succeeded(&place.run(&["-p", "label.bias"], b"good\n"));
    assert_eq!(list().len(), before.len() + 1);
}

/// Takes from root what lets it write where permissions do not: nothing from others, who have no such right.
#[cfg(target_os = "linux")]
fn as_permitted(command: &std::process::Command) -> std::process::Command {
    let user = std::process::Command::new("id").arg("-u").output().unwrap();
    match user.stdout.trim_ascii() {
        b"0" => in_shell(command, "set -- setpriv --bounding-set=-dac_override \"$@\""),
        _ => in_shell(command, "true"),
    }
}

#[cfg(target_os = "linux")]
#[test]
fn without_a_place_for_panels_the_error_names_the_ways_out() {
    use std::os::unix::fs::PermissionsExt;

    let place = Place::new("bert");
    let bundle = place.home.path().join("bundle");
    let permit = |mode| fs::set_permissions(&bundle, fs::Permissions::from_mode(mode)).unwrap();
    permit(0o555);
    let run = |cache: &str, home: &str| {
        let mut run = command("edge-run", place.home.path());
        run.current_dir(place.home.path()).args(["prepare", "bundle"]).env("XDG_CACHE_HOME", cache).env("HOME", home);
        as_permitted(&run).output().unwrap()
    };
    let helps = ["panels-f32x16.bin", "--panels beside", "edge-run prepare", "XDG_CACHE_HOME"];
    let cases = [("/dev/null", "/", "/dev/null"), ("", "", "neither XDG_CACHE_HOME nor HOME")];
    for (cache, home, why) in cases {
        assert_refused(&run(cache, home), &[&helps[..], &[why]].concat());
    }
    assert!(!place.home.path().join(".cache").exists(), "HOME is empty, and the working directory is no home");
    let cache = place.home.path().join("own");
    assert_succeeded(&run(cache.to_str().unwrap(), ""));
    assert!(cache.join("edge-run/panels").exists());
    permit(0o755);
}

#[cfg(unix)]
#[test]
fn what_a_killed_run_left_of_the_panels_is_taken_away_by_the_next() {
    let place = Place::new("bert");
    let left = place.home.path().join("bundle/.panels-f32x16.bin.tmp-1-0");
    fs::write(&left, "half").unwrap();
    assert_succeeded(&place.run(&["-p", "label.bias"], b"good\n"));
    assert!(!left.exists());
}
