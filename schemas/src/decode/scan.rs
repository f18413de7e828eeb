//! A validating JSON scanner: it walks a text's tokens once, hands out values as slices of it, and never recurses.

use super::index::Index;
use super::words::Name;

/// Deepest nesting taken. An API server's own parser stops at 10,000, and a body sits two levels down an event.
pub const MAX_DEPTH: usize = 10_016;

/// Where and why a text is not JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed {
    pub at: usize,
    pub reason: &'static str,
}

pub type Scan<T> = Result<T, Malformed>;

/// A stretch of a text, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub start: usize,
    pub end: usize,
}

impl Span {
    /// The stretch of that text; nothing if it has none such.
    #[inline(always)]
    pub fn of(self, text: &str) -> &str {
        text.get(self.start..self.end).unwrap_or_default()
    }

    /// A string without its quotes.
    #[inline(always)]
    pub fn inner(self) -> Self {
        Self { start: self.start + 1, end: self.end.saturating_sub(1) }
    }
}

/// A JSON text read token by token. Keys and values are spans of it, strings with their quotes.
pub trait Tokens {
    fn text(&self) -> &str;

    /// The first byte of the token at hand; 0 at the end.
    fn peek(&self) -> u8;

    /// Where the token at hand begins.
    fn position(&self) -> usize;

    /// Where what was read last ends.
    fn passed(&self) -> usize;

    /// Whether there is an escape in a key or a string that was handed out.
    fn escaped(&self, span: Span) -> bool;

    /// Enters the object at hand: whether it has a member.
    fn first_member(&mut self) -> Scan<bool>;

    /// After a member's value: whether another one follows, or the object is closed.
    fn next_member(&mut self) -> Scan<bool>;

    /// The key at hand, passed.
    fn key(&mut self) -> Scan<Span>;

    /// The same if it is seen at a glance to be that name. If not it may still be.
    fn key_like(&mut self, name: &Name) -> Option<Span>;

    /// Enters the array at hand: whether it has an element.
    fn first_element(&mut self) -> Scan<bool>;

    /// After an element: whether another one follows.
    fn next_element(&mut self) -> Scan<bool>;

    /// The value at hand, passed.
    fn value(&mut self) -> Scan<Span>;

    /// The string at hand, passed: without its quotes, and whether there is an escape in it.
    fn string(&mut self) -> Scan<(Span, bool)>;
}

/// What scanners pass on from text to text, for its memory.
#[derive(Debug, Default)]
pub struct Scratch {
    index: Index,
    /// Closing brackets awaited by the value being skipped.
    open: Vec<u8>,
}

/// A position in a JSON text.
pub struct Scanner<'a> {
    text: &'a str,
    scratch: Scratch,
    /// The token at hand.
    next: usize,
    /// Where the token before it ends.
    end: usize,
}

impl<'a> Scanner<'a> {
    /// `scratch` is what an earlier scanner gave back, or new.
    pub fn new(text: &'a str, mut scratch: Scratch) -> Scan<Self> {
        scratch.index.fill(text)?;
        scratch.open.clear();
        Ok(Self { text, scratch, next: 0, end: 0 })
    }

    pub fn into_scratch(self) -> Scratch {
        self.scratch
    }

    /// Nothing but white space may follow.
    pub fn end(&mut self) -> Scan<()> {
        if self.position() == self.text.len() { Ok(()) } else { self.fail("trailing characters") }
    }

    /// Reads a scalar or an opening bracket; true if a value must follow.
    fn enter(&mut self) -> Scan<bool> {
        match self.peek() {
            b'"' => self.quoted(),
            b'{' => return self.open(b'}'),
            b'[' => return self.open(b']'),
            _ => self.scalar()?,
        }
        Ok(false)
    }

    /// After a value: closes what ends here; true if another value must follow.
    fn leave(&mut self) -> Scan<bool> {
        while let Some(&closer) = self.scratch.open.last() {
            let byte = self.peek();
            if byte == b',' {
                self.step();
                if closer == b'}' {
                    self.key()?;
                }
                return Ok(true);
            }
            if byte != closer {
                return self.fail("expected , or a closing bracket");
            }
            self.step();
            self.scratch.open.pop();
        }
        Ok(false)
    }

