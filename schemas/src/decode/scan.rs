//! A validating JSON scanner: it walks a text once, hands out values as slices of it, and never recurses.

use std::borrow::Cow;

/// Deepest nesting taken. An API server's own parser stops at 10,000, and a body sits two levels down an event.
pub const MAX_DEPTH: usize = 10_016;

/// Where and why a text is not JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed {
    pub at: usize,
    pub reason: &'static str,
}

type Scan<T> = Result<T, Malformed>;

/// A position in a JSON text.
pub struct Scanner<'a> {
    text: &'a str,
    at: usize,
    /// Whether the string read last holds escapes.
    pub escaped: bool,
    /// Closing brackets awaited by the value being skipped.
    open: Vec<u8>,
}

impl<'a> Scanner<'a> {
    /// `open` is the stack that an earlier scanner gave back, or a new one.
    pub fn with_stack(text: &'a str, mut open: Vec<u8>) -> Self {
        open.clear();
        Self { text, at: 0, escaped: false, open }
    }

    pub fn into_stack(self) -> Vec<u8> {
        self.open
    }

    /// The next byte that is not white space; 0 at the end.
    pub fn peek(&mut self) -> u8 {
        while matches!(self.byte(), b' ' | b'\n' | b'\r' | b'\t') {
            self.at += 1;
        }
        self.byte()
    }

    pub fn position(&self) -> usize {
        self.at
    }

