//! A walk over a compact JSON object that is known to be one: from its outline, without looking at the bytes between.

use super::outline::Outline;
use super::scan::{Malformed, Scan, Tokens};

/// A position in an outlined text.
pub struct Walker<'a, 'o> {
    text: &'a str,
    outline: &'o Outline,
    at: usize,
    /// The outlined container that is met next.
    container: usize,
}

impl<'a, 'o> Walker<'a, 'o> {
    /// `outline` must be that of the text.
    pub fn new(text: &'a str, outline: &'o Outline) -> Self {
        Self { text, outline, at: 0, container: 0 }
    }

    #[inline(always)]
    fn key(&mut self) -> Scan<&'a str> {
        let start = self.at;
        let end = self.string(start)?;
        self.at = end + 1; // past the colon
        self.slice(start, end)
    }

    /// Where the string that begins at `start` ends.
    #[inline(always)]
    fn string(&self, start: usize) -> Scan<usize> {
        self.outline.quote(start + 1).map(|quote| quote + 1).ok_or_else(|| self.lost())
    }

    #[inline(always)]
    fn slice(&self, start: usize, end: usize) -> Scan<&'a str> {
        self.text.get(start..end).ok_or_else(|| self.lost())
    }

    /// The text is not what was outlined, or the walk went deeper than the outline.
    #[cold]
    fn lost(&self) -> Malformed {
        Malformed { at: self.at, reason: "not as outlined" }
    }

    /// Where the container at hand ends.
    fn container(&mut self) -> Scan<usize> {
        loop {
            match self.outline.container(self.container) {
                Some((start, _)) if start < self.at => self.container += 1,
                Some((start, end)) if start == self.at => return Ok(end + 1),
                _ => return Err(self.lost()),
            }
        }
    }

    fn scalar(&self) -> usize {
        let bytes = self.text.as_bytes().get(self.at..).unwrap_or_default();
        let length = bytes.iter().position(|byte| matches!(byte, b',' | b'}' | b']'));
        self.at + length.unwrap_or(bytes.len())
    }
}

impl<'a> Tokens<'a> for Walker<'a, '_> {
    #[inline(always)]
    fn peek(&self) -> u8 {
        self.text.as_bytes().get(self.at).copied().unwrap_or(0)
    }

    fn position(&self) -> usize {
        self.at
    }

    fn since(&self, start: usize) -> &'a str {
        self.text.get(start..self.at).unwrap_or_default()
    }

    #[inline(always)]
    fn escaped(&self, raw: &'a str) -> bool {
        let start = raw.as_ptr().addr().wrapping_sub(self.text.as_ptr().addr());
        self.outline.escaped(start, start + raw.len())
    }

    #[inline(always)]
    fn first_key(&mut self) -> Scan<Option<&'a str>> {
        self.at += 1;
        if self.peek() == b'}' {
            self.at += 1;
            return Ok(None);
        }
        self.key().map(Some)
    }

    #[inline(always)]
    fn next_key(&mut self) -> Scan<Option<&'a str>> {
        let more = self.next_element()?;
        if more { self.key().map(Some) } else { Ok(None) }
    }

    fn first_element(&mut self) -> Scan<bool> {
        self.at += 1;
        let empty = self.peek() == b']';
        self.at += usize::from(empty);
        Ok(!empty)
    }

    #[inline(always)]
    fn next_element(&mut self) -> Scan<bool> {
        let more = self.peek() == b',';
        self.at += 1;
        Ok(more)
    }

    #[inline(always)]
    fn value(&mut self) -> Scan<&'a str> {
        let start = self.at;
        self.at = match self.peek() {
            b'"' => self.string(start)?,
            b'{' | b'[' => self.container()?,
            _ => self.scalar(),
        };
        self.slice(start, self.at)
    }
}
