//! A walk over a compact JSON object that is known to be one: by its outline, without looking at the bytes between.

use super::outline::Outline;
use super::scan::{Malformed, Scan, Span, Tokens};
use super::words::Name;

/// A position in an outlined text.
pub struct Walker<'a> {
    text: &'a str,
    outline: &'a Outline,
    at: usize,
    /// The outlined bracket that is met next.
    bracket: usize,
}

impl<'a> Walker<'a> {
    /// `outline` must be that of the text.
    pub fn new(text: &'a str, outline: &'a Outline) -> Self {
        Self { text, outline, at: 0, bracket: 0 }
    }

    /// The text is not what was outlined, or the walk went deeper than the outline.
    #[cold]
    fn lost<T>(&self) -> Scan<T> {
        Err(Malformed { at: self.at, reason: "not as outlined" })
    }

    /// Where the container at hand ends.
    fn container(&mut self) -> Scan<usize> {
        let brackets = self.outline.brackets();
        let at = |bracket: usize| brackets.get(bracket).map(|at| *at as usize);
        while at(self.bracket).is_some_and(|at| at < self.at) {
            self.bracket += 1;
        }
        if at(self.bracket) != Some(self.at) {
            return self.lost();
        }
        let mut open = 0_usize;
        while let Some(at) = at(self.bracket) {
            self.bracket += 1;
            // Opening and closing brackets differ in this bit, of either kind.
            let opens = self.text.as_bytes().get(at).is_some_and(|byte| byte & 2 != 0);
            open = if opens { open + 1 } else { open - 1 };
            if open == 0 {
                return Ok(at + 1);
            }
        }
        self.lost()
    }

    fn scalar(&self) -> usize {
        let bytes = self.text.as_bytes().get(self.at..).unwrap_or_default();
        let length = bytes.iter().position(|byte| matches!(byte, b',' | b'}' | b']'));
        self.at + length.unwrap_or(bytes.len())
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
        self.outline.string(span.start + 1).is_some_and(|(_, escaped)| escaped)
    }

    #[inline(always)]
    fn first_member(&mut self) -> Scan<bool> {
        self.at += 1;
        let empty = self.peek() == b'}';
        self.at += usize::from(empty);
        Ok(!empty)
    }

    #[inline(always)]
    fn next_member(&mut self) -> Scan<bool> {
        self.next_element()
    }

    #[inline(always)]
    fn key(&mut self) -> Scan<Span> {
        let start = self.at;
        let Some((quote, _)) = self.outline.string(start + 1) else { return self.lost() };
        self.at = quote + 2; // past the colon
        Ok(Span { start, end: quote + 1 })
    }

    #[inline(always)]
    fn key_like(&mut self, name: &Name) -> Option<Span> {
        let ahead = self.text.as_bytes().get(self.at + 1..)?.first_chunk()?;
        let length = name.begins(ahead)?;
        let start = self.at;
        self.at += length + 3; // past both quotes and the colon
        Some(Span { start, end: self.at - 1 })
    }

    #[inline(always)]
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
    fn value(&mut self) -> Scan<Span> {
        let start = self.at;
        match self.peek() {
            b'"' => _ = self.string()?,
            b'{' | b'[' => self.at = self.container()?,
            _ => self.at = self.scalar(),
        }
        Ok(Span { start, end: self.at })
    }

    #[inline(always)]
    fn string(&mut self) -> Scan<(Span, bool)> {
        let start = self.at + 1;
        let Some((quote, escaped)) = self.outline.string(start) else { return self.lost() };
        self.at = quote + 1;
        Ok((Span { start, end: quote }, escaped))
    }
}
