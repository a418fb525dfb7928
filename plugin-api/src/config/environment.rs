//! How are the values of `${VAR}` found and inserted into a configuration? The code is written by hand, because the
//! interpolation of the YAML parser does not support `${VAR:default}`, fails at the first unset variable, and
//! doesn't report which values must not be shown.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

type Lookup = dyn Fn(&str) -> Option<String> + Send + Sync;

/// The source of the values of `${VAR}`. Its `Debug` output shows no values.
#[derive(Clone)]
pub struct Environment {
    lookup: Arc<Lookup>,
}

impl Environment {
    /// Uses the environment of this process. Values that aren't UTF-8 count as unset.
    pub fn process() -> Self {
        Self::from_fn(|name| std::env::var(name).ok())
    }

    /// Creates an environment without variables.
    pub fn empty() -> Self {
        Self::from_fn(|_| None)
    }

    /// Uses exactly these variables, for tests and for hosts with a configuration of their own.
    pub fn from_pairs<K: Into<String>, V: Into<String>>(pairs: impl IntoIterator<Item = (K, V)>) -> Self {
        let pairs: HashMap<String, String> =
            pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        Self::from_fn(move |name| pairs.get(name).cloned())
    }

    /// Uses the values that this function returns.
    pub fn from_fn(lookup: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Self {
        Self { lookup: Arc::new(lookup) }
    }

    /// Returns the value of a variable, if it is set.
    pub fn get(&self, name: &str) -> Option<String> {
        (self.lookup)(name)
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Environment").finish_non_exhaustive()
    }
}

/// A reference: `${NAME}`, `${NAME:default}` or `${NAME:-default}`, or an escaped `${{NAME}}`.
struct Reference<'a> {
    /// The offset of its start, in bytes.
    start: usize,
    /// The offset of its end, in bytes.
    end: usize,
    name: &'a str,
    default: Option<&'a str>,
    /// An escaped reference stands for itself, with one pair of braces removed.
    escaped: bool,
}

/// Returns the next reference in `text` at or after `from`. Similar texts (`${! content() }`, `$5`) are not
/// references.
fn next_reference(text: &str, from: usize) -> Option<Reference<'_>> {
    let mut at = from;
    while let Some(found) = text[at..].find("${") {
        let start = at + found;
        let body = start + 2;
        if let Some(inner) = text[body..].strip_prefix('{')
            && let Some((name, default, length)) = body_of(inner)
            && inner[length..].starts_with('}')
        {
            return Some(Reference { start, end: body + 1 + length + 1, name, default, escaped: true });
        }
        if let Some((name, default, length)) = body_of(&text[body..]) {
            return Some(Reference { start, end: body + length, name, default, escaped: false });
        }
        at = body;
    }
    None
}

/// Parses `NAME}` or `NAME:default}` into its parts and the length including the brace. A default may contain one
/// `${…}`.
fn body_of(text: &str) -> Option<(&str, Option<&str>, usize)> {
    let name_len = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '.')?;
    let (name, rest) = text.split_at(name_len);
    if name.is_empty() {
        return None;
    }
    if rest.starts_with('}') {
        return Some((name, None, name_len + 1));
    }
    let default = rest.strip_prefix(':')?;
    let mut end = 0;
    loop {
        let stop = default[end..].find(['}', '$', '\n'])? + end;
        match &default[stop..] {
            rest if rest.starts_with('}') => {
                return Some((name, Some(&default[..stop]), name_len + 1 + stop + 1));
            }
            rest if rest.starts_with("${") => end = stop + rest.find('}')? + 1,
            rest if rest.starts_with('$') => end = stop + 1,
            _ => return None,
        }
    }
}

/// Characters inside `${…}` that are special in YAML are replaced by characters of private use.
const HIDDEN: &str = "{}[],:#& \t";
const HIDING_PLACE: u32 = 0x10_FF00;

/// Makes every `${…}` in `text` a plain word for a YAML parser. The number of characters does not change.
pub(super) fn hide(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut done = 0;
    while let Some(found) = next_reference(text, done) {
        out.push_str(&text[done..found.start]);
        out.extend(text[found.start..found.end].chars().map(|c| match c {
            c if HIDDEN.contains(c) => char::from_u32(HIDING_PLACE + u32::from(c)).unwrap_or(c),
            c => c,
        }));
        done = found.end;
    }
    out.push_str(&text[done..]);
    out
}

/// Undoes [`hide`].
pub(super) fn unhide(text: &str) -> String {
    text.chars()
        .map(|c| {
            let shown = u32::from(c).checked_sub(HIDING_PLACE).and_then(char::from_u32);
            shown.filter(|c| HIDDEN.contains(*c)).unwrap_or(c)
        })
        .collect()
}

