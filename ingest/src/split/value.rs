//! Finds where one JSON value ends, over chunks: strings, escapes and matching brackets, and nothing else of JSON.

use memchr::memchr3;

/// Brackets nested deeper than this make a value a rejection. Kubernetes objects stay below fifty.
pub const MAX_DEPTH: usize = 1024;

/// What a scan came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The value goes on behind these bytes.
    More,
    /// The value ended; this many of the bytes belong to it.
    Done(usize),
    /// No JSON goes on like this.
    Malformed(&'static str),
}

/// A value that is being scanned. Bytes up to its first, included, are behind it.
#[derive(Debug)]
pub(super) struct Value {
    /// One bit an open bracket, set for `[`. Levels beyond `MAX_DEPTH` are counted, not kept.
    brackets: [u64; MAX_DEPTH / 64],
    depth: usize,
    in_string: bool,
    escaped: bool,
    scalar: bool,
    too_deep: bool,
}

impl Value {
    pub fn new() -> Self {
        Self {
            brackets: [0; MAX_DEPTH / 64],
            depth: 0,
            in_string: false,
            escaped: false,
            scalar: false,
            too_deep: false,
        }
    }

    /// Turns to a value that starts with this byte.
    pub fn restart(&mut self, first: u8) {
        self.depth = 0;
        self.escaped = false;
        self.too_deep = false;
        self.in_string = first == b'"';
        self.scalar = false;
        match first {
            b'{' => self.open(false),
            b'[' => self.open(true),
            b'"' => {}
            _ => self.scalar = true,
        }
    }

    /// Whether it nests deeper than `MAX_DEPTH`.
    pub fn too_deep(&self) -> bool {
        self.too_deep
    }

    /// Scans the bytes that follow those scanned before.
    pub fn scan(&mut self, bytes: &[u8]) -> Step {
        if self.scalar {
            let end = bytes.iter().position(|b| matches!(b, b',' | b']' | b'}' | b' ' | b'\t' | b'\r' | b'\n'));
            return end.map_or(Step::More, Step::Done);
        }
        let mut at = 0;
        loop {
            if self.in_string {
                match self.end_of_string(&bytes[at..]) {
                    Step::Done(used) => at += used,
                    other => return other,
                }
                if self.depth == 0 {
                    return Step::Done(at);
                }
            }
            let Some(offset) = bytes[at..].iter().position(|b| STRUCTURAL[usize::from(*b)]) else {
                return Step::More;
            };
            at += offset + 1;
            match bytes[at - 1] {
                b'"' => self.in_string = true,
                b'{' => self.open(false),
                b'[' => self.open(true),
                closing => {
                    if !self.close(closing == b']') {
                        return Step::Malformed("brackets do not match");
                    }
                    if self.depth == 0 {
                        return Step::Done(at);
                    }
                }
            }
        }
    }

    fn end_of_string(&mut self, bytes: &[u8]) -> Step {
        let mut at = 0;
        loop {
            if self.escaped {
                if at >= bytes.len() {
                    return Step::More;
                }
                at += 1;
                self.escaped = false;
            }
            let Some(offset) = memchr3(b'"', b'\\', b'\n', &bytes[at..]) else { return Step::More };
            at += offset + 1;
            match bytes[at - 1] {
                b'"' => {
                    self.in_string = false;
                    return Step::Done(at);
                }
                b'\\' => self.escaped = true,
                // JSON has no bare line break in a string: this line was cut off.
                _ => return Step::Malformed("a line ends within a string"),
            }
        }
    }

    fn open(&mut self, array: bool) {
        if self.depth < MAX_DEPTH {
            let (word, bit) = (self.depth / 64, 1_u64 << (self.depth % 64));
            if array {
                self.brackets[word] |= bit;
            } else {
                self.brackets[word] &= !bit;
            }
        } else {
            self.too_deep = true;
        }
        self.depth += 1;
    }

    /// Closes the innermost bracket; false if it was of the other kind.
    fn close(&mut self, array: bool) -> bool {
        self.depth -= 1;
        if self.depth >= MAX_DEPTH {
            return true;
        }
        let opened_array = self.brackets[self.depth / 64] >> (self.depth % 64) & 1 == 1;
        opened_array == array
    }
}

/// The bytes that matter outside strings.
const STRUCTURAL: [bool; 256] = {
    let mut table = [false; 256];
    table[b'"' as usize] = true;
    table[b'{' as usize] = true;
    table[b'}' as usize] = true;
    table[b'[' as usize] = true;
    table[b']' as usize] = true;
    table
};
