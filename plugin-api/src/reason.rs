//! Why does a host refuse a message?

use std::fmt;
use std::sync::Arc;

/// The reason of a nack, for the log of the input: one line of at most [`Reason::MAX_CHARS`] characters.
///
/// Control characters, such as line breaks, become spaces, and a longer text is cut off with an ellipsis. Clones
/// share the text, so one reason can apply to a whole batch. An input may log the text unchanged, so it should
/// contain no secrets.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Reason(Arc<str>);

impl Reason {
    /// The length of the longest reason, in characters.
    pub const MAX_CHARS: usize = 200;

    /// Creates a reason from a text, cut off at [`MAX_CHARS`](Self::MAX_CHARS) characters.
    pub fn new(text: impl AsRef<str>) -> Self {
        let text = text.as_ref();
        let fits = text.chars().nth(Self::MAX_CHARS).is_none();
        let kept = if fits { Self::MAX_CHARS } else { Self::MAX_CHARS - 1 };
        let kept = text.chars().take(kept).map(|char| if char.is_control() { ' ' } else { char });
        let line: String = kept.chain((!fits).then_some('…')).collect();
        Self(line.into())
    }

    /// Returns the text of the reason.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Reason {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl From<String> for Reason {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_any_length_becomes_one_bounded_line() {
        assert_eq!(Reason::new("disk full").as_str(), "disk full");
        assert_eq!(Reason::new("disk\r\nfull\t").as_str(), "disk  full ");
        let longest = "é".repeat(Reason::MAX_CHARS);
        assert_eq!(Reason::new(&longest).as_str(), longest);
        let cut = Reason::new(format!("{longest}é"));
        assert_eq!(cut.as_str().chars().count(), Reason::MAX_CHARS);
        assert!(cut.as_str().ends_with("é…"));
    }
}
