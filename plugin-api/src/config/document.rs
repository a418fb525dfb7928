//! How is a text or a host's value turned into a checked configuration?

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::check::{Configuration, Findings};
use super::de_error::DeError;
use super::diagnostic::{Diagnostic, Diagnostics, Kind, Severity};
use super::environment::Environment;
use super::node::{Content, Node, Path, Span, Step};
use super::{bounds, lint, mask, nearest, schema, yaml};

/// After this many errors, further errors are probably consequences of earlier ones.
const MOST_ERRORS: usize = 50;

/// A configuration together with the warnings about it.
#[derive(Debug)]
#[non_exhaustive]
pub struct Parsed<T> {
    /// The configuration: read, with variables filled in, and checked.
    pub config: T,
    /// The warnings; this list never contains errors.
    pub warnings: Diagnostics,
}

/// A document that holds one or more configurations, such as a pipeline file.
#[derive(Clone)]
pub struct Document {
    root: Node,
    text: Option<Text>,
}

/// The text of the document.
#[derive(Clone)]
struct Text {
    file: Arc<str>,
    lines: Arc<[String]>,
    environment: Environment,
}

impl Document {
    /// Parses YAML text, including JSON. `file` only appears in messages. An empty text is an empty mapping.
    ///
    /// `${VAR}`, `${VAR:-default}` and `${VAR:default}` are filled in later, when a part is read, so that
    /// unused parts need no variables; `${{VAR}}` stands for `${VAR}` itself. The value of a variable is always
    /// one scalar, regardless of its characters.
    ///
    /// # Errors
    ///
    /// Fails if the text isn't YAML, or if a field is given twice.
    pub fn from_yaml(file: &str, text: &str, environment: &Environment) -> Result<Self, Diagnostics> {
        let lines: Arc<[String]> = text.lines().map(str::to_owned).collect();
        let text_of = Text { file: file.into(), lines, environment: environment.clone() };
        match yaml::parse(text) {
            Ok(root) => Ok(Self { root, text: Some(text_of) }),
            Err(mut found) => {
                found.file = Some(Arc::clone(&text_of.file));
                found.source = found.line.and_then(|line| text_of.line(line, &[]));
                Err((*found).into())
            }
        }
    }

    /// Creates a document from a value that a host has already parsed. Variables are not filled in: that is the
    /// host's task.
    pub fn from_value(value: &Value) -> Self {
        Self { root: Node::from_value(value), text: None }
    }

    /// Returns the names of the fields at `path`, in the order of the document, or `None` if there is no
    /// mapping at that path.
    pub fn fields(&self, path: &[&str]) -> Option<Vec<&str>> {
        match &self.at(&Path::of_keys(path))?.content {
            Content::Map(entries) => Some(entries.iter().map(|entry| entry.key.as_str()).collect()),
            _ => None,
        }
    }

    /// Reads the value at `path` into any type, without checks of its own: for the parts of a file that belong
    /// to a host.
    ///
    /// # Errors
    ///
    /// Fails if there is no value at `path`, a variable isn't set, or the value doesn't fit the type.
    pub fn read<T: DeserializeOwned>(&self, path: &[&str]) -> Result<T, Diagnostics> {
        let mut part = self.part(path, None)?;
        part.read::<T>().ok_or(part.found)
    }

    /// Reads and checks the configuration at `path`.
    ///
    /// # Errors
    ///
    /// Fails with all errors that can be detected at once, and with the warnings.
    pub fn parse<T: Configuration>(&self, path: &[&str]) -> Result<Parsed<T>, Diagnostics> {
        self.examine(path, |_, _| {})
    }

    /// Returns all errors and warnings about the configuration at `path`, including settings that a connect
    /// would refuse.
    pub(super) fn lint<T: Configuration>(&self, path: &[&str]) -> Diagnostics {
        match self.examine::<T>(path, T::unsupported) {
            Ok(parsed) => parsed.warnings,
            Err(found) => found,
        }
    }

    /// Reads and checks the configuration at `path`, and runs `more` on a valid one.
    fn examine<T: Configuration>(
        &self,
        path: &[&str],
        more: impl FnOnce(&T, &mut Findings),
    ) -> Result<Parsed<T>, Diagnostics> {
        let schema = schema::of::<T>();
        let mut part = self.part(path, Some(&schema))?;
        for one in lint::deprecated(&part.node, &schema) {
            part.add(Severity::Warning, Kind::Deprecated, &one.path, "this field is deprecated", one.instead);
        }
        let config = part.read::<T>();
        if let Some(config) = &config {
            part.check(config, &schema);
            if !part.found.has_errors() {
                let mut findings = Findings::default();
                more(config, &mut findings);
                part.take(findings);
            }
        }
        part.found.sort();
        match config {
            Some(config) if !part.found.has_errors() => Ok(Parsed { config, warnings: part.found }),
            _ => Err(part.found),
        }
    }

