//! Does one declaration give parsing, lint, schema, reference and example that fit each other?

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use super::*;
use crate::registry::{About, Stability};

/// A configuration with one field of each kind.
#[derive(Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Toy {
    /// What to read, by name.
    #[schemars(length(min = 1))]
    #[schemars(extend("examples" = ["news"]))]
    topic: String,
    /// How many at once.
    #[serde(default = "ten")]
    #[schemars(range(min = 1, max = 100))]
    limit: u32,
    /// How long to wait.
    ///
    /// A second paragraph.
    #[serde(default)]
    #[schemars(extend("x-advanced" = true, "x-since" = "0.2.0"))]
    wait: Duration,
    /// The old name of `limit`.
    #[serde(default)]
    #[schemars(extend("deprecated" = true, "x-deprecated" = "use `limit`"))]
    max: u32,
    /// Which way to go.
    #[serde(default)]
    way: Way,
    /// Who reads.
    #[serde(default)]
    login: Login,
    /// Words that go with it.
    #[serde(default)]
    tags: Vec<String>,
}

/// A way.
#[derive(Debug, Default, PartialEq, Deserialize, serde::Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Way {
    /// Up.
    #[default]
    Up,
    /// Down.
    Down,
}

/// A login.
#[derive(Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Login {
    /// The name of the user.
    user: String,
    /// What only the user knows.
    pass: Secret,
}

fn ten() -> u32 {
    10
}

impl Configuration for Toy {
    fn check(&self, findings: &mut Findings) {
        if !self.login.pass.is_empty() && self.login.user.is_empty() {
            findings.conflict("login.pass", "`pass` needs `user`", "set both");
        }
        if self.topic.ends_with('!') {
            findings.invalid("topic", format!("nobody shouts {}", self.topic), format!("not {}", self.topic));
        }
        if self.way == Way::Down && !self.wait.is_zero() {
            findings.no_effect("wait", "nobody waits on the way down", "");
        }
    }
}

fn environment() -> Environment {
    Environment::from_pairs([("PASS", "hunter2!"), ("LIMIT", "7"), ("ODD", "a: b\n- c: [")])
}

fn parse(text: &str) -> Result<Parsed<Toy>, Diagnostics> {
    Document::from_yaml("toy.yaml", text, &environment())?.parse(&["input", "toy"])
}

fn rendered(text: &str) -> String {
    let found = parse(text).expect_err(text);
    found.to_string()
}

fn spec() -> ConfigSpec {
    let about = About::new("toy", "0.3.0", "Reads a toy.")
        .status(Stability::Beta)
        .description("More about it.")
        .example("Simple", "To begin with.", "input: {toy: {topic: news}}\n");
    ConfigSpec::of::<Toy>(about)
}

#[test]
fn block_inside_a_larger_document_is_read() {
    let text = "input:\n  label: x\n  toy: {topic: news, wait: 1m30s, login: {pass: '${PASS}', user: me}, way: down}\noutput:\n  x: ${NOT_SET}\n";
    let parsed = parse(text).unwrap();
    assert_eq!((parsed.config.topic.as_str(), parsed.config.limit), ("news", 10));
    assert_eq!(parsed.config.wait.as_secs(), 90);
    assert_eq!(parsed.config.login.pass.expose(), "hunter2!");
    let warned: Vec<_> = parsed.warnings.iter().map(|one| (one.kind, one.path.as_str(), one.line)).collect();
    assert_eq!(warned, [(Kind::NoEffect, "input.toy.wait", Some(3))]);
}

#[test]
fn error_shows_the_line_of_the_whole_file() {
    let expected = "\
error: input.toy.limt: there is no field `limt` here
 --> toy.yaml:4:5
  |
4 |     limt: ***
  |     ^^^^
  = help: did you mean `limit`?";
    assert_eq!(rendered("input:\n  toy:\n    topic: news\n    limt: 5\n"), expected);
}

#[test]
fn every_mistake_is_found_at_once_in_the_order_of_the_file() {
    let text = "input:\n  toy:\n    topic: [a]\n    limit: many\n    wait: 5\n    way: dwn\n    login: {usr: me}\n    tags: [a, [b]]\n";
    let found = parse(text).unwrap_err();
    let short: Vec<_> = found.iter().map(|one| (one.line.unwrap(), one.column.unwrap(), one.kind)).collect();
    assert_eq!(
        short,
        [
            (3, 5, Kind::WrongType),
            (4, 12, Kind::WrongType),
            (5, 11, Kind::InvalidValue),
            (6, 10, Kind::InvalidValue),
            (7, 13, Kind::UnknownField),
            (8, 15, Kind::WrongType),
        ]
    );
    let messages: Vec<_> = found.iter().map(|one| one.message.as_str()).collect();
    assert_eq!(messages[0], "expected text, found a list");
    assert_eq!(messages[1], "expected a whole number up to 4294967295, found text");
    assert_eq!(messages[3], "expected one of `up`, `down`");
    assert_eq!(found.iter().nth(3).unwrap().help.as_deref(), Some("did you mean `down`?"));
}