    /// The text from `start` to here.
    pub fn since(&self, start: usize) -> &'a str {
        self.text.get(start..self.at).unwrap_or_default()
    }

    /// Enters the object at hand: its first key with its quotes, or `None` if it is empty.
    pub fn first_key(&mut self) -> Scan<Option<&'a str>> {
        self.expect(b'{', "expected an object")?;
        if self.peek() == b'}' {
            self.at += 1;
            return Ok(None);
        }
        self.key().map(Some)
    }

    /// After a member's value: the next key, or `None` once the object is closed.
    pub fn next_key(&mut self) -> Scan<Option<&'a str>> {
        match self.peek() {
            b',' => {
                self.at += 1;
                self.key().map(Some)
            }
            b'}' => {
                self.at += 1;
                Ok(None)
            }
            _ => self.fail("expected , or }"),
        }
    }

    /// Enters the array at hand: whether it has an element.
    pub fn first_element(&mut self) -> Scan<bool> {
        self.expect(b'[', "expected an array")?;
        let any = self.peek() != b']';
        self.at += usize::from(!any);
        Ok(any)
    }

    /// After an element: whether another one follows.
    pub fn next_element(&mut self) -> Scan<bool> {
        let more = match self.peek() {
            b',' => true,
            b']' => false,
            _ => return self.fail("expected , or ]"),
        };
        self.at += 1;
        Ok(more)
    }

    /// The value at hand as text, checked to the end of it.
    pub fn value(&mut self) -> Scan<&'a str> {
        self.peek();
        let start = self.at;
        loop {
            if self.enter()? {
                continue;
            }
            if !self.leave()? {
                return Ok(self.since(start));
            }
        }
    }

    /// Nothing but white space may follow.
    pub fn end(&mut self) -> Scan<()> {
        self.peek();
        if self.at == self.text.len() { Ok(()) } else { self.fail("trailing characters") }
    }

    /// Reads a scalar or an opening bracket; true if a value must follow.
    fn enter(&mut self) -> Scan<bool> {
        match self.peek() {
            b'"' => self.string()?,
            b'{' => return self.open(b'}'),
            b'[' => return self.open(b']'),
            b't' => self.literal("true")?,
            b'f' => self.literal("false")?,
            b'n' => self.literal("null")?,
            b'-' | b'0'..=b'9' => self.number()?,
            _ => return self.fail("expected a value"),
        }
        Ok(false)
    }

    /// After a value: closes what ends here; true if another value must follow.
    fn leave(&mut self) -> Scan<bool> {
        while let Some(&closer) = self.open.last() {
            let byte = self.peek();
            if byte == b',' {
                self.at += 1;
                if closer == b'}' {
                    self.key()?;
                }
                return Ok(true);
            }
            if byte != closer {
                return self.fail("expected , or a closing bracket");
            }
            self.at += 1;
            self.open.pop();
        }
        Ok(false)
    }

    fn open(&mut self, closer: u8) -> Scan<bool> {
        self.at += 1;
        if self.peek() == closer {
            self.at += 1;
            return Ok(false);
        }
        if self.open.len() >= MAX_DEPTH {
            return self.fail("nested too deeply");
        }
        self.open.push(closer);
        if closer == b'}' {
            self.key()?;
        }
        Ok(true)
    }

    fn key(&mut self) -> Scan<&'a str> {
        if self.peek() != b'"' {
            return self.fail("expected a key");
        }
        let start = self.at;
        self.string()?;
        let key = self.since(start);
        self.expect(b':', "expected :")?;
        Ok(key)
    }

    fn string(&mut self) -> Scan<()> {
        self.at += 1;
        self.escaped = false;
        loop {
            self.at = plain_end(self.text.as_bytes(), self.at);
            match self.byte() {
                b'"' => break,
                b'\\' => self.escape()?,
                _ if self.at >= self.text.len() => return self.fail("string without an end"),
                _ => return self.fail("control character in a string"),
            }
        }
        self.at += 1;
        Ok(())
    }

    fn escape(&mut self) -> Scan<()> {
        self.escaped = true;
        let length = match self.text.as_bytes().get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => 2,
            Some(b'u') if hex4(self.text, self.at + 2).is_some() => 6,
            _ => return self.fail("invalid escape"),
        };
        self.at += length;
        Ok(())
    }

    fn number(&mut self) -> Scan<()> {
        self.at += usize::from(self.byte() == b'-');
        if self.byte() == b'0' {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.byte() == b'.' {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.byte(), b'e' | b'E') {
            self.at += 1;
            self.at += usize::from(matches!(self.byte(), b'+' | b'-'));
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Scan<()> {
        if !self.byte().is_ascii_digit() {
            return self.fail("expected a digit");
        }
        while self.byte().is_ascii_digit() {
            self.at += 1;
        }
        Ok(())
    }

    fn literal(&mut self, word: &str) -> Scan<()> {
        if !self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            return self.fail("expected a value");
        }
        self.at += word.len();
        Ok(())
    }

    fn expect(&mut self, byte: u8, reason: &'static str) -> Scan<()> {
        if self.peek() != byte {
            return self.fail(reason);
        }
        self.at += 1;
        Ok(())
    }

    fn byte(&self) -> u8 {
        self.text.as_bytes().get(self.at).copied().unwrap_or(0)
    }

    fn fail<T>(&self, reason: &'static str) -> Scan<T> {
        let reason = if self.at >= self.text.len() { "unexpected end" } else { reason };
        Err(Malformed { at: self.at, reason })
    }
}

/// The first quote, backslash or control character from `at` on, eight bytes at a time.
fn plain_end(bytes: &[u8], mut at: usize) -> usize {
    const ONES: u64 = u64::MAX / 255;
    const HIGHS: u64 = ONES * 0x80;
    let zero_bytes = |word: u64| word.wrapping_sub(ONES) & !word;
    while let Some(chunk) = bytes.get(at..).and_then(<[u8]>::first_chunk::<8>) {
        let word = u64::from_le_bytes(*chunk);
        let quotes = zero_bytes(word ^ (ONES * u64::from(b'"')));
        let backslashes = zero_bytes(word ^ (ONES * u64::from(b'\\')));
        let controls = word.wrapping_sub(ONES * 0x20) & !word;
        let stops = (quotes | backslashes | controls) & HIGHS;
        if stops != 0 {
            return at + (stops.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    let plain = |byte: &u8| *byte >= 0x20 && *byte != b'"' && *byte != b'\\';
    at + bytes.get(at..).unwrap_or_default().iter().take_while(|byte| plain(byte)).count()
}

fn hex4(text: &str, at: usize) -> Option<u32> {
    let digits = text.get(at..at + 4)?;
    let plain = digits.bytes().all(|b| b.is_ascii_hexdigit());
    plain.then(|| u32::from_str_radix(digits, 16).ok()).flatten()
}

/// The text of a checked JSON string given with its quotes, and whether it is exact: half a surrogate pair becomes U+FFFD.
pub fn unescape(raw: &str, escaped: bool) -> (Cow<'_, str>, bool) {
    let inner = raw.get(1..raw.len().saturating_sub(1)).unwrap_or_default();
    if !escaped {
        return (Cow::Borrowed(inner), true);
    }
    let mut out = String::with_capacity(inner.len());
    let mut exact = true;
    let mut left = inner;
    while let Some(at) = memchr::memchr(b'\\', left.as_bytes()) {
        out.push_str(&left[..at]);
        let (character, length) = escape_at(left, at);
        exact &= character.is_some();
        out.push(character.unwrap_or(char::REPLACEMENT_CHARACTER));
        left = left.get(at + length..).unwrap_or_default();
    }
    out.push_str(left);
    (Cow::Owned(out), exact)
}

/// The character that the escape at `at` stands for, and the escape's length.
fn escape_at(text: &str, at: usize) -> (Option<char>, usize) {
    let simple = match text.as_bytes().get(at + 1) {
        Some(b'b') => '\u{8}',
        Some(b'f') => '\u{c}',
        Some(b'n') => '\n',
        Some(b'r') => '\r',
        Some(b't') => '\t',
        Some(b'u') => return unicode_at(text, at),
        Some(other) => char::from(*other),
        None => return (None, 1),
    };
    (Some(simple), 2)
}

fn unicode_at(text: &str, at: usize) -> (Option<char>, usize) {
    let high = hex4(text, at + 2).unwrap_or(0xfffd);
    if !(0xd800..0xdc00).contains(&high) {
        return (char::from_u32(high), 6);
    }
    let follows = text.get(at + 6..at + 8) == Some("\\u");
    match hex4(text, at + 8).filter(|low| follows && (0xdc00..0xe000).contains(low)) {
        Some(low) => (char::from_u32(0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00)), 12),
        None => (None, 6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(text: &str) -> Scan<()> {
        let mut scanner = Scanner::with_stack(text, Vec::new());
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

    #[test]
    fn unescapes_as_serde_json_does() {
        for raw in [r#""a\u00e9\n\"\\\/b""#, r#""\ud83d\ude00x""#, r#""\b\f\r\t\u0000""#] {
            let expected: String = serde_json::from_str(raw).unwrap();
            assert_eq!(unescape(raw, true), (Cow::Owned(expected), true));
        }
        for raw in [r#""\ud83d""#, r#""\ude00""#] {
            assert_eq!(unescape(raw, true), (Cow::Borrowed("\u{fffd}"), false));
        }
        assert_eq!(unescape(r#""\ud83d\u0041""#, true), (Cow::Borrowed("\u{fffd}A"), false));
        assert_eq!(unescape(r#""\ud83dé""#, true), (Cow::Borrowed("\u{fffd}é"), false));
    }

    proptest::proptest! {
        #[test]
        fn agrees_with_serde_json_on_noise(text in "[\\[\\]{}:,\" \\\\0-9eE.+\\-truefalsnu\u{1}é]{0,12}") {
            check(&text);
        }
    }
}
