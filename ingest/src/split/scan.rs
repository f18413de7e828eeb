//! The splitter's state machine: where in a body the scan stands, and what the next byte there means.

use super::value::Step;
use super::{Form, Piece, Splitter};

/// Where the scan stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Between top-level values.
    Top,
    /// In a line that is no JSON.
    Line,
    /// In what is given up to the end of the body.
    Rest,
    /// In a top-level object: before a key, in it, before its colon, before its value, in it, behind it.
    Key,
    InKey,
    Colon,
    BeforeValue,
    InValue,
    AfterValue,
    /// Among events: before one, in it, behind it.
    BeforeElement(Within),
    InElement(Within),
    AfterElement(Within),
}

/// What the events at hand are elements of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Within {
    Array,
    Items,
}

impl Place {
    /// Whether the body may not end here.
    pub fn within_value(self) -> bool {
        !matches!(self, Place::Top | Place::Line | Place::Rest)
    }
}

/// A key of a top-level object, as far as it matters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Key {
    #[default]
    Other,
    Kind,
    ApiVersion,
    AuditId,
    Items,
}

/// What is known of the top-level object at hand.
#[derive(Debug, Default)]
pub(super) struct Envelope {
    /// Where in the buffer the key or value at hand starts.
    mark: usize,
    key: Key,
    kind: Option<String>,
    audit_group: bool,
    audit_id: bool,
    /// Its items are being handed out, or were.
    listing: bool,
    /// It has `items` that are neither an array nor null.
    odd_items: bool,
    pub too_deep: bool,
}

impl Envelope {
    /// Bytes have been cut off the buffer's start.
    pub fn moved(&mut self, bytes: usize) {
        self.mark = self.mark.saturating_sub(bytes);
    }

    /// Whether its `items` are events. Senders that sort keys put `kind` behind them: then the API group decides, or,
    /// with neither seen, that no event has `items`.
    fn is_list(&self) -> bool {
        match self.kind.as_deref() {
            Some(kind) => kind == "EventList",
            None => self.audit_group || !self.audit_id,
        }
    }

    fn learn(&mut self, value: &[u8]) {
        match self.key {
            Key::Kind => self.kind = text(value),
            Key::ApiVersion => self.audit_group = value.starts_with(b"\"audit.k8s.io/"),
            Key::AuditId => self.audit_id = true,
            Key::Items => self.odd_items = value != b"null",
            Key::Other => {}
        }
    }
}

/// A short string's inside.
fn text(value: &[u8]) -> Option<String> {
    let inside = value.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    let shown = inside.get(..64).unwrap_or(inside);
    Some(String::from_utf8_lossy(shown).into_owned())
}

impl Splitter {
    /// One step; false when more bytes are needed.
    pub(super) fn step(&mut self, out: &mut Vec<Piece>) -> bool {
        match self.place {
            Place::Line => return self.end_line(),
            Place::Rest => {
                self.at = self.buffer.len();
                self.start = self.at;
                return false;
            }
            Place::InKey | Place::InValue | Place::InElement(_) => return self.scan_value(out),
            _ => {}
        }
        let rest = &self.buffer[self.at..];
        let Some(space) = rest.iter().position(|b| !matches!(b, b' ' | b'\t' | b'\r' | b'\n')) else {
            self.at = self.buffer.len();
            if matches!(self.place, Place::Top | Place::BeforeElement(_) | Place::AfterElement(_)) {
                self.start = self.at;
                if self.fault.is_none() {
                    self.reject_faulty(out);
                }
            }
            return false;
        };
        let byte = rest[space];
        self.at += space;
        match self.place {
            Place::Top => self.at_top(byte, out),
            Place::Key | Place::Colon | Place::AfterValue => self.in_object(byte, out),
            Place::BeforeValue => self.before_value(byte, out),
            Place::BeforeElement(within) | Place::AfterElement(within) => self.among_elements(byte, within, out),
            Place::Line | Place::Rest | Place::InKey | Place::InValue | Place::InElement(_) => {}
        }
        true
    }

    fn end_line(&mut self) -> bool {
        let end = memchr::memchr(b'\n', &self.buffer[self.at..]);
        self.at = end.map_or(self.buffer.len(), |i| self.at + i + 1);
        self.start = self.at;
        if end.is_some() {
            self.place = Place::Top;
        }
        end.is_some()
    }

