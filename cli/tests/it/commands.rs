//! Which answers and exit codes does the program give?

use std::process::{Command, Output};

use kinesis_input_cli::Exit;

fn program(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kinesis-input")).args(arguments).output().unwrap()
}

fn code(output: &Output) -> u8 {
    u8::try_from(output.status.code().unwrap()).unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn missing_arguments_print_help_as_wrong_use() {
    let output = program(&[]);
    assert_eq!(code(&output), Exit::Usage.code());
    let help = text(&output.stderr);
    for exit in Exit::ALL {
        assert!(help.contains(&format!("{:>3}  {}", exit.code(), exit.meaning())), "{help}");
    }
}

#[test]
fn exit_codes_are_documented() {
    let page = include_str!("../../../docs/cli.md");
    for exit in Exit::ALL {
        assert!(page.contains(&format!("| {} | {} |", exit.code(), exit.meaning())), "{exit:?}");
    }
}

#[test]
fn examples_it_creates_lint_clean() {
    let folder = tempfile::tempdir().unwrap();
    for detail in [&["create"][..], &["create", "--small"][..]] {
        let path = folder.path().join("pipeline.yaml");
        std::fs::write(&path, program(detail).stdout).unwrap();
        let output = program(&["lint", path.to_str().unwrap()]);
        assert_eq!(code(&output), Exit::Done.code(), "{}", text(&output.stderr));
    }
}

#[test]
fn lint_reports_every_mistake_with_its_position() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("wrong.yaml");
    let wrong = "input:\n  aws_kinesys: {}\noutput:\n  kafkka: {}\npipeline: {batch_size: 0}\nbuffer: {}\n";
    std::fs::write(&path, wrong).unwrap();
    let output = program(&["lint", path.to_str().unwrap()]);
    assert_eq!(code(&output), Exit::Configuration.code());
    let found = text(&output.stderr);
    for part in ["did you mean `aws_kinesis`", "wrong.yaml:4:3", "batch_size", "no such part"] {
        assert!(found.contains(part), "{part} is missing in:\n{found}");
    }
}

#[test]
fn missing_pipeline_file_is_a_configuration_error_in_one_line() {
    let output = program(&["run", "/nowhere/pipeline.yaml"]);
    assert_eq!(code(&output), Exit::Configuration.code());
    let errors = text(&output.stderr);
    assert!(errors.starts_with("error: can't read the pipeline file /nowhere/pipeline.yaml"), "{errors}");
    assert_eq!(errors.lines().count(), 1);
}

#[test]
fn unknown_input_or_log_level_is_wrong_use() {
    assert_eq!(code(&program(&["docs", "--input", "kafka"])), Exit::Usage.code());
    assert_eq!(code(&program(&["run", "x.yaml", "--log-level", "=?="])), Exit::Usage.code());
}

#[test]
fn schema_is_json_and_contains_the_input() {
    let schema: serde_json::Value = serde_json::from_slice(&program(&["schema"]).stdout).unwrap();
    assert!(schema.pointer("/properties/input/properties/aws_kinesis/properties/streams").is_some());
    let block: serde_json::Value =
        serde_json::from_slice(&program(&["schema", "--input", "aws_kinesis"]).stdout).unwrap();
    assert!(block.pointer("/properties/streams").is_some());
}
