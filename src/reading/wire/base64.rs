//! How is base64 decoded that arrives in pieces of any length?

use base64_simd::STANDARD as BASE64;

use super::json::{Look, Stop};
use crate::records::Filling;

pub(super) const NOT_BASE64: Stop = Stop::Bad("data that is not base64");

/// Decodes base64 that arrives in pieces of any length.
#[derive(Debug, Default)]
pub(super) struct Quads {
    /// Characters that don't make a quad yet.
    held: [u8; 3],
    count: usize,
    /// Whether there was padding: nothing may follow it.
    padded: bool,
}

impl Quads {
    /// Decodes the next characters of the data.
    pub(super) fn decode(&mut self, mut run: &[u8], into: &mut Filling) -> Look<()> {
        while self.count > 0 {
            let Some((first, rest)) = run.split_first() else { return Ok(()) };
            run = rest;
            if let Some(place) = self.held.get_mut(self.count) {
                *place = *first;
                self.count += 1;
            } else {
                let [a, b, c] = self.held;
                self.count = 0;
                self.whole(&[a, b, c, *first], into)?;
            }
        }
        let (whole, rest) = run.split_at(run.len() / 4 * 4);
        self.whole(whole, into)?;
        self.held[..rest.len()].copy_from_slice(rest);
        self.count = rest.len();
        Ok(())
    }

    fn whole(&mut self, quads: &[u8], into: &mut Filling) -> Look<()> {
        let Some(last) = quads.last() else { return Ok(()) };
        if self.padded {
            return Err(NOT_BASE64);
        }
        self.padded = *last == b'=';
        let out = into.data(quads.len() / 4 * 3).map_err(Stop::Bad)?;
        BASE64.decode_append(quads, out).map_err(|_| NOT_BASE64)?;
        Ok(())
    }

    /// Ends the data: no quad may be incomplete.
    pub(super) fn end(&self) -> Look<()> {
        if self.count == 0 { Ok(()) } else { Err(NOT_BASE64) }
    }
}
