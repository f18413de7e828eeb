//! The rest of an event: what has no column, as a JSON object in the event's shape.

use super::scan::Span;

/// The key under which `rest` keeps a whole event. Nothing else is in `rest` then.
pub const WHOLE: &str = "@event";

/// A JSON object under construction, of stretches of the event. Used again for its memory.
#[derive(Debug, Default)]
pub struct Rest {
    pieces: Vec<Piece>,
}

#[derive(Debug)]
enum Piece {
    /// Members one after another, with the commas between them.
    Members(Span),
    /// A member whose key and value have more than the colon between them.
    Apart(Span, Span),
    /// The key of an object, whose members follow.
    Open(Span),
    Close,
}

impl Rest {
    pub fn clear(&mut self) {
        self.pieces.clear();
    }

    /// Adds a member of the event: a key with its quotes, and a value.
    #[inline(always)]
    pub fn put(&mut self, key: Span, value: Span) {
        if value.start != key.end + 1 {
            self.pieces.push(Piece::Apart(key, value));
        } else if let Some(Piece::Members(last)) = self.pieces.last_mut()
            && last.end + 1 == key.start
        {
            last.end = value.end;
        } else {
            self.pieces.push(Piece::Members(Span { start: key.start, end: value.end }));
        }
    }

    /// Opens an object; the mark closes it again.
    #[inline(always)]
    pub fn open(&mut self, key: Span) -> usize {
        self.pieces.push(Piece::Open(key));
        self.pieces.len()
    }

    /// Closes the object opened at `mark`. Without members it goes, unless `keep` says that it was empty as received.
    #[inline(always)]
    pub fn close(&mut self, mark: usize, keep: bool) {
        if self.pieces.len() == mark && !keep {
            self.pieces.pop();
        } else {
            self.pieces.push(Piece::Close);
        }
    }

    /// Appends the object's text, unless it has no members. `event` is what the spans are of.
    pub fn write(&self, event: &str, out: &mut String) {
        if self.pieces.is_empty() {
            return;
        }
        let mut before = "{";
        for piece in &self.pieces {
            if !matches!(piece, Piece::Close) {
                out.push_str(before);
            }
            before = ",";
            match piece {
                Piece::Members(members) => out.push_str(members.of(event)),
                Piece::Apart(key, value) => {
                    out.push_str(key.of(event));
                    out.push(':');
                    out.push_str(value.of(event));
                }
                Piece::Open(key) => {
                    out.push_str(key.of(event));
                    out.push_str(":{");
                    before = "";
                }
                Piece::Close => out.push('}'),
            }
        }
        out.push('}');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_nest_and_vanish() {
        let event = r#"{"user":{},"a":[1],"e":"","b":{"c" : null},"d":{"f":0}}"#;
        let span = |text: &str| event.find(text).map(|start| Span { start, end: start + text.len() }).unwrap();
        let mut rest = Rest::default();
        let written = |rest: &Rest| {
            let mut text = "before".to_owned();
            rest.write(event, &mut text);
            text.split_off(6)
        };
        assert_eq!(written(&rest), "");
        let mark = rest.open(span("\"user\""));
        rest.close(mark, false);
        assert_eq!(written(&rest), "", "an object without members leaves nothing, not even the opening brace");
        let mark = rest.open(span("\"user\""));
        rest.close(mark, true);
        rest.put(span("\"a\""), span("[1]"));
        rest.put(span("\"e\""), span("\"\""));
        let mark = rest.open(span("\"b\""));
        rest.put(span("\"c\""), span("null"));
        rest.close(mark, false);
        let mark = rest.open(span("\"d\""));
        rest.close(mark, false);
        assert_eq!(written(&rest), r#"{"user":{},"a":[1],"e":"","b":{"c":null}}"#);
        rest.put(span("\"f\""), span("0"));
        assert_eq!(written(&rest), r#"{"user":{},"a":[1],"e":"","b":{"c":null},"f":0}"#);
        rest.clear();
        assert_eq!(written(&rest), "");
    }
}
