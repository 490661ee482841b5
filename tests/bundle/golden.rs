//! Each file in charts/golectra/ci renders what is committed in tests/bundle/golden, so that a change of the chart shows its effect.

use std::fs;

use crate::render::{ALL_APIS, ci_values, have_helm, helm_template, root, update};

#[test]
fn renderings_are_as_committed() {
    if !have_helm() {
        return;
    }
    let folder = root().join("tests/bundle/golden");
    let mut different = Vec::new();
    let mut expected_files = Vec::new();
    for (name, path) in ci_values() {
        let rendered = helm_template(&ALL_APIS, &["--values", &path]).unwrap_or_else(|error| panic!("{name}: {error}"));
        let golden = folder.join(&name);
        expected_files.push(name.clone());
        if update() {
            fs::write(&golden, &rendered).expect("the golden file can be written");
        }
        let committed = fs::read_to_string(&golden).unwrap_or_default();
        if let Some(line) = first_difference(&committed, &rendered) {
            different.push(format!("{name}: {line}"));
        }
    }
    assert!(different.is_empty(), "not as committed; if that is intended, run this with UPDATE=1:\n{}", different.join("\n"));

    let mut found: Vec<_> =
        fs::read_dir(folder).expect("golden").map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned()).collect();
    found.sort();
    assert_eq!(found, expected_files, "one golden rendering for each file in ci/");
}

fn first_difference(old: &str, new: &str) -> Option<String> {
    let (mut old_lines, mut new_lines) = (old.lines(), new.lines());
    for number in 1.. {
        match (old_lines.next(), new_lines.next()) {
            (None, None) => return None,
            (old, new) if old == new => {}
            (old, new) => return Some(format!("line {number}: was {old:?}, is {new:?}")),
        }
    }
    None
}

#[test]
fn two_renderings_differ_only_in_generated_keys() {
    if !have_helm() {
        return;
    }
    let render = || {
        let text = helm_template(&ALL_APIS, &[]).expect("the defaults render");
        let kept: Vec<_> =
            text.lines().filter(|line| !line.contains("checksum/") && !line.starts_with("  key: ")).map(str::to_owned).collect();
        (text, kept)
    };
    let ((first, first_kept), (second, second_kept)) = (render(), render());
    assert_eq!(first_kept, second_kept);
    assert_ne!(first, second, "generated keys are random");
}
