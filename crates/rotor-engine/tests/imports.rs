//! No file of the library imports another that, by whatever way round, imports it.
//!
//! Imports are read from the source text: `use` declarations and paths in code, but for tests. What a file only hands on
//! (`pub use`) is no import of its own: a name is followed to the file that defines it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A path of names.
type Names = Vec<String>;

/// A file: its module's path is the key it stands under.
#[derive(Default)]
struct File {
    /// Paths it names, the first name `crate`, `self`, `super` or that of a module within it.
    named: Vec<Names>,
    /// Names it hands on, and where they are from.
    handed_on: BTreeMap<String, Names>,
}

/// The text without comments, tests and what is compiled for tests alone.
fn product(text: &str) -> String {
    let mut kept = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.trim() != "#[cfg(test)]" {
            kept.push_str(line.split("//").next().unwrap_or_default());
            kept.push('\n');
            continue;
        }
        // The item that it stands in front of: to a semicolon, or to the brace that closes at its indentation.
        let indent = line.len() - line.trim_start().len();
        let mut first = true;
        for line in lines.by_ref() {
            let ends_item = first && line.ends_with(';') || line.len() > indent && line[indent..].starts_with('}');
            first &= line.trim_start().starts_with('#');
            if ends_item {
                break;
            }
        }
    }
    kept
}

/// Every path of the tree that a `use` declaration is, with the name that it goes by.
fn leaves(tree: &str) -> Vec<(Names, String)> {
    let tree = tree.trim();
    let Some((front, rest)) = tree.split_once('{') else {
        let (path, alias) = tree.split_once(" as ").map_or((tree, None), |(path, alias)| (path, Some(alias.trim())));
        let mut names: Names = path.trim().split("::").map(|name| name.trim().to_owned()).collect();
        names.retain(|name| name != "self" || names_begin(path, name));
        let own = names.last().cloned().unwrap_or_default();
        return vec![(names, alias.map_or(own, str::to_owned))];
    };
    let inner = rest.rsplit_once('}').map_or(rest, |(inner, _)| inner);
    let (mut parts, mut depth) = (vec![String::new()], 0);
    for char in inner.chars() {
        depth += i32::from(char == '{') - i32::from(char == '}');
        match char {
            ',' if depth == 0 => parts.push(String::new()),
            _ => parts.last_mut().unwrap().push(char),
        }
    }
    let parts = parts.iter().filter(|part| !part.trim().is_empty());
    parts.flat_map(|part| leaves(&format!("{}{}", front.trim(), part.trim()))).collect()
}

/// Whether a path begins with a name: `self` elsewhere stands for what is before it.
fn names_begin(path: &str, name: &str) -> bool {
    path.trim().split("::").next() == Some(name)
}

impl File {
    fn read(text: &str, within: &BTreeSet<&str>) -> File {
        let text = product(text);
        let mut file = File::default();
        let mut code = String::new();
        let mut rest = text.as_str();
        while let Some(at) = rest.find("use ") {
            let line = rest[..at].rsplit('\n').next().unwrap_or_default();
            let public = line.trim_start().starts_with("pub");
            if !(line.trim().is_empty() || public) {
                code.push_str(&rest[..at + 4]);
                rest = &rest[at + 4..];
                continue;
            }
            code.push_str(&rest[..at]);
            let (tree, after) = rest[at + 4..].split_once(';').unwrap_or_default();
            for (names, alias) in leaves(&tree.replace('\n', " ")) {
                if public {
                    file.handed_on.insert(alias, names);
                } else {
                    file.named.push(names);
                }
            }
            rest = after;
        }
        code.push_str(rest);
        // Paths in code, which begin in the crate or in a module of this file.
        let is_part = |char: char| char.is_alphanumeric() || char == '_' || char == ':';
        for path in code.split(|char| !is_part(char)).filter(|path| path.contains("::")) {
            let names: Names = path.trim_end_matches(':').split("::").map(str::to_owned).collect();
            let first = names[0].as_str();
            if matches!(first, "crate" | "super" | "self") || within.contains(first) {
                file.named.push(names);
            }
        }
        file
    }
}

/// The files of a crate by the paths of their modules, and how to find what a path names.
struct Files(BTreeMap<Names, File>);

