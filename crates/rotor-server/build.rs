//! Lists the files of the page, so that the binary holds them and a new one needs no entry anywhere.

use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=web");
    let root = Path::new(&env::var_os("CARGO_MANIFEST_DIR").ok_or(io::ErrorKind::NotFound)?).join("web");
    let mut files = Vec::new();
    collect(&root, "", &mut files)?;
    files.sort();
    let mut table = "&[\n".to_owned();
    for name in files {
        let path = format!("/{name}");
        // The folder is left to the compiler, so that a checkout may be moved, or share its build with another. Writing to a
        // String does not fail.
        let _ = writeln!(
            table,
            "    ({path:?}, include_bytes!(concat!(env!(\"CARGO_MANIFEST_DIR\"), {:?}))),",
            format!("/web{path}")
        );
    }
    table.push(']');
    let out = env::var_os("OUT_DIR").ok_or(io::ErrorKind::NotFound)?;
    fs::write(Path::new(&out).join("page_files.rs"), table)
}

/// Every file but the texts for developers.
fn collect(folder: &Path, prefix: &str, files: &mut Vec<String>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), &format!("{prefix}{name}/"), files)?;
        } else if !name.ends_with(".md") && !name.ends_with(".LICENSE") {
            files.push(format!("{prefix}{name}"));
        }
    }
    Ok(())
}
