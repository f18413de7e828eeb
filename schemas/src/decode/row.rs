//! One event read into the values of its row.

use std::borrow::Cow;

use super::layout::{Field, Shape};
use super::rest::{Rest, WHOLE};
use super::scan::{Malformed, Scanner};
use super::time;

/// Unknown fields of one object that are told apart. An object with more of them keeps the event whole.
const MOST_UNKNOWN: usize = 32;

/// A value on its way to a column.
#[derive(Clone, Debug)]
pub enum Value<'a> {
    Null,
    Text(Cow<'a, str>),
    /// A range of `Row::elements`.
    List(usize, usize),
    Int(i64),
}

/// What rows pass on from one to the next, for its memory.
#[derive(Debug, Default)]
pub struct Scratch {
    pub values: Vec<Value<'static>>,
    pub elements: Vec<Cow<'static, str>>,
    pub rest: Rest,
}

/// The values of a row, and what has no column.
pub struct Row<'a> {
    pub scanner: Scanner<'a>,
    pub values: Vec<Value<'a>>,
    /// Elements of the lists among the values.
    pub elements: Vec<Cow<'a, str>>,
    pub rest: Rest,
    /// The time found where there is no column for it.
    pub moment: Option<i64>,
    /// The same, found among copied fields.
    pub copied_moment: Option<i64>,
    /// Whether columns and rest can't tell the event, so that it must be kept whole.
    pub whole: bool,
}

impl<'a> Row<'a> {
    pub fn new(scanner: Scanner<'a>, columns: usize, scratch: Scratch) -> Self {
        let Scratch { values, elements, mut rest } = scratch;
        rest.clear();
        let (mut values, elements) = (emptied(values), emptied(elements));
        values.resize(columns, Value::Null);
        Self { scanner, values, elements, rest, moment: None, copied_moment: None, whole: false }
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
            self.values[column] = Value::Text(self.elements[end - 1].clone());
        }
    }

    /// Reads the object at hand. Returns the fields seen, as bits of their places, and whether it had no member at all.
    pub fn object(&mut self, fields: &'static [Field]) -> Result<(u64, bool), Malformed> {
        let (mut seen, mut expected) = (0u64, 0);
        let mut unknown: Vec<Cow<'a, str>> = Vec::new();
        let mut next = self.scanner.first_key()?;
        let empty = next.is_none();
        while let Some(key) = next {
            match self.find(fields, key, expected) {
                Some(place) => {
                    if seen & (1 << place) != 0 {
                        self.whole = true;
                        self.forget(&fields[place]);
                    }
                    seen |= 1 << place;
                    expected = place + 1;
                    self.field(&fields[place], key)?;
                }
                None => {
                    let value = self.scanner.value()?;
                    self.rest.put(key, value);
                    let (name, _) = self.scanner.unescape(key);
                    self.whole |= name == WHOLE || unknown.len() >= MOST_UNKNOWN || unknown.contains(&name);
                    if !self.whole {
                        unknown.push(name);
                    }
                }
            }
            next = self.scanner.next_key()?;
        }
        Ok((seen, empty))
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

    fn field(&mut self, field: &'static Field, key: &str) -> Result<(), Malformed> {
        let first = self.scanner.peek();
        match field.shape {
            Shape::Nested(fields) if first == b'{' => {
                let mark = self.rest.open(key);
                let (_, empty) = self.object(fields)?;
                self.rest.close(mark, empty);
            }
            Shape::Copied(fields) if first == b'{' => self.copied(field, fields)?,
            Shape::TextList if first == b'[' => {
                let start = self.scanner.position();
                if !self.list(field.column)? {
                    self.rest.put(key, self.scanner.since(start));
                }
            }
            _ => {
                let raw = self.scanner.value()?;
                if !self.take(field, raw) {
                    self.rest.put(key, raw);
                }
            }
        }
        Ok(())
    }

    /// Reads an object that is kept as it is, copying some of its fields.
    fn copied(&mut self, field: &Field, fields: &'static [Field]) -> Result<(), Malformed> {
        let start = self.scanner.position();
        let mut next = self.scanner.first_key()?;
        let mut expected = 0;
        while let Some(key) = next {
            let raw = self.scanner.value()?;
            if let Some(place) = self.find(fields, key, expected) {
                self.forget(&fields[place]);
                self.take(&fields[place], raw);
                expected = place + 1;
            }
            next = self.scanner.next_key()?;
        }
        self.values[field.column] = Value::Text(Cow::Borrowed(self.scanner.since(start)));
        Ok(())
    }

    /// Reads a list of text. False if the column can't tell it: it is empty, or not all text.
    fn list(&mut self, column: usize) -> Result<bool, Malformed> {
        let start = self.elements.len();
        let mut exact = true;
        let mut more = self.scanner.first_element()?;
        exact &= more;
        while more {
            let raw = self.scanner.value()?;
            if raw.starts_with('"') {
                let (text, same) = self.scanner.unescape(raw);
                self.elements.push(text);
                exact &= same;
            } else {
                exact = false;
            }
            more = self.scanner.next_element()?;
        }
        self.values[column] = Value::List(start, self.elements.len());
        Ok(exact)
    }

    /// The field that a key, given with its quotes, names.
    fn find(&self, fields: &[Field], key: &'a str, expected: usize) -> Option<usize> {
        let plain = key.get(1..key.len() - 1).and_then(|name| find(fields, name, expected));
        // Nobody writes a field's name with escapes, but JSON allows it.
        plain.or_else(|| match self.scanner.unescape(key).0 {
            Cow::Owned(name) => find(fields, &name, expected),
            Cow::Borrowed(_) => None,
        })
    }

    /// Puts the value read last into its column. False if the column can't tell it exactly.
    fn take(&mut self, field: &Field, raw: &'a str) -> bool {
        let text = || raw.starts_with('"').then(|| self.scanner.unescape(raw));
        let (value, exact) = match field.shape {
            Shape::Text => match text() {
                Some((text, exact)) => (Value::Text(text), exact),
                None => return false,
            },
            Shape::Object | Shape::Any => {
                let fits = if matches!(field.shape, Shape::Any) { raw != "null" } else { raw.starts_with('{') };
                if !fits {
                    return false;
                }
                (Value::Text(Cow::Borrowed(raw)), true)
            }
            Shape::Time => {
                let Some((text, _)) = text() else { return false };
                let Some(micros) = time::parse(&text) else { return false };
                (Value::Int(micros), time::is_canonical(&text))
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
                self.moment = text().and_then(|(text, _)| time::parse(&text));
                return false;
            }
            Shape::Nanoseconds => {
                self.copied_moment = raw.trim_matches('"').parse().ok().map(time::from_nanos);
                return false;
            }
            Shape::TextList | Shape::Nested(_) | Shape::Copied(_) => return false,
        };
        self.values[field.column] = value;
        exact
    }
}

/// The same vector, emptied, for values of another lifetime: what is collected in place keeps its memory.
pub fn emptied<A, B>(mut values: Vec<A>) -> Vec<B> {
    values.clear();
    values.into_iter().filter_map(|_| None).collect()
}

/// The field of that name. Senders keep their order, so the search starts where the field before ended.
fn find(fields: &[Field], name: &str, expected: usize) -> Option<usize> {
    let (before, after) = fields.split_at(expected.min(fields.len()));
    let found = after.iter().position(|field| field.key == name).map(|place| place + before.len());
    found.or_else(|| before.iter().position(|field| field.key == name))
}
