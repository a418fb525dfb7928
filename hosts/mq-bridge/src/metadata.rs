//! Which metadata do the messages of an input have at mq-bridge?
//!
//! mq-bridge keeps the metadata of each message in a map of texts. At a few hundred bytes a message, building and freeing
//! these maps costs more than reading the messages, so what the output can't use is not put into them.

use std::collections::HashMap;
use std::sync::Arc;

use pipeline_plugin_api::Message;

/// The metadata that a route gets with the messages of an input. It is cheap to clone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Metadata {
    /// All of it.
    #[default]
    All,
    /// The values of these keys, where a message has them.
    Keys(Arc<[String]>),
}

impl Metadata {
    /// No metadata.
    pub fn none() -> Self {
        Self::Keys(Arc::new([]))
    }

    /// The metadata of these keys.
    pub fn keys(keys: impl IntoIterator<Item = String>) -> Self {
        Self::Keys(keys.into_iter().collect())
    }

    /// The metadata of a message, with every value as text.
    pub(crate) fn of(&self, message: &Message) -> HashMap<String, String> {
        let mut metadata = HashMap::new();
        match self {
            Self::All => message.for_each_metadata(|key, value| {
                metadata.insert(key.to_owned(), value.to_text().into_owned());
            }),
            Self::Keys(keys) => {
                for key in &**keys {
                    if let Some(value) = message.get(key) {
                        metadata.insert(key.clone(), value.to_text().into_owned());
                    }
                }
            }
        }
        metadata
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_wanted_keys_are_passed_on() {
        let message = Message::with_pairs("a", [("shard", "s-1"), ("number", "7")]);
        let of = |metadata: Metadata| {
            let mut pairs: Vec<_> = metadata.of(&message).into_iter().collect();
            pairs.sort();
            pairs
        };
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(of(Metadata::All), [pair("number", "7"), pair("shard", "s-1")]);
        assert_eq!(of(Metadata::keys(["shard".to_owned(), "other".to_owned()])), [pair("shard", "s-1")]);
        assert_eq!(of(Metadata::none()), []);
        assert_eq!(Metadata::none().of(&message).capacity(), 0, "an empty map allocates nothing");
    }
}
