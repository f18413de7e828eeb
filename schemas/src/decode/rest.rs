//! The rest of an event: what has no column, gathered as JSON text in the event's shape.

use super::scan::Span;

/// The key under which `rest` keeps a whole event. Nothing else is in `rest` then.
pub const WHOLE: &str = "@event";

/// A JSON object under construction. Its text is reused from event to event.
#[derive(Debug, Default)]
pub struct Rest {
    text: String,
}

impl Rest {
    pub fn clear(&mut self) {
        self.text.clear();
    }

    /// Adds a member of the event: a key with its quotes, and a value.
    pub fn put(&mut self, event: &str, key: Span, value: Span) {
        if value.start == key.end + 1 {
            // With nothing but the colon between them they are copied in one piece.
            self.comma();
            self.text.push_str(Span { start: key.start, end: value.end }.of(event));
        } else {
            self.key(key.of(event));
            self.text.push_str(value.of(event));
        }
    }

    /// Opens an object; the mark closes it again.
    pub fn open(&mut self, key: &str) -> usize {
        let mark = self.text.len();
        self.key(key);
        self.text.push('{');
        mark
    }

    /// Closes the object opened at `mark`. Without members it goes, unless `keep` says that it was empty as received.
    pub fn close(&mut self, mark: usize, keep: bool) {
        if self.text.ends_with('{') && !keep {
            self.text.truncate(mark);
        } else {
            self.text.push('}');
        }
    }

    /// Keeps the whole event and nothing else.
    pub fn keep_whole(&mut self, event: &str) {
        self.text.clear();
        self.key(&format!("\"{WHOLE}\""));
        self.text.push_str(event);
    }

    /// The object's text; `None` if it has no members.
    pub fn finish(&mut self) -> Option<&str> {
        if self.text.is_empty() {
            return None;
        }
        self.text.push('}');
        Some(&self.text)
    }

    fn comma(&mut self) {
        if self.text.is_empty() {
            self.text.push('{');
        } else if !self.text.ends_with('{') {
            self.text.push(',');
        }
    }

    fn key(&mut self, key: &str) {
        self.comma();
        self.text.push_str(key);
        self.text.push(':');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_nest_and_vanish() {
        let mut rest = Rest::default();
        assert_eq!(rest.finish(), None);
        let mark = rest.open("\"user\"");
        rest.close(mark, false);
        assert_eq!(rest.finish(), None, "an object without members leaves nothing, not even the opening brace");
        let mark = rest.open("\"user\"");
        rest.close(mark, true);
        rest.put(r#"{"a":[1]}"#, Span { start: 1, end: 4 }, Span { start: 5, end: 8 });
        let mark = rest.open("\"b\"");
        rest.put(r#"{"c" : null}"#, Span { start: 1, end: 4 }, Span { start: 7, end: 11 });
        rest.close(mark, false);
        let mark = rest.open("\"d\"");
        rest.close(mark, false);
        assert_eq!(rest.finish(), Some(r#"{"user":{},"a":[1],"b":{"c":null}}"#));
    }
}
