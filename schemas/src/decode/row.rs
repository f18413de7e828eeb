//! One event read into the values of its row.

use super::escape::unescape_into;
use super::layout::{Field, Shape, find};
use super::rest::{Rest, WHOLE};
use super::scan::{Scan, Tokens};
use super::time;

/// Unknown fields of one object that are told apart. An object with more of them keeps the event whole.
const MOST_UNKNOWN: usize = 32;

/// Text of a row.
#[derive(Clone, Copy, Debug)]
pub enum Text<'a> {
    /// As it stands in the event.
    Plain(&'a str),
    /// A range of `Row::owned`.
    Owned(usize, usize),
}

impl<'a> Text<'a> {
    /// `owned` is the row's.
    pub fn read<'t>(self, owned: &'t str) -> &'t str
    where
        'a: 't,
    {
        match self {
            Self::Plain(text) => text,
            Self::Owned(start, end) => owned.get(start..end).unwrap_or_default(),
        }
    }
}

/// A value on its way to a column.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    Null,
    Text(Text<'a>),
    /// A range of `Row::elements`.
    List(usize, usize),
    Int(i64),
}

/// What rows pass on from one to the next, for its memory.
#[derive(Debug, Default)]
pub struct Scratch {
    values: Vec<Value<'static>>,
    elements: Vec<Text<'static>>,
    unknown: Vec<Text<'static>>,
    owned: String,
    rest: Rest,
}

/// The values of a row, and what has no column.
#[derive(Debug)]
pub struct Row<'a> {
    pub values: Vec<Value<'a>>,
    /// Elements of the lists among the values.
    pub elements: Vec<Text<'a>>,
    /// Text that does not stand in the event: what strings with escapes mean, and the rest.
    pub owned: String,
    /// Names of the unknown fields of the objects being read.
    unknown: Vec<Text<'a>>,
    pub rest: Rest,
    /// The time found where there is no column for it.
    pub moment: Option<i64>,
    /// The same, found among copied fields.
    pub copied_moment: Option<i64>,
    /// Whether columns and rest can't tell the event, so that it must be kept whole.
    pub whole: bool,
}

impl<'a> Row<'a> {
    pub fn new(columns: usize, scratch: Scratch) -> Self {
        let Scratch { values, elements, unknown, mut owned, mut rest } = scratch;
        rest.clear();
        owned.clear();
        let (mut values, elements, unknown) = (emptied(values), emptied(elements), emptied(unknown));
        values.resize(columns, Value::Null);
        Self { values, elements, owned, unknown, rest, moment: None, copied_moment: None, whole: false }
    }