#[test]
fn missing_field_is_reported_at_its_block() {
    let expected = "\
error: input.toy: the field `topic` is missing
 --> toy.yaml:2:3
  |
2 |   toy: {}
  |   ^^^";
    assert_eq!(rendered("input:\n  toy: {}\n"), expected);
}

#[test]
fn values_out_of_range_and_contradictions_are_found_at_their_field() {
    for (fields, path, column, message) in [
        ("limit: 0", "limit", 24, "the value is lower than 1"),
        ("limit: 101", "limit", 24, "the value is greater than 100"),
        ("limit: 5000000000", "limit", 24, "the value is out of range: expected a whole number up to 4294967295"),
        ("login: {pass: hunter2}", "login.pass", 25, "`pass` needs `user`"),
    ] {
        let found = parse(&format!("input: {{toy: {{topic: x, {fields}}}}}")).expect_err(fields);
        let one = found.iter().next().unwrap();
        assert_eq!((one.path.as_str(), one.message.as_str()), (format!("input.toy.{path}").as_str(), message));
        assert!(one.column.unwrap() >= column, "{fields}: {:?}", one.column);
        assert_eq!(found.len(), 1, "{found}");
        assert!(!found.to_string().contains("hunter2"), "{found}");
    }
}

#[test]
fn field_given_twice_is_an_error() {
    let found = parse("input:\n  toy:\n    topic: a\n    topic: b\n").unwrap_err();
    let one = found.iter().next().unwrap();
    assert_eq!((one.kind, one.line, one.column), (Kind::DuplicateField, Some(4), Some(5)));
    assert_eq!(one.source.as_deref(), Some("    topic: b"));
}

#[test]
fn variables_are_filled_in_and_stay_what_they_are() {
    let config = parse("input: {toy: {topic: '${ODD}', limit: ${LIMIT}, tags: [${ODD}, \"${NONE:x}\", '${{ODD}}']}}")
        .unwrap()
        .config;
    assert_eq!(config.topic, "a: b\n- c: [");
    assert_eq!(config.limit, 7);
    assert_eq!(config.tags, ["a: b\n- c: [", "x", "${ODD}"]);
}

#[test]
fn variables_that_are_not_set_are_all_named_where_they_stand() {
    let found = parse("input:\n  toy:\n    topic: ${A}\n    tags: [x, '${B}']\n").unwrap_err();
    let short: Vec<_> = found.iter().map(|one| (one.kind, one.line.unwrap(), one.column.unwrap())).collect();
    assert_eq!(short, [(Kind::UnsetVariable, 3, 12), (Kind::UnsetVariable, 4, 15)]);
    assert!(found.to_string().contains("the environment variable `B` is not set"), "{found}");
    assert!(found.to_string().contains("write `${B:-default}`"), "{found}");
}

#[test]
fn values_from_the_environment_are_in_no_message() {
    for field in ["limit: ${PASS}", "wait: ${PASS}", "way: ${PASS}", "login: ${PASS}", "tags: ${PASS}", "'${PASS}': 1"]
    {
        let found = parse(&format!("input: {{toy: {{topic: x, {field}}}}}")).expect_err(field);
        assert!(!format!("{found} {found:?}").contains("hunter2"), "{field}: {found}");
    }
}

#[test]
fn value_from_the_environment_is_masked_in_a_check() {
    let found = rendered("input: {toy: {topic: '${PASS}'}}");
    assert!(found.contains("nobody shouts ***") && found.contains("not ***"), "{found}");
    assert!(rendered("input: {toy: {topic: news!}}").contains("nobody shouts news!"));
}

#[test]
fn item_of_a_list_is_reported_at_its_own_position() {
    let found = parse("input: {toy: {topic: x, tags: [a, [b], c, [d]], limit: y}}").unwrap_err();
    let paths: Vec<_> = found.iter().map(|one| (one.path.as_str(), one.column.unwrap())).collect();
    assert_eq!(paths, [("input.toy.tags[1]", 35), ("input.toy.limit", 56)]);
}

