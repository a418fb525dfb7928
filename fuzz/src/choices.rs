//! How do bytes decide what is made of them?
//!
//! A fuzzer and a property test both have bytes; what makes events asks them one by one. When they are used up, every
//! answer is the first, which is always the plainest: fewer and smaller bytes make a simpler event, and that is how
//! either of them finds the smallest one that fails.

/// Bytes that are still to decide something.
#[derive(Debug)]
pub struct Choices<'a> {
    left: &'a [u8],
}

impl<'a> Choices<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { left: bytes }
    }

    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.left.split_first() else { return 0 };
        self.left = rest;
        *first
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        if end <= 256 { usize::from(self.byte()) % end } else { self.number() as usize % end }
    }

    /// Any number; small ones take few bytes.
    pub fn number(&mut self) -> u64 {
        let len = self.byte() % 9;
        (0..len).fold(0, |number, _| number << 8 | u64::from(self.byte()))
    }

    /// Yes, once in so many times.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == times - 1
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// What was not asked for.
    pub fn rest(self) -> &'a [u8] {
        self.left
    }
}
