//! The fuzzer's seeds, without the fuzzer: inputs that once failed, and those
//! that lead it on its way.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use sternline_fuzz_properties::TARGETS;

fn fuzz() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

#[test]
fn every_seed_of_every_target_holds() {
    for target in TARGETS {
        let seeds = fs::read_dir(fuzz().join("seeds").join(target.name)).expect(target.name);
        let mut count = 0;
        for seed in seeds {
            let path = seed.expect("an entry").path();
            let data = fs::read(&path).expect("a seed");
            println!("{}", path.display());
            (target.check)(&data);
            count += 1;
        }
        assert!(count > 0, "{} has no seeds", target.name);
        for data in [&b""[..], &[0], &[0xff; 64]] {
            (target.check)(data);
        }
    }
}

#[test]
fn every_target_is_one_of_the_fuzzer() {
    let names: BTreeSet<String> = TARGETS.iter().map(|t| t.name.to_owned()).collect();
    let listed = |folder: &str, suffix: &str| -> BTreeSet<String> {
        let entries = fs::read_dir(fuzz().join(folder)).expect(folder);
        entries
            .map(|entry| {
                entry
                    .expect("an entry")
                    .file_name()
                    .into_string()
                    .expect("text")
            })
            .map(|name| name.trim_end_matches(suffix).to_owned())
            .collect()
    };
    assert_eq!(listed("fuzz_targets", ".rs"), names);
    assert_eq!(listed("seeds", ""), names);
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).expect("the fuzzer's manifest");
    for name in &names {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
    }
}