#[test]
fn missing_path_is_reported_with_the_names_that_exist() {
    let found = parse("input:\n  tyo: {topic: x}\n").unwrap_err();
    let one = found.iter().next().unwrap();
    assert_eq!((one.kind, one.message.as_str()), (Kind::NotFound, "there is no field `toy` here"));
    assert!(one.help.as_deref().unwrap().contains("`tyo`"));
    assert_eq!(parse("").unwrap_err().iter().next().unwrap().kind, Kind::NotFound);
}

#[test]
fn value_of_a_host_is_reported_by_path() {
    let read = |value: &Value| Document::from_value(value).parse::<Toy>(&[]);
    assert_eq!(read(&json!({ "topic": "a", "limit": 5.0, "tags": ["${A}"] })).unwrap().config.tags, ["${A}"]);
    let found =
        read(&json!({ "topic": "a", "limit": "5", "tags": ["a", 1], "login": { "pas": "hunter2" } })).unwrap_err();
    let paths: Vec<_> = found.iter().map(|one| (one.path.as_str(), one.line)).collect();
    assert_eq!(paths, [("limit", None), ("tags[1]", None), ("login.pas", None)]);
    assert!(!format!("{found:?}").contains("hunter2"));
}

#[test]
fn parts_that_are_not_components_are_read_into_any_type() {
    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Output {
        Stdout,
        File { path: String, mode: Option<u8>, ratio: f64 },
    }
    let text = "a: stdout\nb: {file: {path: x, ratio: 1}}\nc: {file: {path: [], ratio: 1}}\nd: {x: 1, y: [true, no, 0x10, 1.5, ~, text]}\n";
    let document = Document::from_yaml("x.yaml", text, &Environment::empty()).unwrap();
    assert_eq!(document.read::<Output>(&["a"]).unwrap(), Output::Stdout);
    assert_eq!(document.read::<Output>(&["b"]).unwrap(), Output::File { path: "x".into(), mode: None, ratio: 1.0 });
    let found = document.read::<Output>(&["c"]).unwrap_err();
    assert_eq!(found.iter().next().unwrap().path, "c.file.path");
    assert_eq!(document.read::<Value>(&["d"]).unwrap(), json!({ "x": 1, "y": [true, "no", 16, 1.5, null, "text"] }));
    assert_eq!(document.fields(&[]), Some(vec!["a", "b", "c", "d"]));
    assert_eq!(document.fields(&["a"]), None);
    assert_eq!(document.error_at(&["b", "file"], "no").line, Some(2));
}

#[test]
fn debug_of_a_document_hides_its_content() {
    let document = Document::from_yaml("x.yaml", "pass: hunter2", &Environment::empty()).unwrap();
    assert!(!format!("{document:?}").contains("hunter2"));
}

#[test]
fn lint_gives_errors_and_warnings_together() {
    let text = "input:\n  toy:\n    topic: ''\n    max: 5\n";
    let document = Document::from_yaml("toy.yaml", text, &environment()).unwrap();
    let found = spec().lint(&document, &["input", "toy"]);
    let short: Vec<_> = found.iter().map(|one| (one.kind, one.path.as_str())).collect();
    assert_eq!(short, [(Kind::InvalidValue, "input.toy.topic"), (Kind::Deprecated, "input.toy.max")]);
    assert_eq!(found.warnings().next().unwrap().help.as_deref(), Some("use `limit`"));
    let unused = Document::from_yaml("toy.yaml", "input: {toy: {topic: x, max: 0}}", &environment()).unwrap();
    assert!(spec().lint(&unused, &["input", "toy"]).is_empty());
}

#[test]
fn the_schema_is_valid_and_carries_the_attributes() {
    let spec = spec();
    let schema = spec.schema();
    jsonschema::meta::validate(schema).unwrap();
    assert_eq!(schema["title"], "toy");
    assert_eq!(schema["required"], json!(["topic"]));
    let field = |name: &str| &schema["properties"][name];
    assert_eq!(
        (&field("limit")["minimum"], &field("limit")["maximum"], &field("limit")["default"]),
        (&json!(1), &json!(100), &json!(10))
    );
    assert_eq!((&field("wait")["x-advanced"], &field("wait")["x-since"]), (&json!(true), &json!("0.2.0")));
    assert_eq!(field("max")["deprecated"], true);
    assert_eq!(field("max")["maximum"], u32::MAX);
    assert_eq!(field("login")["properties"]["pass"]["writeOnly"], true);
}

