//! The files of the repository use each other in one direction: a reader can start anywhere and never comes back in a circle.
//!
//! A folder's own file (`mod.rs`) and the files below it count as one: they are read together.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

type Module = Vec<String>;

/// The files below a folder, each by its module path.
fn modules(folder: &Path, path: &[String], found: &mut BTreeMap<Module, PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("the folder can be read") {
        let file = entry.expect("the entry can be read").path();
        let name = file.file_stem().and_then(|name| name.to_str()).expect("names are UTF-8").to_owned();
        let own = matches!(name.as_str(), "mod" | "lib" | "main");
        let path: Module = path.iter().cloned().chain((!own).then_some(name.clone())).collect();
        if file.is_dir() {
            modules(&file, &path, found);
        } else if file.extension().is_some_and(|kind| kind == "rs") && !name.ends_with("tests") {
            found.insert(path, file);
        }
    }
}

/// The paths that a `use` names: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn expand(before: &str, tree: &str, paths: &mut Vec<String>) {
    let Some((prefix, list)) = tree.trim().split_once('{') else {
        return paths.push(format!("{before}{}", tree.trim()));
    };
    let list = list.trim_end().strip_suffix('}').unwrap_or(list);
    let (mut depth, mut start) = (0, 0);
    for (at, letter) in list.char_indices().chain([(list.len(), ',')]) {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                let part = &list[start..at];
                if !part.trim().is_empty() {
                    expand(&format!("{before}{}", prefix.trim()), part, paths);
                }
                start = at + 1;
            }
            _ => {}
        }
    }
}

/// The modules that a file uses, relatives in a straight line up or down left out.
fn used(module: &Module, file: &Path, known: &BTreeMap<Module, PathBuf>) -> BTreeSet<Module> {
    let text = std::fs::read_to_string(file).expect("the file can be read");
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let code: String =
        code.lines().filter(|line| !line.trim_start().starts_with("//")).map(|line| format!("{line}\n")).collect();
    let mut paths = Vec::new();
    for marker in [
        "
use ",
        "
pub use ",
    ] {
        for statement in code.split(marker).skip(1) {
            expand("", statement.split(';').next().unwrap_or_default(), &mut paths);
        }
    }
    for name in code.split(|letter: char| !(letter.is_alphanumeric() || letter == '_' || letter == ':')) {
        if name.starts_with("crate::") || name.starts_with("super::") {
            paths.push(name.to_owned());
        }
    }
    let mut uses = BTreeSet::new();
    for path in paths {
        let mut parts: Vec<&str> = path.split("::").collect();
        let mut base = match parts[0] {
            "crate" => Module::new(),
            "super" | "self" => module.clone(),
            _ => continue,
        };
        while parts.first().is_some_and(|part| matches!(*part, "crate" | "self" | "super")) {
            if parts.remove(0) == "super" {
                base.pop();
            }
        }
        let mut target: Module = base.into_iter().chain(parts.iter().map(|part| part.trim().to_owned())).collect();
        while !target.is_empty() && !known.contains_key(&target) {
            target.pop();
        }
        if !target.is_empty() && !module.starts_with(&target) && !target.starts_with(module) {
            uses.insert(target);
        }
    }
    uses
}

/// The files that reach themselves.
fn circles(folder: &Path) -> Vec<String> {
    let mut known = BTreeMap::new();
    modules(folder, &[], &mut known);
    assert!(known.len() > 20, "{} has files", folder.display());
    let uses: BTreeMap<_, _> = known.iter().map(|(module, file)| (module, used(module, file, &known))).collect();
    let reaches_itself = |start: &&Module| {
        let (mut seen, mut next) = (BTreeSet::new(), vec![*start]);
        while let Some(module) = next.pop() {
            for used in &uses[module] {
                if used == *start {
                    return true;
                }
                if seen.insert(used) {
                    next.push(used);
                }
            }
        }
        false
    };
    known.keys().filter(reaches_itself).map(|module| module.join("::")).collect()
}

#[test]
fn files_use_each_other_in_no_circle() {
    let dataflows = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let adtide = dataflows.join("../../src");
    for folder in [dataflows, adtide] {
        assert_eq!(circles(&folder), Vec::<String>::new(), "{}: these reach themselves", folder.display());
    }
}