impl Files {
    fn read(folder: &Path) -> Files {
        let mut paths = vec![folder.to_path_buf()];
        let mut texts: BTreeMap<Names, String> = BTreeMap::new();
        while let Some(path) = paths.pop() {
            if path.is_dir() {
                paths.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
                continue;
            }
            let within = path.strip_prefix(folder).unwrap().with_extension("");
            let mut names: Names = within.iter().map(|name| name.to_str().unwrap().to_owned()).collect();
            let is_test = |name: &String| name.ends_with("tests") || name == "testing";
            if path.extension().is_none_or(|extension| extension != "rs") || names.iter().any(is_test) {
                continue;
            }
            if names.last().is_some_and(|name| name == "mod" || name == "lib") {
                names.pop();
            }
            texts.insert(names, std::fs::read_to_string(&path).unwrap());
        }
        let within = |module: &Names| {
            let inner = texts.keys().filter(|other| other.len() == module.len() + 1 && other.starts_with(module));
            inner.map(|inner| inner[module.len()].as_str()).collect::<BTreeSet<&str>>()
        };
        Files(texts.iter().map(|(module, text)| (module.clone(), File::read(text, &within(module)))).collect())
    }

    /// A path from the root of the crate; `None` for one into another crate.
    fn absolute(&self, module: &Names, path: &[String]) -> Option<Names> {
        let mut from = module.clone();
        let mut rest = path;
        match path.first()?.as_str() {
            "crate" => {
                from.clear();
                rest = &path[1..];
            }
            "self" => rest = &path[1..],
            "super" => {
                while let [first, others @ ..] = rest
                    && first == "super"
                {
                    from.pop();
                    rest = others;
                }
            }
            first => {
                from.push(first.to_owned());
                let is_module = self.0.contains_key(&from);
                from.pop();
                if !is_module {
                    return None;
                }
            }
        }
        from.extend_from_slice(rest);
        Some(from)
    }

    /// The file that defines what a path names.
    fn definition(&self, mut path: Names) -> Names {
        for _ in 0..16 {
            let module =
                (0..=path.len()).rev().map(|end| &path[..end]).find(|start| self.0.contains_key(*start)).unwrap();
            let next = path.get(module.len()).and_then(|name| self.0[module].handed_on.get(name));
            match next.and_then(|next| self.absolute(&module.to_vec(), next)) {
                Some(next) => path = next.into_iter().chain(path[module.len() + 1..].to_vec()).collect(),
                None => return module.to_vec(),
            }
        }
        panic!("{path:?} is handed on in a circle");
    }

    fn imports(&self, module: &Names) -> BTreeSet<Names> {
        let named = self.0[module].named.iter().filter_map(|path| self.absolute(module, path));
        named.map(|path| self.definition(path)).filter(|other| other != module).collect()
    }
}

/// Files that import one another in a circle; `None` where there is none.
fn circle(graph: &BTreeMap<Names, BTreeSet<Names>>) -> Option<Vec<Names>> {
    fn visit(
        at: &Names,
        graph: &BTreeMap<Names, BTreeSet<Names>>,
        done: &mut BTreeSet<Names>,
        way: &mut Vec<Names>,
    ) -> bool {
        if done.contains(at) {
            return false;
        }
        if let Some(begin) = way.iter().position(|other| other == at) {
            way.drain(..begin);
            return true;
        }
        way.push(at.clone());
        if graph[at].iter().any(|next| visit(next, graph, done, way)) {
            return true;
        }
        way.pop();
        done.insert(at.clone());
        false
    }
    let (mut done, mut way) = (BTreeSet::new(), Vec::new());
    graph.keys().any(|at| visit(at, graph, &mut done, &mut way)).then_some(way)
}

fn check(folder: &Path) {
    let files = Files::read(folder);
    let graph: BTreeMap<Names, BTreeSet<Names>> =
        files.0.keys().map(|module| (module.clone(), files.imports(module))).collect();
    let imports: usize = graph.values().map(BTreeSet::len).sum();
    assert!(graph.len() > 10 && imports > graph.len(), "{} files with {imports} imports", graph.len());
    if let Some(circle) = circle(&graph) {
        let names: Vec<String> = circle.iter().map(|module| format!("crate::{}", module.join("::"))).collect();
        panic!("{}: a circle of imports: {}, which imports the first again", folder.display(), names.join(" imports "));
    }
}

#[test]
fn no_files_of_the_engine_import_one_another() {
    check(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
}

#[test]
fn a_circle_is_found_through_names_that_are_handed_on() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("lib.rs", "mod a;\nmod b;\nmod c;\npub use c::{Deep as Name};\n");
    write("a.rs", "use crate::{b::{self, B}};\n");
    write("b.rs", "// use crate::a::A;\n#[cfg(test)]\nmod tests {\n    use crate::a::A;\n}\nfn f(_: crate::Name) {}\n");
    write("c.rs", "pub struct Deep;\n");
    let found = || {
        let files = Files::read(folder.path());
        circle(&files.0.keys().map(|module| (module.clone(), files.imports(module))).collect())
    };
    assert_eq!(found(), None);
    write("c.rs", "use super::a::A;\npub struct Deep;\n");
    assert_eq!(found().unwrap(), [["a"], ["b"], ["c"]]);
}
