//! How does a reader continue in the next piece of a text?
//!
//! A piece may end within a token. Only such a token is copied, to be joined with its rest; all other tokens are read
//! in place.

use super::assembly::EventError;

/// The longest field, except for data and unknown text, that may be cut in two.
pub(super) const MAX_CUT: usize = 64 << 10;

/// A reader that can stop anywhere and continue in the next piece.
pub(super) trait Resume {
    /// The part of a token at the end of the last piece, which continues in the next one.
    fn cut(&mut self) -> &mut Vec<u8>;

    /// Reads as much of a text as possible and returns how much that was.
    fn run(&mut self, text: &[u8]) -> Result<usize, EventError>;

    /// An error at the current position.
    fn error(&self, what: &'static str) -> EventError;
}

/// Takes the next piece.
pub(super) fn feed(reader: &mut impl Resume, mut piece: &[u8]) -> Result<(), EventError> {
    let mut more = 64;
    while !reader.cut().is_empty() {
        if piece.is_empty() {
            return Ok(());
        }
        // Only the bytes that end the token are copied; the rest is read in place.
        let before = reader.cut().len();
        let (some, _) = piece.split_at(piece.len().min(more));
        let mut joined = std::mem::take(reader.cut());
        joined.extend_from_slice(some);
        let used = reader.run(&joined)?;
        if used >= before {
            piece = &piece[used - before..];
            joined.clear();
        } else {
            joined.drain(..used);
            piece = &piece[some.len()..];
            more *= 2;
        }
        let too_long = joined.len() > MAX_CUT;
        *reader.cut() = joined;
        if too_long {
            return Err(reader.error("a field beyond all limits"));
        }
    }
    let used = reader.run(piece)?;
    reader.cut().extend_from_slice(&piece[used..]);
    Ok(())
}
