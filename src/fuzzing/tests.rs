use std::{fs, path::Path};

type Target = fn(&[u8]);

/// All targets by their names, which are those of the folders in `fuzz/corpus`.
const TARGETS: &[(&str, Target)] = &[
    ("answers", super::answers),
    ("ciphertexts", super::ciphertexts),
    ("config", super::config),
    ("credentials", super::credentials),
    ("dns", super::dns),
    ("heads", super::heads),
    ("hpack", |data| super::hpack(data, None)),
    ("http2", super::http2),
    ("pipeline", super::pipeline),
    ("rules", super::rules),
    ("stored_keys", super::stored_keys),
];

#[test]
fn the_corpora_find_nothing() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (name, run) in TARGETS {
        let mut files: Vec<_> =
            fs::read_dir(corpora.join(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        assert!(!files.is_empty(), "{name} has no corpus");
        for file in files {
            // The output of a test that fails ends with the input that did it.
            println!("{}", file.display());
            run(&fs::read(&file).unwrap());
        }
    }
}

#[test]
fn each_target_has_its_program() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/fuzz_targets");
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    names.sort();
    let mut known: Vec<_> = TARGETS.iter().map(|(name, _)| *name).collect();
    known.sort();
    assert_eq!(known, names);
}
