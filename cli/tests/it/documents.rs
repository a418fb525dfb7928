//! Are the documents right?

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use kinesis_input::telemetry::{METRICS, Measure};
use kinesis_input_cli::{Pipeline, registry};
use pipeline_plugin_api::config::{Document, Environment};

use crate::licenses::cargo;

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

/// Every pipeline in the documents and in the manifests, and every input, which may lack an output.
pub(crate) fn pipelines() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (page, text) in pages() {
        let of_page = blocks(&text, "yaml").into_iter().filter(|block| block.starts_with("input:\n  aws_kinesis:"));
        found.extend(of_page.map(|block| (page.clone(), block.to_owned())));
        found.extend(of_manifests(&text).into_iter().map(|pipeline| (page.clone(), pipeline)));
    }
    let map = "dist/kubernetes/configmap.yaml";
    found.extend(of_map(&read(map)).map(|pipeline| (map.to_owned(), pipeline)));
    found
}

/// The pipelines in the manifests of a page.
fn of_manifests(page: &str) -> Vec<String> {
    blocks(page, "yml").into_iter().flat_map(|block| block.split("\n---\n")).flat_map(of_map).collect()
}

/// The pipelines in a manifest, which are the data of a `ConfigMap`.
fn of_map(manifest: &str) -> impl Iterator<Item = String> + use<> {
    let document: serde_json::Value = serde_saphyr::from_str(manifest).unwrap_or_else(|error| panic!("{error}"));
    assert!(document["apiVersion"].is_string() && document["kind"].is_string(), "{document}");
    let data = document["data"].as_object().cloned().unwrap_or_default();
    data.into_iter().map(|(_, pipeline)| pipeline.as_str().unwrap().to_owned())
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
                let found = aws_kinesis.spec().check(&document, path);
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

/// The policies in the documents are those that the program prints for the same pipeline.
#[test]
fn policies_in_the_documents_are_what_the_program_prints() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipeline.yaml");
    let yaml = "input:\n  aws_kinesis:\n    streams: [orders]\n    region: eu-west-1\n    dynamodb: { table: kinesis-leases }\n    \
                enhanced_fan_out: { enabled: true }\noutput: drop\n";
    std::fs::write(&path, yaml).unwrap();
    let program = Command::new(env!("CARGO_BIN_EXE_kinesis-input"))
        .args(["policy", path.to_str().unwrap(), "--account", "123456789012"])
        .output()
        .unwrap();
    let printed: serde_json::Value = serde_json::from_slice(&program.stdout).unwrap();
    // A document gives one resource by itself, as IAM allows, and no names to statements.
    let plain = |statement: &serde_json::Value| {
        let one = |value: &serde_json::Value| value.as_array().map_or(vec![value.clone()], Clone::clone);
        (one(&statement["Action"]), one(&statement["Resource"]))
    };
    let printed: Vec<_> = printed["Statement"].as_array().unwrap().iter().map(plain).collect();
    let of = |page: &str| -> Vec<serde_json::Value> {
        blocks(&read(page), "json").into_iter().map(|block| serde_json::from_str(block).unwrap()).collect()
    };
    let readme = of("README.md");
    let documented: Vec<_> = readme[0]["Statement"].as_array().unwrap().iter().map(plain).collect();
    assert_eq!(printed[..2], documented);
    assert_eq!(printed[2..], [plain(of("docs/scaling.md").last().unwrap())]);
}

