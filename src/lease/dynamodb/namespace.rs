//! Under which keys are the rows of one namespace?
//!
//! This module is pure. Pipelines that share a table and have a namespace each see none of each other's rows: the hash
//! key of every row begins with the namespace and a slash. No name of a stream contains a slash, and no namespace a
//! colon, so the keys of rows without a namespace (names and ARNs of streams, and `kinesis-input/…`) are never taken for
//! others.

/// The first part of the hash keys of rows that are no leases.
const OWN: &str = "kinesis-input";

/// The namespace of a pipeline's rows, if it has one. Without one, the rows are those that Redpanda Connect shares.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Namespace(Option<String>);

impl Namespace {
    pub(super) fn new(name: Option<&str>) -> Self {
        Self(name.map(str::to_owned))
    }

    pub(super) fn name(&self) -> Option<&str> {
        self.0.as_deref()
    }

    /// The hash key of rows in this namespace.
    pub(super) fn key(&self, hash: &str) -> String {
        match &self.0 {
            Some(name) => format!("{name}/{hash}"),
            None => hash.to_owned(),
        }
    }
}

/// Takes a hash key apart: the namespace, if there is one, and the key in it.
pub(super) fn of_key(key: &str) -> (Option<&str>, &str) {
    match key.split_once('/') {
        Some((name, hash)) if name != OWN && !name.contains(':') => (Some(name), hash),
        _ => (None, key),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{FORMER, STREAMS, WORKERS};
    use super::*;
    use crate::config::is_namespace;

    #[test]
    fn key_says_which_namespace_it_is_in() {
        let hashes = ["orders", "arn:aws:kinesis:eu-west-1:123456789012:stream/orders", WORKERS, STREAMS, FORMER];
        for hash in hashes {
            for name in [None, Some("a"), Some("kinesis-input.eu"), Some("orders")] {
                let namespace = Namespace::new(name);
                assert_eq!(of_key(&namespace.key(hash)), (name, hash));
            }
            assert_eq!(Namespace::default().key(hash), hash);
        }
    }

    #[test]
    fn name_that_would_make_keys_ambiguous_is_refused() {
        assert!(["a", "Orders_2.eu-west", &"n".repeat(64)].into_iter().all(is_namespace));
        let wrong = ["", "a/b", "arn:aws", "a b", "ä", "kinesis-input", &"n".repeat(65)];
        assert!(!wrong.into_iter().any(is_namespace));
    }
}
