//! How do bytes decide what an event is made of?
//!
//! A fuzzer and a property test both have bytes, and the code that makes events consumes them one by one. When they are
//! used up, every choice is the first, which is always the plainest: fewer and smaller bytes make a simpler event, and
//! this is how both find the smallest one that fails.

/// The bytes that have not decided anything yet.
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

    /// True, once in this many times.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == times - 1
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// The bytes that were not used.
    pub fn rest(self) -> &'a [u8] {
        self.left
    }
}
