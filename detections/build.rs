//! Embeds the rule pack and its recorded events: writes `pack.rs`, two sorted lists of (name, text).

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").ok_or_else(|| io::Error::other("no manifest folder"))?);
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or_else(|| io::Error::other("no output folder"))?);
    let mut text = String::new();
    for (list, folder, extension) in [("RULES", "rules", "yaml"), ("EVENTS", "events", "json")] {
        println!("cargo::rerun-if-changed={folder}");
        let mut files = Vec::new();
        walk(&root.join(folder), extension, &mut files)?;
        files.sort();
        let _ = writeln!(text, "pub static {list}: &[(&str, &str)] = &[");
        for file in &files {
            let name = file.file_stem().unwrap_or_default().to_string_lossy();
            let _ = writeln!(text, "    ({name:?}, include_str!({:?})),", file.to_string_lossy());
        }
        text.push_str("];\n");
    }
    fs::write(out.join("pack.rs"), text)
}

fn walk(folder: &Path, extension: &str, files: &mut Vec<PathBuf>) -> io::Result<()> {
    println!("cargo::rerun-if-changed={}", folder.display());
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            walk(&path, extension, files)?;
        } else if path.extension().is_some_and(|e| e == extension) {
            files.push(path);
        }
    }
    Ok(())
}
