//! How is an error shown together with its causes?

use std::error::Error;

/// Returns the text of an error and of its causes, each once and without the type names that `Debug` would add.
pub fn causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let more = cause.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Layer {
        text: &'static str,
        source: Option<Box<Layer>>,
    }

    #[test]
    fn each_cause_is_shown_once_and_in_words() {
        let innermost = Layer { text: "connection refused", source: None };
        let middle = Layer { text: "connection refused", source: Some(innermost.into()) };
        let outer = Layer { text: "the request failed", source: Some(middle.into()) };
        assert_eq!(causes(&outer), "the request failed: connection refused");
    }
}