    /// Creates an error at `path`, or at its nearest existing parent, for a problem that the host detects
    /// itself.
    pub fn error_at(&self, path: &[&str], message: impl Into<String>) -> Diagnostic {
        self.diagnostic(Severity::Error, Kind::InvalidValue, &Path::of_keys(path), message.into(), &[])
    }

    fn at(&self, path: &Path) -> Option<&Node> {
        path.0.iter().try_fold(&self.root, |node, step| node.step(step))
    }

    /// Returns the value at `path`, with variables filled in.
    fn part(&self, path: &[&str], schema: Option<&Value>) -> Result<Part<'_>, Diagnostics> {
        let base = Path::of_keys(path);
        let Some(node) = self.at(&base) else { return Err(self.not_found(path).into()) };
        let mut node = node.clone();
        if path.is_empty() && node.content == Content::Null {
            node.content = Content::Map(Vec::new());
        }
        let secrets = schema.map(|schema| mask::secrets(&node, schema)).unwrap_or_default();
        let mut part = Part { document: self, base, node, secrets, values: Vec::new(), found: Diagnostics::new() };
        part.fill(schema);
        if part.found.has_errors() { Err(part.found) } else { Ok(part) }
    }

    fn not_found(&self, path: &[&str]) -> Diagnostic {
        // The first missing step of the path is the part that the author has to correct.
        let known = (0..path.len()).rev().find(|known| self.at(&Path::of_keys(&path[..*known])).is_some()).unwrap_or(0);
        let missing = path.get(known).copied().unwrap_or_default();
        let names = self.fields(&path[..known]).unwrap_or_default();
        let at = Path::of_keys(&path[..known]);
        let mut found =
            self.diagnostic(Severity::Error, Kind::NotFound, &at, format!("there is no field `{missing}` here"), &[]);
        found.help =
            nearest(missing, names).map(|name| format!("did you mean `{name}` by it? Rename it to `{missing}`"));
        found
    }

    fn diagnostic(&self, severity: Severity, kind: Kind, path: &Path, message: String, secrets: &[Span]) -> Diagnostic {
        let mut found = Diagnostic::new(severity, kind, path.to_string(), message);
        let Some(text) = &self.text else { return found };
        found.file = Some(Arc::clone(&text.file));
        if let Some(span) = self.position(path, kind) {
            found.source = text.line(span.line, secrets);
            let width = found.source.as_ref().map_or(0, |line| line.chars().count());
            found.line = Some(span.line);
            found.column = Some(span.column);
            found.length = span.length.min((width + 1).saturating_sub(span.column)).max(1);
        }
        found
    }

    /// Returns the position of an error: the name of the field, or its value if the value is wrong.
    fn position(&self, path: &Path, kind: Kind) -> Option<Span> {
        let mut node = &self.root;
        let mut span = None;
        let mut complete = true;
        for step in &path.0 {
            let key_span = match step {
                Step::Key(key) => node.entry(key).and_then(|entry| entry.key_span),
                Step::Index(_) => None,
            };
            let Some(next) = node.step(step) else {
                complete = false;
                break;
            };
            node = next;
            span = key_span.or(node.span);
        }
        let on_value = complete && matches!(kind, Kind::WrongType | Kind::InvalidValue | Kind::UnsetVariable);
        match node.content {
            Content::Map(_) | Content::List(_) | Content::Null => span,
            _ if on_value => node.span.or(span),
            _ => span,
        }
    }
}

impl std::fmt::Debug for Document {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The content may hold secrets.
        f.debug_struct("Document").field("file", &self.text.as_ref().map(|text| &text.file)).finish_non_exhaustive()
    }
}

impl Text {
    fn line(&self, number: usize, secrets: &[Span]) -> Option<String> {
        self.lines.get(number.checked_sub(1)?).map(|line| mask::line(line, number, secrets))
    }
}

/// The part of a document that is being read.
struct Part<'a> {
    document: &'a Document,
    base: Path,
    node: Node,
    secrets: Vec<Span>,
    /// The values from the environment, which must not appear in messages.
    values: Vec<String>,
    found: Diagnostics,
}