#[test]
fn every_file_that_the_documents_link_to_exists() {
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
fn page_of_operations_lists_the_metrics() {
    let page = read("docs/operations.md");
    let listed = marked(&page, "metrics");
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
fn page_of_operations_names_no_other_metric() {
    let page = read("docs/operations.md");
    for name in code_spans(&page).filter(|name| name.starts_with("kinesis_input_")) {
        assert!(METRICS.iter().any(|metric| metric.name == name), "there is no metric {name}");
    }
}

#[test]
fn dashboard_alerts_and_scaler_name_metrics_that_exist() {
    let files = ["dist/grafana/kinesis-input.json", "dist/prometheus/alerts.yaml", "dist/keda/by-lag.yaml"];
    for file in files {
        let text = read(file);
        let names: Vec<_> = text
            .split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')
            .filter(|word| word.starts_with("kinesis_input_"))
            .collect();
        assert!(!names.is_empty(), "{file}");
        for name in names {
            assert!(METRICS.iter().any(|metric| metric.name == name), "{file}: there is no metric {name}");
        }
    }
    let dashboard: serde_json::Value = serde_json::from_str(&read(files[0])).unwrap();
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(panel["title"].is_string() && panel["targets"][0]["expr"].is_string(), "{panel}");
    }
    let rules: serde_json::Value = serde_saphyr::from_str(&read(files[1])).unwrap();
    let tests: serde_json::Value = serde_saphyr::from_str(&read("tests/alerts/alerts_test.yaml")).unwrap();
    for rule in rules["groups"][0]["rules"].as_array().unwrap() {
        let fires = tests["tests"].as_array().unwrap().iter().any(|test| {
            let mut cases = test["alert_rule_test"].as_array().unwrap().iter();
            cases.any(|case| case["alertname"] == rule["alert"] && case["exp_alerts"].is_array())
        });
        assert!(fires, "no test sees {} fire", rule["alert"]);
    }
    let scaler: serde_json::Value = serde_saphyr::from_str(&read(files[2])).unwrap();
    assert_eq!(scaler["kind"], "ScaledObject");
}

#[test]
fn kubernetes_manifests_fit_the_program_and_each_other() {
    let manifest = |name: &str| -> serde_json::Value {
        serde_saphyr::from_str(&read(&format!("dist/kubernetes/{name}.yaml"))).unwrap()
    };
    let (account, map) = (manifest("serviceaccount"), manifest("configmap"));
    let (deployment, budget) = (manifest("deployment"), manifest("poddisruptionbudget"));
    let (spec, pod) = (&deployment["spec"], &deployment["spec"]["template"]["spec"]);
    let container = &pod["containers"][0];
    let labels = &spec["template"]["metadata"]["labels"];
    for selector in
        [&spec["selector"], &budget["spec"]["selector"], &pod["topologySpreadConstraints"][0]["labelSelector"]]
    {
        assert_eq!(&selector["matchLabels"], labels);
    }
    assert_eq!(pod["serviceAccountName"], account["metadata"]["name"]);
    let volume = &pod["volumes"][0];
    assert_eq!(volume["configMap"]["name"], map["metadata"]["name"]);
    let mount = &container["volumeMounts"][0];
    assert_eq!(mount["name"], volume["name"]);

    // The pipeline is the file that the program is given, and the program takes its arguments.
    let (file, text) = map["data"].as_object().unwrap().iter().next().unwrap();
    let arguments: Vec<_> = container["args"].as_array().unwrap().iter().map(|one| one.as_str().unwrap()).collect();
    assert_eq!(arguments[1], format!("{}/{file}", mount["mountPath"].as_str().unwrap()));
    let program = ["kinesis-input"].into_iter().chain(arguments.iter().copied());
    let parsed = kinesis_input_cli::command::arguments().try_get_matches_from(program).unwrap();
    assert_eq!(parsed.subcommand_name(), Some("run"));
    let text = text.as_str().unwrap();
    let pipeline = Pipeline::from_yaml(file, text, &Environment::empty(), &registry().unwrap());
    let pipeline = pipeline.unwrap_or_else(|error| panic!("{error}"));
    assert!(pipeline.warnings.is_empty(), "{}", pipeline.warnings);

    // There is time to stop, and memory for what may be pending.
    let grace = pod["terminationGracePeriodSeconds"].as_u64().unwrap();
    assert!(grace >= pipeline.shutdown_timeout.as_secs() + 5, "{grace} s");
    let document = Document::from_yaml(file, text, &Environment::empty()).unwrap();
    let config = document.parse::<kinesis_input::Config>(&["input", "aws_kinesis"]).unwrap().config;
    let limit = container["resources"]["limits"]["memory"].as_str().unwrap().strip_suffix("Mi").unwrap();
    let pending = config.enhanced_fan_out.max_pending_bytes.bytes() >> 20;
    assert!(limit.parse::<u64>().unwrap() >= 64 + pending + 16, "{limit} MiB, {pending} of them pending");

    // The probes go where the program answers.
    let port = &container["ports"][0];
    let address = arguments.iter().position(|one| *one == "--http").map(|at| arguments[at + 1]).unwrap();
    assert_eq!(address, format!("0.0.0.0:{}", port["containerPort"]));
    for (probe, path) in [("startupProbe", "/health"), ("livenessProbe", "/health"), ("readinessProbe", "/ready")] {
        let get = &container[probe]["httpGet"];
        assert_eq!((&get["path"], &get["port"]), (&path.into(), &port["name"]), "{probe}");
        assert!(read("docs/status.md").contains(&format!("| `{path}` |")));
    }
}

#[test]
fn page_of_operations_lists_the_log_messages() {
    let page = read("docs/operations.md");
    let mut listed: Vec<_> = marked(&page, "logs")
        .lines()
        .skip(2)
        .map(|row| {
            let mut cells = row.split('|').map(str::trim).skip(1);
            (cells.next().unwrap().to_owned(), cells.next().unwrap().to_owned())
        })
        .collect();
    let mut logged = log_messages(&read("src/telemetry/mod.rs"));
    assert!(logged.len() > 10, "{logged:?}");
    listed.sort();
    logged.sort();
    assert_eq!(listed, logged);
}

/// The messages of the events above `debug` in a source file, with their levels.
fn log_messages(source: &str) -> Vec<(String, String)> {
    let events = source.split("tracing::").skip(1);
    let events = events.filter_map(|event| event.split_once("!(")).filter(|(level, _)| {
        assert!(!level.is_empty());
        ["error", "warn", "info"].contains(level)
    });
    let message = |(level, rest): (&str, &str)| {
        let literal = rest.split(");").next().unwrap().rsplit('"').nth(1).unwrap();
        // A continued line.
        let parts: Vec<_> = literal.split("\\\n").map(str::trim_start).collect();
        (level.to_owned(), parts.concat().replace('`', ""))
    };
    events.map(message).collect()
}

#[test]
fn policy_of_the_readme_allows_the_calls_that_are_made_and_no_others() {
    let source = read("src/aws/sdk.rs");
    let (_, methods) = source.split_once("impl Service for Aws").unwrap();
    let mut called: Vec<_> = ["self.control.", "self.records.", ".records\n"]
        .into_iter()
        .flat_map(|before| methods.split(before).skip(1))
        .map(|rest| rest.trim_start().trim_start_matches('.'))
        .map(|rest| camel(rest.split('(').next().unwrap()))
        .collect();
    called.sort();
    called.dedup();
    assert!(called.len() >= 8, "{called:?}");

    let readme = read("README.md");
    let mut allowed: Vec<_> = readme
        .split("kinesis:")
        .skip(1)
        .filter(|rest| rest.starts_with(|first: char| first.is_ascii_uppercase()))
        .map(|rest| rest.split(|letter: char| !letter.is_ascii_alphabetic()).next().unwrap().to_owned())
        .collect();
    allowed.sort();
    allowed.dedup();
    assert_eq!(allowed, called);
}

#[test]
fn policy_of_the_table_allows_the_calls_that_are_made_and_no_others() {
    let calls = [
        ("get_item", &["GetItem"][..]),
        ("query", &["Query"]),
        ("scan", &["Scan"]),
        ("update_item", &["UpdateItem"]),
        ("put_item", &["PutItem"]),
        ("delete_item", &["DeleteItem"]),
        ("transact_write_items", &["PutItem", "DeleteItem"]),
        ("describe_table", &["DescribeTable"]),
        ("create_table", &["CreateTable"]),
    ];
    let mut source = String::new();
    for file in sources(&root().join("src/lease/dynamodb")) {
        if !file.ends_with("tests.rs") {
            source += &std::fs::read_to_string(file).unwrap();
        }
    }
    let made =
        calls.iter().filter(|(call, _)| source.contains(&format!(".{call}()"))).flat_map(|(_, actions)| *actions);
    let made: BTreeSet<_> = made.map(ToString::to_string).collect();
    let page = read("docs/scaling.md");
    let allowed = page.split("dynamodb:").skip(1).filter(|rest| rest.starts_with(char::is_uppercase));
    let allowed =
        allowed.map(|rest| rest.split(|letter: char| !letter.is_ascii_alphabetic()).next().unwrap().to_owned());
    assert_eq!(allowed.collect::<BTreeSet<_>>(), made);
}

#[test]
fn pipelines_in_manifests_are_right() {
    let registry = registry().unwrap();
    let environment = Environment::from_pairs([("POD_NAME", "orders-0")]);
    let mut pipelines = 0;
    for (page, text) in pages() {
        for pipeline in of_manifests(&text) {
            let built = Pipeline::from_yaml(&page, &pipeline, &environment, &registry);
            let pipeline = built.unwrap_or_else(|error| panic!("{page}: {error}"));
            assert!(pipeline.warnings.is_empty(), "{page}: {}", pipeline.warnings);
            pipelines += 1;
        }
    }
    assert!(pipelines >= 1, "the page of scaling has one");
}

fn camel(snake: &str) -> String {
    snake.split('_').map(|word| word[..1].to_uppercase() + &word[1..]).collect()
}

#[test]
fn page_of_the_program_lists_its_flags_and_settings() {
    let page = read("docs/cli.md");
    let program = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_kinesis-input")).args(arguments).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    for command in ["run", "lint", "leases", "top", "kcl import", "kcl export", "schema", "docs", "create"] {
        assert!(page.contains(&format!("kinesis-input {command}")), "{command}");
        let arguments: Vec<&str> = command.split(' ').chain(["--help"]).collect();
        let help = program(&arguments);
        for flag in help.split("--").skip(1).filter_map(|rest| rest.split([' ', '\n', ',', ']']).next()) {
            assert!(flag == "help" || page.contains(&format!("--{flag}")), "`{command} --{flag}`");
        }
    }
    let schema: serde_json::Value = serde_json::from_str(&program(&["schema"])).unwrap();
    let parts = schema["properties"].as_object().unwrap();
    let settings = parts["pipeline"]["properties"].as_object().unwrap();
    let settings = settings.iter().map(|(name, field)| (format!("pipeline.{name}"), field));
    let host = parts.iter().filter(|(name, _)| *name != "pipeline").map(|(name, field)| (name.clone(), field));
    for (name, field) in settings.chain(host) {
        let row = page.lines().find(|line| line.starts_with(&format!("| `{name}` |")));
        let row = row.unwrap_or_else(|| panic!("{name} has no row"));
        let default = match &field["default"] {
            serde_json::Value::Null => continue,
            serde_json::Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        assert!(row.contains(&format!("({default})")), "the default of {name} is {default}");
    }
}

#[test]
fn every_feature_is_listed_with_its_cost() {
    // The transports of the program are not downloaded for a test, so their costs have a date.
    for (package, folder, page, are_counted) in [
        ("pipeline-plugin-api", "plugin-api", "plugin-api/README.md", true),
        ("kinesis-input", ".", "README.md", true),
        ("pipeline-plugin-mq-bridge", "hosts/mq-bridge", "hosts/mq-bridge/README.md", true),
        ("kinesis-input-cli", "cli", "docs/cli.md", false),
    ] {
        let count = |feature: &str| {
            let edges = ["--edges=normal,build", "--target=x86_64-unknown-linux-gnu", "--prefix=none", "--no-dedupe"];
            let of = ["tree", "--package", package, "--features", feature, "--format={p}"];
            cargo(&[of.as_slice(), edges.as_slice()].concat()).lines().collect::<BTreeSet<_>>().len()
        };
        let without = count("");
        let manifest = read(&format!("{folder}/Cargo.toml"));
        let (_, features) = manifest.split_once("[features]\n").unwrap();
        let features = features.lines().take_while(|line| !line.starts_with('['));
        let features: BTreeMap<_, _> = features.filter_map(|line| line.split_once(" = ")).collect();
        let page_text = read(page);
        let mut listed = BTreeSet::new();
        for row in marked_as(&page_text, "features", "Cargo.toml").lines().skip(2) {
            let cells: Vec<_> = row.trim_matches(['|', ' ']).split(" | ").collect();
            let [name, default, _, more] = cells[..] else { panic!("{page}: {row}") };
            let name = name.trim_matches('`');
            let is_default = features.get("default").is_some_and(|default| default.contains(&format!("\"{name}\"")));
            assert_eq!(default == "yes", is_default, "{page}: {row}");
            let more: usize = more.parse().unwrap();
            if are_counted {
                assert_eq!(more, count(name) - without, "{page}: {row}");
            }
            listed.insert(name);
        }
        let declared: BTreeSet<_> = features.into_keys().filter(|name| *name != "default").collect();
        assert_eq!(listed, declared, "{page}");
    }
}

#[test]
fn every_test_that_the_documents_name_exists() {
    let mut tests = String::new();
    for folder in ["src", "tests", "plugin-api", "hosts/mq-bridge", "cli/tests", "simulator/tests"] {
        for file in sources(&root().join(folder)) {
            tests += &std::fs::read_to_string(file).unwrap();
        }
    }
    let schema = registry().unwrap().get("aws_kinesis").unwrap().spec().schema().to_string();
    let page = read("docs/guarantees.md");
    let names: Vec<_> =
        code_spans(&page).filter(|name| is_test_name(name) && !schema.contains(&format!("\"{name}\":"))).collect();
    assert!(names.len() > 20, "{names:?}");
    // The tests that hold an invariant are named below it.
    let invariants = read("docs/architecture.md");
    let lines = invariants.lines().filter(|line| line.starts_with("(`"));
    let of_invariants: Vec<_> = lines.flat_map(code_spans).collect();
    assert!(of_invariants.len() > 8, "{of_invariants:?}");
    // Other names on these pages are shorter, or metadata.
    let is_long = |name: &&str| is_test_name(name) && name.matches('_').count() > 2 && !name.starts_with("kinesis_");
    let migrations = [read("docs/migrating-from-kcl.md"), read("docs/migrating-from-connect.md")];
    let of_migrations: Vec<_> = migrations.iter().flat_map(|page| code_spans(page).filter(is_long)).collect();
    assert!(of_migrations.len() > 20, "{of_migrations:?}");
    for name in names.into_iter().chain(of_invariants).chain(of_migrations) {
        assert!(tests.contains(&format!("fn {name}()")), "there is no test named {name}");
    }
}

/// The name of a test consists of several words, unlike most other text in backticks.
fn is_test_name(name: &str) -> bool {
    let of_a_metric = name.starts_with("kinesis_input_");
    let letters = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_';
    name.contains('_') && !of_a_metric && name.chars().all(letters)
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap()
}

/// The texts in backticks.
fn code_spans(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The part of a page between two comments.
fn marked<'a>(page: &'a str, name: &str) -> &'a str {
    marked_as(page, name, "the code")
}

/// The same, where it is compared with something else.
fn marked_as<'a>(page: &'a str, name: &str, with: &str) -> &'a str {
    let (_, rest) = page.split_once(&format!("<!-- {name}: compared with {with} by a test -->\n")).unwrap();
    rest.split(&format!("<!-- end of {name} -->")).next().unwrap()
}