#[test]
fn the_examples_are_small_or_full_and_lint_clean() {
    let small = "\
toy:
  # What to read, by name. Required.
  topic: news

  # How many at once.
  limit: 10

  # Which way to go. One of up, down.
  way: up

  # Who reads.
  login:
    # The name of the user.
    user: \"\"
    # What only the user knows. Secret: write ${VAR}, not the value.
    pass: \"\"

  # Words that go with it.
  tags: []
";
    assert_eq!(spec().example(Detail::Small), small);
    let full = spec().example(Detail::Full);
    assert!(full.contains("  # How long to wait.\n  #\n  # A second paragraph.\n  wait: 0s\n"), "{full}");
    assert!(!full.contains("max:"), "{full}");
    for text in [small, &full] {
        let document = Document::from_yaml("x.yaml", text, &Environment::empty()).unwrap();
        assert!(spec().lint(&document, &["toy"]).is_empty());
    }
}

#[test]
fn the_reference_lists_every_field_with_its_facts() {
    let reference = spec().reference();
    for part in [
        "# toy\n\nReads a toy.\n\nThis input is beta.\n",
        "More about it.\n",
        "### Simple\n\nTo begin with.\n\n```yaml\ninput: {toy: {topic: news}}\n```\n",
        "### `topic`\n\nWhat to read, by name.\n\nType: text; required.\n\nExamples: `news`.\n",
        "Type: whole number; default: `10`; 1 to 100.\n",
        "A second paragraph.\n\nType: duration; default: `0s`; advanced; since 0.2.0.\n",
        "### `max`\n\n**Deprecated.** Use `limit`.\n\nThe old name of `limit`.\n",
        "Type: text; default: `up`; one of `up`, `down`.\n",
        "### `login.pass`\n\nWhat only the user knows.\n\nType: text; secret: write `${VAR}`, not the value.\n",
        "Type: list of text; default: `[]`.\n",
    ] {
        assert!(reference.contains(part), "{part:?} is not in\n{reference}");
    }
    assert!(reference.ends_with(".\n") && !reference.ends_with("\n\n"));
}

#[test]
fn variable_that_is_a_whole_value_may_hold_a_list_or_a_mapping() {
    let environment = Environment::from_pairs([
        ("TAGS", r#"["a", "b: c", "${LIMIT}"]"#),
        ("LOGIN", "{user: me, pass: '[hunter2]'}"),
        ("WORD", "[no list"),
        ("LIMIT", "7"),
    ]);
    let parse = |text: &str| Document::from_yaml("test.yaml", text, &environment).unwrap().parse::<Toy>(&[]);
    let toy = parse("topic: t\ntags: ${TAGS}\nlogin: ${LOGIN}\nlimit: ${LIMIT}").unwrap().config;
    assert_eq!(toy.tags, ["a", "b: c", "${LIMIT}"], "what a variable holds is not looked through again");
    assert_eq!((toy.login.user.as_str(), toy.login.pass.expose(), toy.limit), ("me", "[hunter2]", 7));
    let toy = parse("topic: t\ntags: ${NONE:-[x, y]}").unwrap().config;
    assert_eq!(toy.tags, ["x", "y"]);
    // Text remains text: in a field of text, in quotes, and inside a text.
    let toy = parse("topic: ${TAGS}\nlogin: {user: u, pass: \"${TAGS}\"}").unwrap().config;
    assert!(toy.topic.starts_with('[') && toy.login.pass.expose().starts_with('['));
    for text in ["topic: t\ntags: \"${TAGS}\"", "topic: t\ntags: x${TAGS}", "topic: t\ntags: ${WORD}"] {
        assert!(parse(text).unwrap_err().has_errors(), "{text}");
    }
    // An error inside the value is reported at the variable, without its value.
    let environment = Environment::from_pairs([("TAGS", r#"["good", {"secret": "hunter2"}]"#)]);
    let found = Document::from_yaml("test.yaml", "topic: t\ntags: ${TAGS}", &environment).unwrap().parse::<Toy>(&[]);
    let found = found.unwrap_err().to_string();
    assert!(found.contains("test.yaml:2:") && !found.contains("hunter2"), "{found}");
}

#[test]
fn second_document_is_an_error_with_its_own_message() {
    let found = Document::from_yaml("test.yaml", "topic: a\n---\ntopic: b\n", &Environment::empty()).map(drop);
    let found = found.unwrap_err().to_string();
    assert!(found.contains("more than one document") && found.contains("test.yaml"), "{found}");
}