    fn open(&mut self, closer: u8) -> Scan<bool> {
        self.step();
        if self.peek() == closer {
            self.step();
            return Ok(false);
        }
        if self.scratch.open.len() >= MAX_DEPTH {
            return self.fail("nested too deeply");
        }
        self.scratch.open.push(closer);
        if closer == b'}' {
            self.key()?;
        }
        Ok(true)
    }

    fn key(&mut self) -> Scan<Span> {
        if self.peek() != b'"' {
            return self.fail("expected a key");
        }
        let start = self.position();
        self.quoted();
        let key = Span { start, end: self.end };
        self.expect(b':', "expected :")?;
        Ok(key)
    }

    /// The index has checked what stands between the quotes, and that there are two.
    fn quoted(&mut self) {
        self.next += 1;
        self.step();
    }

    fn scalar(&mut self) -> Scan<()> {
        let start = self.position();
        let bytes = self.text.as_bytes().get(start..).unwrap_or_default();
        let length = scalar_length(bytes);
        let ends = |length: &usize| {
            matches!(
                bytes.get(*length),
                None | Some(b' ' | b'\t' | b'\n' | b'\r' | b',' | b'}' | b']' | b':' | b'{' | b'[' | b'"')
            )
        };
        let Some(length) = length.filter(ends) else { return self.fail("expected a value") };
        self.next += 1;
        self.end = start + length;
        Ok(())
    }

    fn expect(&mut self, byte: u8, reason: &'static str) -> Scan<()> {
        if self.peek() != byte {
            return self.fail(reason);
        }
        self.step();
        Ok(())
    }

    /// Whether a container has anything in it; if not, its closing bracket is passed.
    fn is_filled(&mut self, closer: u8) -> bool {
        let empty = self.peek() == closer;
        if empty {
            self.step();
        }
        !empty
    }

    /// Passes what follows a value in a container: true if that is a comma.
    fn goes_on(&mut self, closer: u8, reason: &'static str) -> Scan<bool> {
        let byte = self.peek();
        if byte != b',' && byte != closer {
            return self.fail(reason);
        }
        self.step();
        Ok(byte == b',')
    }

    /// Past a token of one byte.
    fn step(&mut self) {
        self.end = self.position() + 1;
        self.next += 1;
    }

    fn fail<T>(&self, reason: &'static str) -> Scan<T> {
        let at = self.position();
        let reason = if at >= self.text.len() { "unexpected end" } else { reason };
        Err(Malformed { at, reason })
    }
}

impl Tokens for Scanner<'_> {
    fn text(&self) -> &str {
        self.text
    }

    fn peek(&self) -> u8 {
        self.text.as_bytes().get(self.position()).copied().unwrap_or(0)
    }

    fn position(&self) -> usize {
        self.scratch.index.tokens().get(self.next).map_or(self.text.len(), |at| *at as usize)
    }

    fn passed(&self) -> usize {
        self.end
    }

    fn escaped(&self, span: Span) -> bool {
        self.scratch.index.escaped(span.start, span.end)
    }

    fn first_member(&mut self) -> Scan<bool> {
        self.expect(b'{', "expected an object")?;
        Ok(self.is_filled(b'}'))
    }

    fn next_member(&mut self) -> Scan<bool> {
        self.goes_on(b'}', "expected , or }")
    }

    fn key(&mut self) -> Scan<Span> {
        Scanner::key(self)
    }

    fn key_like(&mut self, _: &Name) -> Option<Span> {
        None
    }

    fn first_element(&mut self) -> Scan<bool> {
        self.expect(b'[', "expected an array")?;
        Ok(self.is_filled(b']'))
    }

    fn next_element(&mut self) -> Scan<bool> {
        self.goes_on(b']', "expected , or ]")
    }

    fn value(&mut self) -> Scan<Span> {
        let start = self.position();
        loop {
            if self.enter()? {
                continue;
            }
            if !self.leave()? {
                return Ok(Span { start, end: self.end });
            }
        }
    }

    fn string(&mut self) -> Scan<(Span, bool)> {
        let span = self.value()?;
        Ok((span.inner(), self.escaped(span)))
    }
}

