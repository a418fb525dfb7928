//! Does `THIRD_PARTY.md` name every package that the program is built from, with the texts of their licenses?
//!
//! `UPDATE_DOCS=1 cargo test -p kinesis-input-cli licenses` writes it anew.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// The packages that a build needs depend on its target. The container and the systemd unit run on this one.
const TARGET: &str = "x86_64-unknown-linux-gnu";

const HEAD: &str = "# Third-party licenses

The program `kinesis-input`, with its default features and on Linux, is built from the packages below and from those of this repository.
The table gives each package's license as the package declares it.

Where a package may be used under the Apache License 2.0, it is, and the text is that of [LICENSE-APACHE](LICENSE-APACHE).
The license files of the other packages follow the table, together with those of packages that are under several licenses at once, and every `NOTICE` file.
A feature that brings more packages, such as `kafka`, brings their licenses too; `cargo tree -p kinesis-input-cli --features kafka --format '{p} {l}'` prints them.

This file is generated: `UPDATE_DOCS=1 cargo test -p kinesis-input-cli licenses`.
";

struct Package {
    name: String,
    version: String,
    license: String,
    repository: String,
    folder: PathBuf,
}

impl Package {
    /// Whether the Apache License alone is enough. `AND` in an expression means that it is not.
    fn is_apache(&self) -> bool {
        !self.license.contains(" AND ")
            && self.license.split(" OR ").flat_map(|choice| choice.split('/')).any(|id| id.trim() == "Apache-2.0")
    }

    /// The files at the top of the package that have to be passed on with it.
    fn notices(&self) -> Vec<PathBuf> {
        let names: &[&str] =
            if self.is_apache() { &["NOTICE"] } else { &["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE"] };
        let files = std::fs::read_dir(&self.folder).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<_> = files
            .filter(|path| {
                let name = path.file_name().unwrap().to_string_lossy().to_uppercase();
                path.is_file() && names.iter().any(|known| name.starts_with(known))
            })
            // Its text is that of LICENSE-APACHE.
            .filter(|path| !path.ends_with("LICENSE-APACHE"))
            .collect();
        files.sort();
        files
    }

    fn title(&self) -> String {
        format!("{} {}", self.name, self.version)
    }
}

/// Runs cargo, as it is locked, and returns what it prints.
pub(crate) fn cargo(arguments: &[&str]) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let out = Command::new(env!("CARGO")).args(arguments).arg("--locked").current_dir(root).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// Everything that the program is built from, but for the packages of this repository.
fn packages() -> Vec<Package> {
    // Only the tree knows the features of this one program; only the metadata know where a package is.
    let tree = [
        ["tree", "--package=kinesis-input-cli", "--edges=normal,build", "--prefix=none", "--no-dedupe"].as_slice(),
        &["--target", TARGET, "--format={p}"],
    ];
    let tree = cargo(&tree.concat());
    let built: BTreeSet<_> = tree
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            Some((words.next()?.to_owned(), words.next()?.strip_prefix('v')?.to_owned()))
        })
        .collect();
    let metadata = cargo(&["metadata", "--format-version=1", "--filter-platform", TARGET]);
    let metadata: Value = serde_json::from_str(&metadata).unwrap();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut packages: Vec<_> = metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|package| !package["source"].is_null())
        .map(|package| Package {
            name: text(&package["name"]),
            version: text(&package["version"]),
            license: text(&package["license"]),
            repository: text(&package["repository"]),
            folder: Path::new(package["manifest_path"].as_str().unwrap()).parent().unwrap().to_owned(),
        })
        .filter(|package| built.contains(&(package.name.clone(), package.version.clone())))
        .collect();
    packages.sort_by_key(Package::title);
    packages
}

fn document(packages: &[Package]) -> String {
    let mut page = HEAD.to_owned();
    page.push_str("\n| package | version | license |\n|---|---|---|\n");
    for package in packages {
        writeln!(page, "| {} | {} | {} |", package.name, package.version, package.license).unwrap();
    }
    // Many packages have the same text, with other line ends.
    let mut texts: BTreeMap<String, (String, BTreeSet<String>)> = BTreeMap::new();
    let mut without = Vec::new();
    for package in packages {
        let files = package.notices();
        if files.is_empty() && !package.is_apache() {
            without.push(package);
        }
        for file in files {
            let text = String::from_utf8_lossy(&std::fs::read(&file).unwrap()).into_owned();
            let same = text.split_whitespace().collect::<Vec<_>>().join(" ");
            let lines = text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n");
            texts.entry(same).or_insert_with(|| (lines, BTreeSet::new())).1.insert(package.title());
        }
    }
    let mut texts: Vec<_> = texts.into_values().map(|(text, packages)| (packages, text)).collect();
    texts.sort();
    for (packages, text) in texts {
        let packages = packages.into_iter().collect::<Vec<_>>().join(", ");
        write!(page, "\n## {packages}\n\n```text\n{}\n```\n", text.trim_matches('\n')).unwrap();
    }
    if !without.is_empty() {
        page.push_str("\n## Packages that are published without a license file\n\n");
        page.push_str("Their license is the one of the table; their sources are at the address given.\n\n");
        for package in without {
            writeln!(page, "- {}: {}, <{}>", package.title(), package.license, package.repository).unwrap();
        }
    }
    page
}

#[test]
fn third_party_licenses_are_those_of_the_packages_in_use() {
    let packages = packages();
    for name in ["aws-sdk-kinesis", "mq-bridge", "tokio"] {
        assert!(packages.iter().any(|package| package.name == name), "{name}");
    }
    for package in &packages {
        assert!(!package.license.is_empty(), "{} declares no license", package.title());
    }
    let page = document(&packages);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../THIRD_PARTY.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let stored = std::fs::read_to_string(&path).unwrap_or_default();
    let is_current = stored == page;
    assert!(is_current, "THIRD_PARTY.md is out of date: run `UPDATE_DOCS=1 cargo test -p kinesis-input-cli licenses`");
}