impl Part<'_> {
    fn add(&mut self, severity: Severity, kind: Kind, path: &Path, message: &str, help: Option<String>) {
        let message = mask::values(message, &self.values);
        let mut one = self.document.diagnostic(severity, kind, &self.base.join(path), message, &self.secrets);
        one.help = help.map(|help| mask::values(&help, &self.values));
        self.found.push(one);
    }

    fn fill(&mut self, schema: Option<&Value>) {
        let Some(text) = &self.document.text else { return };
        let mut whole = Vec::new();
        if let Some(schema) = schema {
            collections(&self.node, schema, &text.environment, &mut Path::default(), &mut whole);
        }
        let mut unset = Vec::new();
        let values = &mut self.values;
        self.node.for_each_text_mut(&mut Path::default(), &mut |path, _, content| {
            let filled = text.environment.fill(content);
            unset.extend(filled.unset.into_iter().map(|name| (path.clone(), name)));
            if let Some(new) = filled.text {
                *content = new;
            }
            values.extend(filled.values);
        });
        for (path, node) in whole {
            self.node.replace(&path.0, node);
        }
        for (path, name) in unset {
            let help = format!("set it, or write `${{{name}:-default}}`");
            let message = format!("the environment variable `{name}` is not set");
            self.add(Severity::Error, Kind::UnsetVariable, &path, &message, Some(help));
        }
    }

    /// Reads the type. Wrong values are removed and the rest is read again, so that every error is found.
    fn read<T: DeserializeOwned>(&mut self) -> Option<T> {
        let mut rest = self.node.clone();
        let mut first = true;
        while self.found.len() < MOST_ERRORS {
            let error = match T::deserialize(&rest) {
                Ok(value) if first => return Some(value),
                Ok(_) => return None,
                Err(error) => error,
            };
            let path = error.path();
            if first || !self.follows(&error, &path) {
                self.add(Severity::Error, error.kind, &path, &error.message, error.help);
            }
            first = false;
            // Removing an item of a list shifts the others, so the whole list is removed.
            let upto = path.0.iter().position(|step| matches!(step, Step::Index(_))).unwrap_or(path.0.len());
            if error.kind == Kind::MissingField || !rest.remove(&path.0[..upto]) {
                return None;
            }
        }
        None
    }

    /// Returns `true` if a field is only missing because it was removed: the original document contains it.
    fn follows(&self, error: &DeError, path: &Path) -> bool {
        error.kind == Kind::MissingField
            && path.0.iter().try_fold(&self.node, |node, step| node.step(step)).is_some_and(|node| {
                matches!(&node.content, Content::Map(entries)
                    if entries.iter().any(|entry| error.message.contains(&format!("`{}`", entry.key))))
            })
    }

    fn check<T: Configuration>(&mut self, config: &T, schema: &Value) {
        let mut findings = Findings::default();
        config.values(&mut findings);
        self.take(findings);
        for one in bounds::violations(&self.node, schema) {
            let path = self.base.join(&one.path).to_string();
            if self.found.errors().all(|found| found.path != path) {
                self.add(Severity::Error, Kind::InvalidValue, &one.path, &one.message, None);
            }
        }
        if !self.found.has_errors() {
            let mut findings = Findings::default();
            config.check(&mut findings);
            self.take(findings);
        }
    }

    fn take(&mut self, findings: Findings) {
        for one in findings.found {
            self.add(one.severity, one.kind, &Path::parse(&one.path), &one.message, one.help);
        }
    }
}

/// Finds the variables that are a whole unquoted value and hold a list or a mapping in the flow form of YAML
/// (including JSON), where the schema accepts one, and returns them with their parsed values. Everywhere else the
/// value of a variable is text.
fn collections(node: &Node, schema: &Value, environment: &Environment, path: &mut Path, found: &mut Vec<(Path, Node)>) {
    let mut inside = |step: Step, node: &Node| {
        if let Some(schema) = schema::child(schema, &step) {
            path.0.push(step);
            collections(node, schema, environment, path, found);
            path.0.pop();
        }
    };
    match &node.content {
        Content::Map(entries) => entries.iter().for_each(|entry| inside(Step::Key(entry.key.clone()), &entry.value)),
        Content::List(items) => items.iter().enumerate().for_each(|(index, item)| inside(Step::Index(index), item)),
        Content::Plain(text) if schema::takes_collection(schema) => {
            let Some(filled) = environment.whole_value(text) else { return };
            let filled = filled.trim();
            if !filled.starts_with(['[', '{']) {
                return;
            }
            if let Ok(mut parsed) = yaml::parse(filled)
                && matches!(parsed.content, Content::List(_) | Content::Map(_))
            {
                // Every node of the value has the position of the variable.
                parsed.stand_at(node.span);
                found.push((path.clone(), parsed));
            }
        }
        _ => {}
    }
}