/// The length of the number or literal that the bytes begin with.
#[inline(always)]
pub fn scalar_length(bytes: &[u8]) -> Option<usize> {
    match bytes.first() {
        Some(b't') => literal(bytes, b"true"),
        Some(b'f') => literal(bytes, b"false"),
        Some(b'n') => literal(bytes, b"null"),
        Some(b'-' | b'0'..=b'9') => number(bytes),
        _ => None,
    }
}

#[inline(always)]
fn literal(bytes: &[u8], word: &[u8]) -> Option<usize> {
    bytes.starts_with(word).then_some(word.len())
}

/// The length of the number that the bytes begin with.
#[inline(always)]
fn number(bytes: &[u8]) -> Option<usize> {
    let byte = |at: usize| bytes.get(at).copied().unwrap_or(0);
    let digits = |from: usize| {
        let mut at = from;
        while byte(at).is_ascii_digit() {
            at += 1;
        }
        (at > from).then_some(at)
    };
    let start = usize::from(byte(0) == b'-');
    let mut at = if byte(start) == b'0' { start + 1 } else { digits(start)? };
    if byte(at) == b'.' {
        at = digits(at + 1)?;
    }
    if matches!(byte(at), b'e' | b'E') {
        at = digits(at + 1 + usize::from(matches!(byte(at + 1), b'+' | b'-')))?;
    }
    Some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(text: &str) -> Scan<()> {
        let mut scanner = Scanner::new(text, Scratch::default())?;
        scanner.value()?;
        scanner.end()
    }

    /// The scanner and serde_json's own skipping agree on what is JSON.
    #[track_caller]
    fn check(text: &str) {
        let expected = serde_json::from_str::<&serde_json::value::RawValue>(text).is_ok();
        assert_eq!(scan(text).is_ok(), expected, "{text:?}: {:?}", scan(text));
    }

    #[test]
    fn agrees_with_serde_json() {
        for text in [
            "",
            " ",
            "{}",
            " [ ] ",
            "[1,]",
            "[,1]",
            "{\"a\":1,}",
            "{\"a\" : [ {} , null ] }",
            "{a:1}",
            "{\"a\"}",
            "01",
            "-",
            "-0",
            "1.",
            "1.5e",
            "1e+9",
            "1E-9",
            ".5",
            "+1",
            "truth",
            "true",
            "tru",
            "nul",
            "\"",
            "\"\\\"",
            "\"\\x\"",
            "\"\\u12g4\"",
            "\"\\u+123\"",
            "\"\\ud800\"",
            "\"a\nb\"",
            "\"\t\"",
            "\"é\"",
            "\"12345678\\n1234\"",
            "\"1234567\u{1}\"",
            "[}",
            "{]",
            "[[]",
            "[]]",
            "1 2",
            "[1 2]",
            "\u{feff}{}",
            "\u{0}",
            "[\u{0}]",
            "\"\\u00é0\"",
            "NaN",
            "[\"a\",\"b\"]",
            "{\"a\":{\"b\":[1,2,{\"c\":\"d\"}]}}",
        ] {
            check(text);
        }
    }

    #[test]
    fn deep_nesting_is_refused_without_recursion() {
        let bomb = "[".repeat(5_000_000);
        assert_eq!(scan(&bomb).unwrap_err().reason, "nested too deeply");
        let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        assert_eq!(scan(&deep), Ok(()));
    }

    proptest::proptest! {
        #[test]
        fn agrees_with_serde_json_on_noise(text in "[\\[\\]{}:,\" \\\\0-9eE.+\\-truefalsnu\u{1}é]{0,12}") {
            check(&text);
        }
    }
}
