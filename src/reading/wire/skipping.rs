//! How is a value skipped that this version does not know, without recursion and in pieces of any length?

use super::json::{Cursor, Look, Stop};

/// The deepest allowed nesting of unknown values. They are skipped without recursion; the limit only refuses
/// nonsense.
const MAX_DEPTH: u32 = 512;

/// How far into an unknown value the reader is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Skipping {
    depth: u32,
    /// Whether the reader is within a string.
    is_string: bool,
}

impl Skipping {
    /// Skips up to the end of the value, or as far as it has arrived.
    pub(super) fn run(&mut self, text: &mut Cursor<'_>) -> Look<()> {
        loop {
            if self.is_string {
                let rest = text.rest();
                let Some(found) = memchr::memchr2(b'"', b'\\', rest) else {
                    text.at += rest.len();
                    return Err(Stop::More);
                };
                text.at += found;
                if rest[found] == b'\\' {
                    // An escaped byte can't end the string.
                    rest.get(found + 1).ok_or(Stop::More)?;
                    text.at += 2;
                    continue;
                }
                text.pass();
                self.is_string = false;
            } else {
                let before = text.at;
                match text.peek()? {
                    b'"' => {
                        text.pass();
                        self.is_string = true;
                        continue;
                    }
                    b'{' | b'[' => {
                        text.pass();
                        self.depth += 1;
                        if self.depth > MAX_DEPTH {
                            return Err(Stop::Bad("nested too deeply"));
                        }
                        continue;
                    }
                    b'}' | b']' if self.depth > 0 => {
                        text.pass();
                        self.depth -= 1;
                    }
                    b',' | b':' if self.depth > 0 => {
                        text.pass();
                        continue;
                    }
                    b't' => text.literal(b"true")?,
                    b'f' => text.literal(b"false")?,
                    b'n' => text.literal(b"null")?,
                    b'-' | b'0'..=b'9' => {
                        text.number().inspect_err(|_| text.at = before)?;
                    }
                    _ => return Err(Stop::Bad("not a JSON value")),
                }
            }
            if self.depth == 0 {
                return Ok(());
            }
        }
    }
}
