//! What the documents show is right.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use kinesis_input::telemetry::{METRICS, Measure};
use kinesis_input_cli::{Pipeline, registry};
use pipeline_plugin_api::config::{Document, Environment};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The README and all pages, with their names.
fn pages() -> Vec<(String, String)> {
    let docs = std::fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let pages = docs.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    let pages = pages.chain([root().join("README.md")]);
    pages.map(|path| (path.display().to_string(), std::fs::read_to_string(&path).unwrap())).collect()
}

/// The blocks in this language.
fn blocks<'a>(page: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("```{language}\n");
    page.split(&*fence).skip(1).map(|rest| rest.split("```").next().unwrap_or_default()).collect()
}

#[test]
fn every_yaml_in_the_documents_is_right() {
    let registry = registry().unwrap();
    let aws_kinesis = registry.get("aws_kinesis").unwrap();
    let mut pipelines = 0;
    for (page, text) in pages() {
        for block in blocks(&text, "yaml") {
            if block.contains("output:") {
                let built = Pipeline::from_yaml(&page, block, &Environment::empty(), &registry);
                let pipeline = built.unwrap_or_else(|error| panic!("{error}\n{block}"));
                assert!(pipeline.warnings.is_empty(), "{}\n{block}", pipeline.warnings);
                pipelines += 1;
            } else {
                let path: &[&str] = if block.contains("input:") { &["input", "aws_kinesis"] } else { &[] };
                let document = Document::from_yaml(&page, block, &Environment::empty()).unwrap();
                let found = aws_kinesis.spec().lint(&document, path);
                assert!(!found.has_errors(), "{found}\n{block}");
            }
        }
    }
    assert!(pipelines >= 2, "the README and the page of the program have one each");
}

#[test]
fn every_json_in_the_documents_is_json() {
    let mut count = 0;
    for (page, text) in pages() {
        for block in blocks(&text, "json") {
            serde_json::from_str::<serde_json::Value>(block).unwrap_or_else(|error| panic!("{page}: {error}"));
            count += 1;
        }
    }
    assert!(count >= 1, "the README has the policy");
}

#[test]
fn every_file_that_the_documents_link_to_is_there() {
    for (page, text) in pages() {
        let folder = Path::new(&page).parent().unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = link.split('#').next().unwrap_or_default();
            if !file.is_empty() && !file.contains("://") {
                assert!(folder.join(file).exists(), "{page} links to {link}");
            }
        }
    }
}

#[test]
fn the_page_of_operations_lists_the_metrics() {
    let page = std::fs::read_to_string(root().join("docs/operations.md")).unwrap();
    let listed = page.split("by a test -->\n").nth(1).and_then(|rest| rest.split("<!-- end").next()).unwrap();
    let mut expected = String::from("| metric | | of each shard | what it says |\n|---|---|---|---|\n");
    for metric in METRICS {
        let measure = match metric.measure {
            Measure::Counter => "counter",
            Measure::Gauge => "gauge",
        };
        let by_shard = if metric.by_shard { "yes" } else { "no" };
        let unit = format!("{:?}", metric.unit).to_lowercase();
        writeln!(expected, "| `{}` | {measure}, {unit} | {by_shard} | {} |", metric.name, metric.help).unwrap();
    }
    assert_eq!(listed.trim(), expected.trim());
}

#[test]
fn every_test_that_the_guarantees_name_is_there() {
    let page = std::fs::read_to_string(root().join("docs/guarantees.md")).unwrap();
    let mut code = String::new();
    for folder in ["src/scenarios", "tests/it"] {
        for entry in std::fs::read_dir(root().join(folder)).unwrap() {
            code += &std::fs::read_to_string(entry.unwrap().path()).unwrap();
        }
    }
    let names: Vec<_> = page.split('`').skip(1).step_by(2).filter(|name| is_test_name(name)).collect();
    assert!(names.len() > 20, "{names:?}");
    for name in names {
        assert!(code.contains(&format!("fn {name}()")), "there is no test named {name}");
    }
}

fn is_test_name(name: &str) -> bool {
    let field = name.starts_with("kinesis_input_")
        || ["max_pending_bytes", "max_pending_records", "commit_period"].contains(&name);
    name.contains('_') && !field && name.chars().all(|letter| letter.is_ascii_lowercase() || letter == '_')
}