    fn at_top(&mut self, byte: u8, out: &mut Vec<Piece>) {
        self.start = self.at;
        match byte {
            b'{' => {
                self.envelope = Envelope::default();
                self.at += 1;
                self.place = Place::Key;
            }
            b'[' => {
                self.reject_faulty(out);
                self.at += 1;
                self.place = Place::BeforeElement(Within::Array);
            }
            b',' | b']' | b'}' if self.recovering => self.at += 1,
            // A byte order mark, which may come in pieces.
            0xef | 0xbb | 0xbf if !self.recovering => self.at += 1,
            _ => {
                if self.fault.is_none() {
                    self.drop_separators();
                    self.fault = Some("not JSON".into());
                }
                self.recovering = true;
                self.place = Place::Line;
            }
        }
    }

    fn in_object(&mut self, byte: u8, out: &mut Vec<Piece>) {
        self.at += 1;
        match (self.place, byte) {
            (Place::Key, b'"') => {
                self.envelope.mark = self.at;
                self.value.restart(b'"');
                self.place = Place::InKey;
            }
            (Place::Colon, b':') => self.place = Place::BeforeValue,
            (Place::AfterValue, b',') => self.place = Place::Key,
            (Place::Key | Place::AfterValue, b'}') => self.end_object(out),
            _ => self.fail("an object's keys and values are out of order"),
        }
    }

    fn end_object(&mut self, out: &mut Vec<Piece>) {
        self.place = Place::Top;
        let kind = self.envelope.kind.take();
        let empty_list = self.options.lists && kind.as_deref() == Some("EventList") && !self.envelope.odd_items;
        if self.envelope.listing || (empty_list && self.parts == 0) {
            self.parts = 0;
            self.take(out);
            return;
        }
        let form = Form::Bare { kind, audit_id: self.envelope.audit_id };
        self.emit(form, self.envelope.too_deep, out);
    }

    fn before_value(&mut self, byte: u8, out: &mut Vec<Piece>) {
        let list = byte == b'[' && self.envelope.key == Key::Items && self.options.lists && self.parts == 0;
        if list && self.envelope.is_list() {
            self.reject_faulty(out);
            self.envelope.listing = true;
            self.at += 1;
            self.place = Place::BeforeElement(Within::Items);
        } else if matches!(byte, b',' | b':' | b']' | b'}') {
            self.fail("a value is missing");
        } else {
            self.envelope.mark = self.at;
            self.value.restart(byte);
            self.at += 1;
            self.place = Place::InValue;
        }
    }

    fn among_elements(&mut self, byte: u8, within: Within, out: &mut Vec<Piece>) {
        let before = self.place == Place::BeforeElement(within);
        self.start = self.at;
        match byte {
            b']' => {
                self.at += 1;
                self.start = self.at;
                self.reject_faulty(out);
                self.place = if within == Within::Items { Place::AfterValue } else { Place::Top };
            }
            b',' if !before => {
                self.at += 1;
                self.place = Place::BeforeElement(within);
            }
            b',' | b':' | b'}' => self.fail("an array's elements are out of order"),
            _ if !before => self.fail("an array's elements are out of order"),
            first => {
                self.value.restart(first);
                self.at += 1;
                self.place = Place::InElement(within);
            }
        }
    }

    fn scan_value(&mut self, out: &mut Vec<Piece>) -> bool {
        match self.value.scan(&self.buffer[self.at..]) {
            Step::More => {
                self.at = self.buffer.len();
                return false;
            }
            Step::Malformed(reason) => self.fail(reason),
            Step::Done(used) => {
                self.at += used;
                self.end_value(out);
            }
        }
        true
    }

    fn end_value(&mut self, out: &mut Vec<Piece>) {
        match self.place {
            Place::InKey => {
                self.envelope.key = match &self.buffer[self.envelope.mark..self.at] {
                    b"kind\"" => Key::Kind,
                    b"apiVersion\"" => Key::ApiVersion,
                    b"auditID\"" => Key::AuditId,
                    b"items\"" => Key::Items,
                    _ => Key::Other,
                };
                self.place = Place::Colon;
            }
            Place::InElement(within) => {
                self.place = Place::AfterElement(within);
                self.emit(Form::Item, self.value.too_deep(), out);
            }
            _ => {
                self.envelope.too_deep |= self.value.too_deep();
                self.envelope.learn(&self.buffer[self.envelope.mark..self.at]);
                self.place = Place::AfterValue;
            }
        }
    }
}