    pub fn into_scratch(self) -> Scratch {
        let Self { values, elements, owned, unknown, rest, .. } = self;
        let (values, elements, unknown) = (emptied(values), emptied(elements), emptied(unknown));
        Scratch { values, elements, unknown, owned, rest }
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

    /// Puts what has no column into a column of its own.
    pub fn keep_rest(&mut self, column: usize) {
        if let Some(rest) = self.rest.finish() {
            let start = self.owned.len();
            self.owned.push_str(rest);
            self.values[column] = Value::Text(Text::Owned(start, self.owned.len()));
        }
    }

    /// Reads the object at hand. Returns the fields seen, as bits of their places, and whether it had no member at all.
    pub fn object<T: Tokens<'a>>(&mut self, tokens: &mut T, fields: &'static [Field]) -> Scan<(u64, bool)> {
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
                    self.rest.put(key, value);
                    self.stranger(tokens, key, outer);
                }
            }
            next = tokens.next_key()?;
        }
        self.unknown.truncate(outer);
        Ok((seen, empty))
    }

    /// Notes the name of an unknown field, of an object whose first one is at `first` among the unknown.
    fn stranger<T: Tokens<'a>>(&mut self, tokens: &T, key: &'a str, first: usize) {
        let (text, _) = self.text(tokens, key);
        let name = text.read(&self.owned);
        let known = &self.unknown[first..];
        self.whole |=
            name == WHOLE || known.len() >= MOST_UNKNOWN || known.iter().any(|other| other.read(&self.owned) == name);
        if !self.whole {
            self.unknown.push(text);
        }
    }

    /// What a string means, given as it stands with its quotes, and whether that is exact.
    fn text<T: Tokens<'a>>(&mut self, tokens: &T, raw: &'a str) -> (Text<'a>, bool) {
        let inner = raw.get(1..raw.len().saturating_sub(1)).unwrap_or_default();
        if !tokens.escaped(raw) {
            return (Text::Plain(inner), true);
        }
        let start = self.owned.len();
        let exact = unescape_into(inner, &mut self.owned);
        (Text::Owned(start, self.owned.len()), exact)
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

    fn field<T: Tokens<'a>>(&mut self, tokens: &mut T, field: &'static Field, key: &'a str) -> Scan<()> {
        let first = tokens.peek();
        match field.shape {
            Shape::Nested(fields) if first == b'{' => {
                let mark = self.rest.open(key);
                let (_, empty) = self.object(tokens, fields)?;
                self.rest.close(mark, empty);
            }
            Shape::Copied(fields) if first == b'{' => self.copied(tokens, field, fields)?,
            Shape::TextList if first == b'[' => {
                let start = tokens.position();
                if !self.list(tokens, field.column)? {
                    self.rest.put(key, tokens.since(start));
                }
            }
            _ => {
                let raw = tokens.value()?;
                if !self.take(tokens, field, raw) {
                    self.rest.put(key, raw);
                }
            }
        }
        Ok(())
    }

    /// Reads an object that is kept as it is, copying some of its fields.
    fn copied<T: Tokens<'a>>(&mut self, tokens: &mut T, field: &Field, fields: &'static [Field]) -> Scan<()> {
        let start = tokens.position();
        let mut next = tokens.first_key()?;
        let mut expected = 0;
        while let Some(key) = next {
            let raw = tokens.value()?;
            if let Some(place) = self.find(tokens, fields, key, expected) {
                self.forget(&fields[place]);
                self.take(tokens, &fields[place], raw);
                expected = place + 1;
            }
            next = tokens.next_key()?;
        }
        self.values[field.column] = Value::Text(Text::Plain(tokens.since(start)));
        Ok(())
    }

    /// Reads a list of text. False if the column can't tell it: it is empty, or not all text.
    fn list<T: Tokens<'a>>(&mut self, tokens: &mut T, column: usize) -> Scan<bool> {
        let start = self.elements.len();
        let mut more = tokens.first_element()?;
        let mut exact = more;
        while more {
            let raw = tokens.value()?;
            if raw.starts_with('"') {
                let (text, same) = self.text(tokens, raw);
                self.elements.push(text);
                exact &= same;
            } else {
                exact = false;
            }
            more = tokens.next_element()?;
        }
        self.values[column] = Value::List(start, self.elements.len());
        Ok(exact)
    }

    /// The field that a key names.
    fn find<T: Tokens<'a>>(&mut self, tokens: &T, fields: &[Field], key: &'a str, expected: usize) -> Option<usize> {
        let plain = key.get(1..key.len() - 1).and_then(|name| find(fields, name, expected));
        // Nobody writes a field's name with escapes, but JSON allows it.
        plain.or_else(|| match self.text(tokens, key).0 {
            Text::Plain(_) => None,
            name => find(fields, name.read(&self.owned), expected),
        })
    }

    /// Puts the value read last into its column. False if the column can't tell it exactly.
    fn take<T: Tokens<'a>>(&mut self, tokens: &T, field: &Field, raw: &'a str) -> bool {
        let is_text = raw.starts_with('"');
        let (value, exact) = match field.shape {
            Shape::Text if is_text => {
                let (text, exact) = self.text(tokens, raw);
                (Value::Text(text), exact)
            }
            Shape::Any if raw != "null" => (Value::Text(Text::Plain(raw)), true),
            Shape::Object if raw.starts_with('{') => (Value::Text(Text::Plain(raw)), true),
            Shape::Time if is_text => {
                let (text, _) = self.text(tokens, raw);
                let text = text.read(&self.owned);
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
                let text = is_text.then(|| self.text(tokens, raw).0);
                self.moment = text.and_then(|text| time::parse(text.read(&self.owned)));
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

/// The same vector, emptied, for values of another lifetime: what is collected in place keeps its memory.
fn emptied<A, B>(mut values: Vec<A>) -> Vec<B> {
    values.clear();
    values.into_iter().filter_map(|_| None).collect()
}