/// The result of filling in one text.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Filled {
    /// The text with all variables filled in, if that differs from the original text.
    pub(super) text: Option<String>,
    /// The values that came from the environment.
    pub(super) values: Vec<String>,
    /// The variables that are required and not set.
    pub(super) unset: Vec<String>,
}

impl Environment {
    /// Returns the value of a text that consists of exactly one reference, or `None` if it doesn't, or if the
    /// variable is unset.
    pub(super) fn whole_value(&self, text: &str) -> Option<String> {
        let found = next_reference(text, 0)?;
        if found.escaped || found.start != 0 || found.end != text.len() {
            return None;
        }
        let filled = self.fill(text);
        filled.text.filter(|_| filled.unset.is_empty())
    }

    /// Fills in every reference. A variable that is set but empty counts as unset if there is a default.
    pub(super) fn fill(&self, text: &str) -> Filled {
        let mut out = String::new();
        let mut filled = Filled::default();
        let mut done = 0;
        while let Some(found) = next_reference(text, done) {
            out.push_str(&text[done..found.start]);
            done = found.end;
            if found.escaped {
                out.push('$');
                out.push_str(&text[found.start + 2..found.end - 1]);
                continue;
            }
            match (self.get(found.name), found.default) {
                (Some(value), default) if default.is_none() || !value.is_empty() => {
                    out.push_str(&value);
                    filled.values.push(value);
                }
                (_, Some(default)) => {
                    let default = default.strip_prefix('-').unwrap_or(default);
                    let inner = self.fill(default);
                    filled.values.extend(inner.values);
                    filled.unset.extend(inner.unset);
                    out.push_str(inner.text.as_deref().unwrap_or(default));
                }
                (_, None) => filled.unset.push(found.name.to_owned()),
            }
        }
        if done > 0 {
            out.push_str(&text[done..]);
            filled.text = Some(out);
        }
        filled
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fill(text: &str) -> String {
        let environment = Environment::from_pairs([("A", "1"), ("EMPTY", ""), ("TEXT", "a: b\nc")]);
        let filled = environment.fill(text);
        assert_eq!(filled.unset, Vec::<String>::new(), "{text}");
        filled.text.unwrap_or_else(|| text.to_owned())
    }

    #[test]
    fn every_form_is_filled_in() {
        for (text, expected) in [
            ("x${A}y", "x1y"),
            ("${A}${A}", "11"),
            ("${A:-2}", "1"),
            ("${NONE:-2}", "2"),
            ("${NONE:2}", "2"),
            ("${NONE:}", ""),
            ("${NONE:-}", ""),
            ("${EMPTY}", ""),
            ("${EMPTY:-3}", "3"),
            ("${NONE:http://h:1/p?a=b}", "http://h:1/p?a=b"),
            ("${NONE:${A}}", "1"),
            ("${NONE:-a${A}b${EMPTY:c}}", "a1bc"),
            ("${TEXT}", "a: b\nc"),
        ] {
            assert_eq!(fill(text), expected, "{text}");
        }
    }

    #[test]
    fn text_that_is_not_a_variable_is_unchanged() {
        for text in ["$A", "${}", "${! content() }", "${A", "$5", "a$", "${A B}", "${A:b", "{A}"] {
            assert_eq!(fill(text), text);
        }
    }

    #[test]
    fn double_braces_escape() {
        assert_eq!(fill("${{A}}"), "${A}");
        assert_eq!(fill("${{A:-x}} ${A}"), "${A:-x} 1");
    }

    #[test]
    fn variables_that_are_not_set_are_named() {
        let filled = Environment::empty().fill("${A} ${B:x} ${C:${D}}");
        assert_eq!(filled.unset, ["A", "D"]);
    }

    #[test]
    fn debug_shows_no_values() {
        assert!(!format!("{:?}", Environment::from_pairs([("A", "hunter2")])).contains("hunter2"));
    }

    proptest! {
        #[test]
        fn hiding_keeps_the_position_of_every_character(text in "([$]|[{}]|[A-C:#, \\[\\]\\-]|\\n|é){0,40}") {
            let hidden = hide(&text);
            prop_assert_eq!(hidden.chars().count(), text.chars().count());
            prop_assert_eq!(unhide(&hidden), text);
        }

        #[test]
        fn filling_never_panics(text in "([$]|[{}]|[A-C:#]|é|\\n|.){0,40}") {
            let _ = Environment::from_pairs([("A", "${A}")]).fill(&text);
        }
    }
}
