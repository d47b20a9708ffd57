//! The files of the repository use each other in one direction: a reader can start anywhere and never comes
//! back in a circle.
//!
//! What a folder's own file (`mod.rs`) passes on by `pub use` counts as taken from the file that has it. The
//! folder's file and those below it may use each other: they are read together. What `lib.rs` passes on is
//! not followed: the list of the state's rows names those of the statements, whose operators keep such rows.

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

/// The paths of all imports that begin in one of these ways.
fn imports(code: &str, beginnings: &[&str]) -> Vec<String> {
    let mut paths = Vec::new();
    for statement in beginnings.iter().flat_map(|beginning| code.split(beginning).skip(1)) {
        expand("", statement.split(';').next().unwrap_or_default(), &mut paths);
    }
    paths
}

/// The names that files pass on from files below them: `a::Name` is `a::b::Name`.
fn passed_on(known: &BTreeMap<Module, PathBuf>) -> BTreeMap<Module, Module> {
    let mut names = BTreeMap::new();
    for (module, file) in known.iter().filter(|(module, _)| !module.is_empty()) {
        let text = std::fs::read_to_string(file).expect("the file can be read");
        for path in imports(&text, &["\npub use ", "\npub(crate) use "]) {
            let parts: Vec<_> = path.split("::").map(|part| part.trim().to_owned()).collect();
            let (Some(name), Some(child)) = (parts.last(), parts.first()) else { continue };
            if known.contains_key(&[&module[..], std::slice::from_ref(child)].concat()) {
                names.insert(
                    [&module[..], std::slice::from_ref(name)].concat(),
                    [&module[..], &parts[..]].concat(),
                );
            }
        }
    }
    names
}

/// The modules that a file uses, relatives in a straight line up or down left out.
fn used(
    module: &Module,
    file: &Path,
    known: &BTreeMap<Module, PathBuf>,
    passed_on: &BTreeMap<Module, Module>,
) -> BTreeSet<Module> {
    let text = std::fs::read_to_string(file).expect("the file can be read");
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let code: String = code
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .map(|line| format!("{line}\n"))
        .collect();
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
        let mut target: Module =
            base.into_iter().chain(parts.iter().map(|part| part.trim().to_owned())).collect();
        while !target.is_empty() && !known.contains_key(&target) {
            target = passed_on.get(&target).cloned().unwrap_or_else(|| target[..target.len() - 1].to_vec());
        }
        if !target.is_empty() && !module.starts_with(&target) && !target.starts_with(module) {
            uses.insert(target);
        }
    }
    uses
}

/// The files that reach themselves.
fn circles(folder: &Path) -> Vec<String> {
    let uses = uses(folder);
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
    uses.keys().filter(reaches_itself).map(|module| module.join("::")).collect()
}

/// The library's files, and the program's.
fn folders() -> [PathBuf; 2] {
    let library = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let program = library.join("../../src");
    [library, program]
}

/// What the files of a folder use.
fn uses(folder: &Path) -> BTreeMap<Module, BTreeSet<Module>> {
    let mut known = BTreeMap::new();
    modules(folder, &[], &mut known);
    assert!(known.len() > 20, "{} has files", folder.display());
    let passed_on = passed_on(&known);
    known.iter().map(|(module, file)| (module.clone(), used(module, file, &known, &passed_on))).collect()
}

#[test]
fn an_oracle_shares_the_model_and_the_rows_and_nothing_else() {
    let uses = uses(&folders()[0]);
    let is_oracle = |module: &Module| module.last().is_some_and(|name| name == "oracle");
    let may = |used: &Module| {
        used[0] == "model" || is_oracle(used) || used.last().is_some_and(|name| name == "row")
    };
    let oracles: Vec<_> = uses.iter().filter(|(module, _)| is_oracle(module)).collect();
    assert!(oracles.len() >= 5, "one for each statement, and what they share");
    for (oracle, used) in oracles {
        let other: Vec<_> = used.iter().filter(|used| !may(used)).collect();
        assert!(other.is_empty(), "{} uses {other:?}", oracle.join("::"));
    }
}

#[test]
fn a_file_is_read_in_one_sitting() {
    const MOST: usize = 500;
    for folder in folders() {
        let mut known = BTreeMap::new();
        modules(&folder, &[], &mut known);
        let lines =
            |file: &PathBuf| std::fs::read_to_string(file).expect("the file can be read").lines().count();
        let long: Vec<_> = known.values().filter(|file| lines(file) > MOST).collect();
        assert!(long.is_empty(), "more than {MOST} lines: {long:?}");
    }
}

#[test]
fn files_use_each_other_in_no_circle() {
    for folder in folders() {
        assert_eq!(circles(&folder), Vec::<String>::new(), "{}: these reach themselves", folder.display());
    }
}
