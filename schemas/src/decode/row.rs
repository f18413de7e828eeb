//! One event read into the values of its row.

use super::escape::unescape_into;
use super::layout::{Field, Shape, find};
use super::rest::{Rest, WHOLE};
use super::scan::{Scan, Span, Tokens};
use super::time;

/// Unknown fields of one object that are told apart. An object with more of them keeps the event whole.
const MOST_UNKNOWN: usize = 32;

/// Text of a row.
#[derive(Clone, Copy, Debug)]
pub enum Text {
    /// As it stands in the event.
    Event(Span),
    /// A part of `Row::owned`.
    Owned(Span),
}

/// A value on its way to a column.
#[derive(Clone, Copy, Debug)]
pub enum Value {
    Null,
    Text(Text),
    /// A range of `Row::elements`.
    List(usize, usize),
    Int(i64),
}

/// The values of a row, and what has no column. Used again for its memory.
#[derive(Debug, Default)]
pub struct Row {
    pub values: Vec<Value>,
    /// Elements of the lists among the values.
    pub elements: Vec<Text>,
    /// Text that does not stand in the event: what strings with escapes mean, the rest, and what was put in.
    owned: String,
    /// Names of the unknown fields of the objects being read.
    unknown: Vec<Text>,
    rest: Rest,
    /// The time found where there is no column for it.
    pub moment: Option<i64>,
    /// The same, found among copied fields.
    pub copied_moment: Option<i64>,
    /// Whether columns and rest can't tell the event, so that it must be kept whole.
    pub whole: bool,
}

impl Row {
    /// Forgets the row before.
    pub fn clear(&mut self, columns: usize) {
        self.values.clear();
        self.values.resize(columns, Value::Null);
        self.elements.clear();
        self.owned.clear();
        self.unknown.clear();
        self.rest.clear();
        (self.moment, self.copied_moment, self.whole) = (None, None, false);
    }

    /// What a text of the row says; `event` is the text that the row was read from.
    #[inline(always)]
    pub fn read<'a>(&'a self, text: Text, event: &'a str) -> &'a str {
        match text {
            Text::Event(span) => span.of(event),
            Text::Owned(span) => span.of(&self.owned),
        }
    }

    pub fn time(&self, column: usize) -> Option<i64> {
        match self.values.get(column) {
            Some(Value::Int(micros)) => Some(*micros),
            _ => None,
        }
    }

    /// Copies a list's last element to a column of its own.
    pub fn copy_last(&mut self, list: usize, column: usize) {
        if let Value::List(start, end) = self.values[list]
            && end > start
        {
            self.values[column] = Value::Text(self.elements[end - 1]);
        }
    }

    /// Puts text of its own into a column.
    pub fn put(&mut self, column: usize, text: &str) {
        self.values[column] = Value::Text(own(&mut self.owned, text));
    }

    /// Puts what has no column into a column of its own; `event` is the text that the row was read from.
    pub fn put_rest(&mut self, column: usize, event: &str) {
        if self.whole {
            self.rest.keep_whole(event.trim_matches([' ', '\n', '\r', '\t']));
        }
        if let Some(rest) = self.rest.finish() {
            self.values[column] = Value::Text(own(&mut self.owned, rest));
        }
    }

    /// Reads the object at hand. Returns the fields seen, as bits of their places, and whether it had no member at all.
    pub fn object<T: Tokens>(&mut self, tokens: &mut T, fields: &'static [Field]) -> Scan<(u64, bool)> {
        let (mut seen, mut expected) = (0u64, 0);
        let outer = self.unknown.len();
        let mut next = tokens.first_key()?;
        let empty = next.is_none();
        while let Some(key) = next {
            match self.find(tokens, fields, key, expected) {
                Some(place) => {
                    if seen & (1 << place) != 0 {
                        self.whole = true;
                        self.forget(&fields[place]);
                    }
                    seen |= 1 << place;
                    expected = place + 1;
                    self.field(tokens, &fields[place], key)?;
                }
                None => {
                    let value = tokens.value()?;
                    self.rest.put(tokens.text(), key, value);
                    self.stranger(tokens, key, outer);
                }
            }
            next = tokens.next_key()?;
        }
        self.unknown.truncate(outer);
        Ok((seen, empty))
    }

    /// Notes the name of an unknown field, of an object whose first one is at `first` among the unknown.
    fn stranger<T: Tokens>(&mut self, tokens: &T, key: Span, first: usize) {
        let (text, _) = self.meaning(tokens, key.inner(), tokens.escaped(key));
        let name = self.read(text, tokens.text());
        let known = &self.unknown[first..];
        self.whole |= name == WHOLE
            || known.len() >= MOST_UNKNOWN
            || known.iter().any(|other| self.read(*other, tokens.text()) == name);
        if !self.whole {
            self.unknown.push(text);
        }
    }

    /// What a string means, given without its quotes, and whether that is exact.
    #[inline(always)]
    fn meaning<T: Tokens>(&mut self, tokens: &T, inner: Span, escaped: bool) -> (Text, bool) {
        if !escaped {
            return (Text::Event(inner), true);
        }
        let start = self.owned.len();
        let exact = unescape_into(inner.of(tokens.text()), &mut self.owned);
        (Text::Owned(Span { start, end: self.owned.len() }), exact)
    }

    /// Empties what an earlier field of the same name filled.
    fn forget(&mut self, field: &'static Field) {
        match field.shape {
            Shape::Nested(fields) => fields.iter().for_each(|field| self.forget(field)),
            Shape::Copied(fields) => {
                fields.iter().for_each(|field| self.forget(field));
                self.values[field.column] = Value::Null;
            }
            Shape::Moment => self.moment = None,
            Shape::Nanoseconds => self.copied_moment = None,
            _ => self.values[field.column] = Value::Null,
        }
    }

