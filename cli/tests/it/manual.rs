//! Are the completions and the pages of the manual in `dist/` those of the program?
//!
//! `UPDATE_DOCS=1 cargo test -p kinesis-input-cli manual` writes them anew.

use std::path::PathBuf;

use clap_complete::Shell;
use kinesis_input_cli::command::arguments;

/// The files, by their names in `dist/`.
fn generated() -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for (shell, name) in
        [(Shell::Bash, "kinesis-input.bash"), (Shell::Zsh, "_kinesis-input"), (Shell::Fish, "kinesis-input.fish")]
    {
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut arguments(), "kinesis-input", &mut text);
        files.push((format!("completions/{name}"), text));
    }
    let mut program = arguments();
    program.build();
    let mut pages = vec![("kinesis-input".to_owned(), program)];
    while let Some((name, command)) = pages.pop() {
        for below in command.get_subcommands().filter(|below| below.get_name() != "help") {
            pages.push((format!("{name}-{}", below.get_name()), below.clone()));
        }
        let mut page = Vec::new();
        // No date and no version, or the page would change with every release.
        // The name of a command has to be static.
        let command = command.name(&*name.clone().leak()).version("");
        let manual = clap_mangen::Man::new(command).date("").source("");
        manual.render(&mut page).unwrap();
        files.push((format!("man/{name}.1"), page));
    }
    files
}

#[test]
fn manual_and_completions_are_those_of_the_program() {
    let dist = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../dist");
    let files = generated();
    for name in ["man/kinesis-input.1", "man/kinesis-input-run.1", "man/kinesis-input-kcl-import.1"] {
        assert!(files.iter().any(|(other, _)| other == name), "{name}");
    }
    for (name, text) in &files {
        let path = dist.join(name);
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
        }
        let stored = std::fs::read(&path).unwrap_or_default();
        assert!(
            stored == *text,
            "dist/{name} is out of date: run `UPDATE_DOCS=1 cargo test -p kinesis-input-cli manual`"
        );
    }
    for folder in ["man", "completions"] {
        for file in std::fs::read_dir(dist.join(folder)).unwrap() {
            let name = format!("{folder}/{}", file.unwrap().file_name().into_string().unwrap());
            assert!(files.iter().any(|(other, _)| *other == name), "dist/{name} belongs to no command");
        }
    }
}
