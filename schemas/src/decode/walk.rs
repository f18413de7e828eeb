//! A walk over a text that is taken to be a compact JSON object, until something shows that it is not. Containers that nobody
//! looks into are passed as a whole.

use super::scan::{Malformed, Scan, Span, Tokens, scalar_length};
use super::words::Name;
use super::{outline, strings};

/// A position in a text without control characters.
pub struct Walker<'a> {
    text: &'a str,
    at: usize,
    /// Whether there was an escape in any string.
    escapes: bool,
}

impl<'a> Walker<'a> {
    pub fn new(text: &'a str) -> Self {
        Self { text, at: 0, escapes: false }
    }

    /// Whether the text ends here.
    pub fn ended(&self) -> bool {
        self.at == self.text.len()
    }

    /// The text is not compact JSON, or not for certain.
    #[cold]
    fn lost<T>(&self) -> Scan<T> {
        Err(Malformed { at: self.at, reason: "not compact JSON" })
    }

    fn left(&self) -> &'a [u8] {
        self.text.as_bytes().get(self.at..).unwrap_or_default()
    }

    /// The end of the string whose first byte after the quote is at `from`, and whether there is an escape in it.
    #[inline(always)]
    fn string_from(&mut self, from: usize) -> Scan<(usize, bool)> {
        let Some((quote, escaped)) = strings::end(self.text.as_bytes(), from) else { return self.lost() };
        self.escapes |= escaped;
        Ok((quote, escaped))
    }

    /// Passes the container at hand.
    #[inline(never)]
    fn container(&mut self) -> Scan<()> {
        let Some(length) = outline::container(self.left()) else { return self.lost() };
        self.at += length;
        Ok(())
    }

    #[inline(always)]
    fn goes_on(&mut self, closer: u8) -> Scan<bool> {
        let byte = self.peek();
        if byte != b',' && byte != closer {
            return self.lost();
        }
        self.at += 1;
        Ok(byte == b',')
    }

    /// Past the opening bracket at hand, and the closing one if nothing is between them.
    #[inline(always)]
    fn is_filled(&mut self, closer: u8) -> bool {
        self.at += 1;
        let empty = self.peek() == closer;
        self.at += usize::from(empty);
        !empty
    }
}

impl Tokens for Walker<'_> {
    #[inline(always)]
    fn text(&self) -> &str {
        self.text
    }

    #[inline(always)]
    fn peek(&self) -> u8 {
        self.text.as_bytes().get(self.at).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn position(&self) -> usize {
        self.at
    }

    #[inline(always)]
    fn passed(&self) -> usize {
        self.at
    }

    fn escaped(&self, span: Span) -> bool {
        self.escapes && span.of(self.text).contains('\\')
    }

    #[inline(always)]
    fn first_member(&mut self) -> Scan<bool> {
        Ok(self.is_filled(b'}'))
    }

    #[inline(always)]
    fn next_member(&mut self) -> Scan<bool> {
        self.goes_on(b'}')
    }

    #[inline(always)]
    fn key(&mut self) -> Scan<Span> {
        let start = self.at;
        if self.peek() != b'"' {
            return self.lost();
        }
        self.at = self.string_from(start + 1)?.0 + 1;
        let end = self.at;
        if self.peek() != b':' {
            return self.lost();
        }
        self.at += 1;
        Ok(Span { start, end })
    }

    #[inline(always)]
    fn key_like(&mut self, name: &Name) -> Option<Span> {
        let length = name.begins(self.left().first_chunk()?)?;
        let start = self.at;
        self.at += length;
        Some(Span { start, end: self.at - 1 })
    }

    #[inline(always)]
    fn first_element(&mut self) -> Scan<bool> {
        Ok(self.is_filled(b']'))
    }

    #[inline(always)]
    fn next_element(&mut self) -> Scan<bool> {
        self.goes_on(b']')
    }

    #[inline(always)]
    fn value(&mut self) -> Scan<Span> {
        let start = self.at;
        match self.peek() {
            b'"' => _ = self.string()?,
            b'{' if self.left().starts_with(b"{}") => self.at += 2,
            b'{' | b'[' => self.container()?,
            _ => match scalar_length(self.left()) {
                Some(length) => self.at += length,
                None => return self.lost(),
            },
        }
        Ok(Span { start, end: self.at })
    }

    #[inline(always)]
    fn string(&mut self) -> Scan<(Span, bool)> {
        let start = self.at + 1;
        let (end, escaped) = self.string_from(start)?;
        self.at = end + 1;
        Ok((Span { start, end }, escaped))
    }
}
