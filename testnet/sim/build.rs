//! Copies the engine's and the rules' sources, with the planted bugs written in behind a switch, and the
//! few doors that the simulator looks and reaches through. The node itself is compiled without any of it.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a build script fails by panicking"
)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

#[path = "src/doors.rs"]
mod doors;
#[path = "src/planted/list.rs"]
mod planted;

/// Files of `node/src` that the engine needs beside its own folder.
const NODE_FILES: [(&str, &str); 7] = [
    ("check.rs", "check"),
    ("clock.rs", "clock"),
    ("error.rs", "error"),
    ("ratchet.rs", "ratchet_real"),
    ("read.rs", "read"),
    ("vault.rs", "vault"),
    ("view.rs", "view"),
];

fn main() {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join("copied");
    let root = here.join("../..");
    // Source name (as the planted bugs name it) -> text.
    let mut sources: BTreeMap<String, String> = BTreeMap::new();
    read_tree(&root, "node/src/engine", &mut sources);
    read_tree(&root, "node/src/store", &mut sources);
    read_tree(&root, "protocol/src", &mut sources);
    read_file(&root, "node/src/engine.rs", &mut sources);
    read_file(&root, "node/src/store.rs", &mut sources);
    for (file, _) in NODE_FILES {
        read_file(&root, &format!("node/src/{file}"), &mut sources);
    }
    println!("cargo::rerun-if-changed=src/doors.rs");
    println!("cargo::rerun-if-changed=src/planted/list.rs");

    let mut problems = String::new();
    plant(&mut sources, &mut problems);
    open_doors(&mut sources, &mut problems);
    assert!(
        problems.is_empty(),
        "the simulator's list of planted bugs or doors no longer fits the sources:\n{problems}"
    );

    if out.exists() {
        fs::remove_dir_all(&out).expect("the build folder can be emptied");
    }
    for (name, text) in &sources {
        let path = out.join(target(name));
        fs::create_dir_all(path.parent().expect("a folder")).expect("the folder can be made");
        fs::write(&path, translated(name, text)).expect("the copy can be written");
    }
    let mut modules = String::new();
    let mut module = |name: &str, path: &str| {
        let path = out.join(path);
        writeln!(
            modules,
            "#[path = {path:?}]\n#[allow(warnings, clippy::all, reason = \"checked where they stand\")]\nmod {name};"
        )
        .expect("text grows");
    };
    module("protocol", "protocol/mod.rs");
    module("engine", "engine/mod.rs");
    module("store", "store/mod.rs");
    for (file, name) in NODE_FILES {
        module(name, file);
    }
    fs::write(out.join("modules.rs"), modules).expect("the copy can be written");
}

/// Reads every source file below a folder.
fn read_tree(root: &Path, folder: &str, sources: &mut BTreeMap<String, String>) {
    println!("cargo::rerun-if-changed={}", root.join(folder).display());
    let entries =
        fs::read_dir(root.join(folder)).unwrap_or_else(|error| panic!("{folder}: {error}"));
    for entry in entries {
        let entry = entry.expect("the folder can be read");
        let name = format!("{folder}/{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            if entry.file_name() != "tests" {
                read_tree(root, &name, sources);
            }
        } else if !name.ends_with("tests.rs") {
            read_file(root, &name, sources);
        }
    }
}

fn read_file(root: &Path, name: &str, sources: &mut BTreeMap<String, String>) {
    let path = root.join(name);
    println!("cargo::rerun-if-changed={}", path.display());
    let text =
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    sources.insert(name.to_owned(), text);
}

/// Writes every planted bug in, behind its switch.
fn plant(sources: &mut BTreeMap<String, String>, problems: &mut String) {
    let pristine = sources.clone();
    for (number, bug) in planted::PLANTED.iter().enumerate() {
        let mut say = |why: String| {
            let _ = writeln!(
                problems,
                "- planted bug `{}` in {}: {why}",
                bug.name, bug.file
            );
        };
        let Some(text) = pristine.get(bug.file) else {
            say("there is no such file".into());
            continue;
        };
        let found = text.matches(bug.original).count();
        if found != 1 {
            say(format!(
                "its original text is there {found} times, not once:\n{}",
                bug.original
            ));
            continue;
        }
        let now = &sources[bug.file];
        let Some(place) = now.find(bug.original) else {
            say("another planted bug changed the same text: give each its own".into());
            continue;
        };
        let on = format!("crate::planted::is_on({number})");
        let planted = bug
            .buggy
            .replace("{on}", &on)
            .replace("{original}", bug.original);
        let mut text = now.clone();
        text.replace_range(place..place + bug.original.len(), &planted);
        sources.insert(bug.file.to_owned(), text);
    }
}

/// Writes the simulator's own doors in.
fn open_doors(sources: &mut BTreeMap<String, String>, problems: &mut String) {
    for door in doors::DOORS {
        let Some(text) = sources.get_mut(door.file) else {
            let _ = writeln!(problems, "- door in {}: there is no such file", door.file);
            continue;
        };
        if door.at.is_empty() {
            text.push_str(door.text);
            continue;
        }
        let found = text.matches(door.at).count();
        if found != 1 {
            let _ = writeln!(
                problems,
                "- door in {}: its place is there {found} times, not once:\n{}",
                door.file, door.at
            );
            continue;
        }
        *text = text.replace(door.at, door.text);
    }
}

/// Where a source goes: modules with folders become `mod.rs`, because they are named by path.
fn target(name: &str) -> String {
    if let Some(rest) = name.strip_prefix("protocol/src/") {
        return match rest {
            "lib.rs" => "protocol/mod.rs".into(),
            rest => format!("protocol/{rest}"),
        };
    }
    match name.strip_prefix("node/src/").unwrap_or(name) {
        "engine.rs" => "engine/mod.rs".into(),
        "store.rs" => "store/mod.rs".into(),
        // Named in `store.rs`, from where that stands.
        rest if rest.ends_with(".sql") => format!("store/{rest}"),
        rest => rest.to_owned(),
    }
}

/// The rules are a module here and no crate; unit tests stay where they are.
fn translated(name: &str, text: &str) -> String {
    let text = text.replace("#[cfg(test)]", "#[cfg(any())]");
    if name.starts_with("protocol/") {
        text.replace("crate::", "crate::protocol::")
            .replace("crate::protocol::cheap::", "crate::cheap::")
            .replace("crate::protocol::planted::", "crate::planted::")
    } else {
        text.replace("pumasi_protocol::", "crate::protocol::")
    }
}