    /// Reads the value of a field.
    #[inline(always)]
    fn field<T: Tokens>(&mut self, tokens: &mut T, field: &'static Field, key: Span) -> Scan<()> {
        let first = tokens.peek();
        let start = tokens.position();
        let exact = match field.shape {
            Shape::Text if first == b'"' => self.string(tokens, field)?,
            Shape::Nested(fields) if first == b'{' => {
                let mark = self.rest.open(key.of(tokens.text()));
                let (_, empty) = self.object(tokens, fields)?;
                self.rest.close(mark, empty);
                true
            }
            Shape::Copied(fields) if first == b'{' => {
                self.copied(tokens, field, fields)?;
                true
            }
            Shape::TextList if first == b'[' => self.list(tokens, field.column)?,
            _ => {
                let value = tokens.value()?;
                self.take(tokens, field, value)
            }
        };
        if !exact {
            self.rest.put(tokens.text(), key, Span { start, end: tokens.passed() });
        }
        Ok(())
    }

    /// Reads a string into a column of text. False if the column can't tell it exactly.
    #[inline(always)]
    fn string<T: Tokens>(&mut self, tokens: &mut T, field: &Field) -> Scan<bool> {
        let (inner, escaped) = tokens.string()?;
        let (text, exact) = self.meaning(tokens, inner, escaped);
        self.values[field.column] = Value::Text(text);
        Ok(exact)
    }

    /// Reads an object that is kept as it is, copying some of its fields.
    fn copied<T: Tokens>(&mut self, tokens: &mut T, field: &Field, fields: &'static [Field]) -> Scan<()> {
        let start = tokens.position();
        let mut next = tokens.first_key()?;
        let mut expected = 0;
        while let Some(key) = next {
            match self.find(tokens, fields, key, expected) {
                Some(place) => {
                    let field = &fields[place];
                    self.forget(field);
                    if matches!(field.shape, Shape::Text) && tokens.peek() == b'"' {
                        self.string(tokens, field)?;
                    } else {
                        let value = tokens.value()?;
                        self.take(tokens, field, value);
                    }
                    expected = place + 1;
                }
                None => _ = tokens.value()?,
            }
            next = tokens.next_key()?;
        }
        self.values[field.column] = Value::Text(Text::Event(Span { start, end: tokens.passed() }));
        Ok(())
    }

    /// Reads a list of text. False if the column can't tell it: it is empty, or not all text.
    fn list<T: Tokens>(&mut self, tokens: &mut T, column: usize) -> Scan<bool> {
        let start = self.elements.len();
        let mut more = tokens.first_element()?;
        let mut exact = more;
        while more {
            if tokens.peek() == b'"' {
                let (inner, escaped) = tokens.string()?;
                let (text, same) = self.meaning(tokens, inner, escaped);
                self.elements.push(text);
                exact &= same;
            } else {
                tokens.value()?;
                exact = false;
            }
            more = tokens.next_element()?;
        }
        self.values[column] = Value::List(start, self.elements.len());
        Ok(exact)
    }

    /// The field that a key names. Senders keep their order, so the search starts where the field before ended.
    #[inline(always)]
    fn find<T: Tokens>(&mut self, tokens: &T, fields: &[Field], key: Span, expected: usize) -> Option<usize> {
        let name = tokens.text().as_bytes().get(key.start + 1..key.end - 1).unwrap_or_default();
        find(fields, name, expected).or_else(|| {
            // Nobody writes a field's name with escapes, but JSON allows it.
            tokens.escaped(key).then(|| self.find_escaped(tokens, fields, key)).flatten()
        })
    }

    #[cold]
    fn find_escaped<T: Tokens>(&mut self, tokens: &T, fields: &[Field], key: Span) -> Option<usize> {
        let (name, _) = self.meaning(tokens, key.inner(), true);
        find(fields, self.read(name, tokens.text()).as_bytes(), 0)
    }

    /// Puts the value read last into its column. False if the column can't tell it exactly.
    fn take<T: Tokens>(&mut self, tokens: &T, field: &Field, value: Span) -> bool {
        let raw = value.of(tokens.text());
        let is_text = raw.starts_with('"');
        let (value, exact) = match field.shape {
            Shape::Any if raw != "null" => (Value::Text(Text::Event(value)), true),
            Shape::Object if raw.starts_with('{') => (Value::Text(Text::Event(value)), true),
            Shape::Time if is_text => {
                let (text, _) = self.meaning(tokens, value.inner(), tokens.escaped(value));
                let text = self.read(text, tokens.text());
                let Some(micros) = time::parse(text) else { return false };
                (Value::Int(micros), time::is_canonical(text))
            }
            Shape::Int32 => match raw.parse::<i32>() {
                Ok(number) => (Value::Int(i64::from(number)), raw != "-0"),
                Err(_) => return false,
            },
            Shape::Int64 => match raw.trim_matches('"').parse::<i64>() {
                Ok(number) => (Value::Int(number), false),
                Err(_) => return false,
            },
            Shape::Moment => {
                let text = is_text.then(|| self.meaning(tokens, value.inner(), tokens.escaped(value)).0);
                self.moment = text.and_then(|text| time::parse(self.read(text, tokens.text())));
                return false;
            }
            Shape::Nanoseconds => {
                self.copied_moment = raw.trim_matches('"').parse().ok().map(time::from_nanos);
                return false;
            }
            _ => return false,
        };
        self.values[field.column] = value;
        exact
    }
}

/// Text put behind what is owned already.
fn own(owned: &mut String, text: &str) -> Text {
    let start = owned.len();
    owned.push_str(text);
    Text::Owned(Span { start, end: owned.len() })
}
