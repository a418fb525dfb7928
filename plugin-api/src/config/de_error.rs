//! How does an error of serde become a message for the author of a configuration?
//!
//! The value itself is never repeated: it may be a secret, and the source line shows it where that is allowed.

use std::fmt;

use serde::de::{self, Unexpected};

use super::diagnostic::Kind;
use super::nearest;
use super::node::{Path, Step};

/// An error of serde, and its path.
#[derive(Debug)]
pub(super) struct DeError {
    pub(super) kind: Kind,
    pub(super) message: String,
    pub(super) help: Option<String>,
    /// The steps are stored from the inside out, because the path is built on the way back.
    steps: Vec<Step>,
}

impl DeError {
    fn new(kind: Kind, message: String) -> Self {
        Self { kind, message, help: None, steps: Vec::new() }
    }

    pub(super) fn under(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }

    /// Returns the path, starting where reading began.
    pub(super) fn path(&self) -> Path {
        Path(self.steps.iter().rev().cloned().collect())
    }
}

impl fmt::Display for DeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for DeError {}

impl de::Error for DeError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(Kind::InvalidValue, message.to_string())
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::new(Kind::WrongType, format!("expected {}, found {}", plain(expected), kind_of(&found)))
    }

    fn invalid_value(_: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        let expected = plain(expected);
        Self::new(Kind::InvalidValue, format!("the value is out of range: expected {expected}"))
    }

    fn unknown_variant(given: &str, expected: &'static [&'static str]) -> Self {
        let mut error = Self::new(Kind::InvalidValue, format!("expected {}", one_of(expected)));
        error.help = nearest(given, expected.iter().copied())
            .or_else(|| expected.iter().copied().find(|name| name.eq_ignore_ascii_case(given)))
            .map(|name| format!("did you mean `{name}`?"));
        error
    }

    fn unknown_field(given: &str, expected: &'static [&'static str]) -> Self {
        let mut error = Self::new(Kind::UnknownField, format!("there is no field `{given}` here"));
        error.help = Some(match nearest(given, expected.iter().copied()) {
            Some(name) => format!("did you mean `{name}`?"),
            None if expected.is_empty() => "no fields are expected here".to_owned(),
            None => format!("expected {}", one_of(expected)),
        });
        error
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new(Kind::MissingField, format!("the field `{field}` is missing"))
    }

    fn duplicate_field(field: &'static str) -> Self {
        Self::new(Kind::DuplicateField, format!("field `{field}` is given twice"))
    }
}

/// Names a type in plain words: serde says `u32`, and the author of a configuration need not know Rust.
fn plain(expected: &dyn de::Expected) -> String {
    match expected.to_string().as_str() {
        "u8" => "a whole number up to 255".to_owned(),
        "u16" => "a whole number up to 65535".to_owned(),
        "u32" => "a whole number up to 4294967295".to_owned(),
        "u64" | "u128" | "usize" => "a whole number that isn't negative".to_owned(),
        "i8" | "i16" | "i32" | "i64" | "i128" | "isize" => "a whole number".to_owned(),
        "f32" | "f64" => "a number".to_owned(),
        "a string" => "text".to_owned(),
        other => other.to_owned(),
    }
}

pub(super) fn one_of(names: &[&str]) -> String {
    let quoted: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
    match quoted.as_slice() {
        [] => "nothing".to_owned(),
        [one] => one.clone(),
        many => format!("one of {}", many.join(", ")),
    }
}

fn kind_of(found: &Unexpected<'_>) -> &'static str {
    match found {
        Unexpected::Bool(_) => "a boolean",
        Unexpected::Unsigned(_) | Unexpected::Signed(_) => "a whole number",
        Unexpected::Float(_) => "a number with a fraction",
        Unexpected::Char(_) | Unexpected::Str(_) => "text",
        Unexpected::Unit | Unexpected::Option => "nothing",
        Unexpected::Seq => "a list",
        Unexpected::Map => "a mapping of fields",
        _ => "something else",
    }
}
