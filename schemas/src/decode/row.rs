//! One event read into the values of its row.

use super::escape::unescape_into;
use super::layout::{Field, Shape, find};
use super::rest::{Rest, WHOLE};
use super::scan::{Scan, Span, Tokens};
use super::time::{self, Minute};
use crate::table::{AUDIT, FALCO};

/// Unknown fields of one object that are told apart. An object with more of them keeps the event whole.
const MOST_UNKNOWN: usize = 32;

/// Fields ahead of the one before that a key is compared with before all others.
const MOST_LEFT_OUT: usize = 5;
/// Columns that a row has room for.
const MOST_COLUMNS: usize = 64;
const _: () = assert!(AUDIT.len() <= MOST_COLUMNS && FALCO.len() <= MOST_COLUMNS);

/// The values of a row, and what has no column. Used again for its memory.
///
/// Its texts are spans of the event followed by the row's own text, as if they were one.
#[derive(Debug)]
pub struct Row {
    /// Which columns have a value, as bits of their places.
    set: u64,
    /// The columns' values: the span of a text, the range of a list among the elements, a number; 0 without a value.
    cells: [u64; MOST_COLUMNS],
    /// Elements of the lists among the values.
    pub elements: Vec<Span>,
    /// Length of the event.
    event: usize,
    /// Text that does not stand in the event: what strings with escapes mean, the rest, and what was put in.
    pub own: String,
    /// Names of the unknown fields of the objects being read.
    unknown: Vec<Span>,
    rest: Rest,
    /// The time found where there is no column for it.
    pub moment: Option<i64>,
    /// The same, found among copied fields.
    pub copied_moment: Option<i64>,
    /// Whether columns and rest can't tell the event, so that it must be kept whole.
    pub whole: bool,
    minute: Minute,
}

impl Default for Row {
    fn default() -> Self {
        Self {
            set: 0,
            cells: [0; MOST_COLUMNS],
            elements: Vec::new(),
            event: 0,
            own: String::new(),
            unknown: Vec::new(),
            rest: Rest::default(),
            moment: None,
            copied_moment: None,
            whole: false,
            minute: Minute::default(),
        }
    }
}

impl Row {
    /// Forgets the row before, to read that event.
    pub fn clear(&mut self, event: &str) {
        (self.set, self.cells) = (0, [0; MOST_COLUMNS]);
        self.event = event.len();
        self.elements.clear();
        self.own.clear();
        self.unknown.clear();
        self.rest.clear();
        (self.moment, self.copied_moment, self.whole) = (None, None, false);
    }

    /// Which columns have a value, as bits of their places.
    #[inline(always)]
    pub fn set(&self) -> u64 {
        self.set
    }

    #[inline(always)]
    pub fn has(&self, column: usize) -> bool {
        self.set >> (column % MOST_COLUMNS) & 1 == 1
    }

    /// A column's number; 0 if it has no value.
    #[inline(always)]
    pub fn number(&self, column: usize) -> i64 {
        self.cells[column % MOST_COLUMNS] as i64
    }

    /// A column's text, or the range of its list among the elements. Without a value it is empty, and at the start.
    #[inline(always)]
    pub fn span(&self, column: usize) -> Span {
        let cell = self.cells[column % MOST_COLUMNS];
        Span { start: cell as u32 as usize, end: (cell >> 32) as usize }
    }

    #[inline(always)]
    pub fn put_number(&mut self, column: usize, number: i64) {
        let column = column % MOST_COLUMNS;
        self.cells[column] = number as u64;
        self.set |= 1 << column;
    }

    /// Events are shorter than `LONGEST`, and so is all that a row adds.
    #[inline(always)]
    fn put_span(&mut self, column: usize, span: Span) {
        self.put_number(column, (span.start as u64 | (span.end as u64) << 32) as i64);
    }

    fn empty(&mut self, column: usize) {
        self.put_number(column, 0);
        self.set &= !(1 << (column % MOST_COLUMNS));
    }

    /// What a text of the row says; `event` is the text that the row was read from.
    fn read<'a>(&'a self, text: Span, event: &'a str) -> &'a str {
        stretch(text, event, &self.own)
    }

    pub fn time(&self, column: usize) -> Option<i64> {
        self.has(column).then(|| self.number(column))
    }

    /// Copies a list's last element to a column of its own.
    pub fn copy_last(&mut self, list: usize, column: usize) {
        let Span { start, end } = self.span(list);
        if end > start {
            self.put_span(column, self.elements[end - 1]);
        }
    }

    /// Puts text of its own into a column.
    pub fn put(&mut self, column: usize, text: &str) {
        let span = own(&mut self.own, self.event, text);
        self.put_span(column, span);
    }

    /// Puts what has no column into a column of its own; `event` is the text that the row was read from.
    pub fn put_rest(&mut self, column: usize, event: &str) {
        let start = self.own.len();
        if self.whole {
            let event = event.trim_matches([' ', '\n', '\r', '\t']);
            [r#"{""#, WHOLE, r#"":"#, event, "}"].iter().for_each(|part| self.own.push_str(part));
        } else {
            self.rest.write(event, &mut self.own);
        }
        if self.own.len() > start {
            self.put_span(column, Span { start: self.event + start, end: self.event + self.own.len() });
        }
    }

    /// Reads the object at hand. Returns the fields seen, as bits of their places, and whether it had no member at all.
    pub fn object<T: Tokens>(&mut self, tokens: &mut T, fields: &'static [Field]) -> Scan<(u64, bool)> {
        let (mut seen, mut expected) = (0u64, 0);
        let outer = self.unknown.len();
        let mut more = tokens.first_member()?;
        let empty = !more;
        while more {
            let (key, place) = self.key(tokens, fields, expected)?;
            match place {
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
            more = tokens.next_member()?;
        }
        self.unknown.truncate(outer);
        Ok((seen, empty))
    }

    /// Notes the name of an unknown field, of an object whose first one is at `first` among the unknown.
    #[inline(never)]
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
    fn meaning<T: Tokens>(&mut self, tokens: &T, inner: Span, escaped: bool) -> (Span, bool) {
        if !escaped {
            return (inner, true);
        }
        let start = self.event + self.own.len();
        let exact = unescape_into(inner.of(tokens.text()), &mut self.own);
        (Span { start, end: self.event + self.own.len() }, exact)
    }

    /// Empties what an earlier field of the same name filled.
    fn forget(&mut self, field: &'static Field) {
        match field.shape {
            Shape::Nested(fields) => fields.iter().for_each(|field| self.forget(field)),
            Shape::Copied(fields) => {
                fields.iter().for_each(|field| self.forget(field));
                self.empty(field.column);
            }
            Shape::Rest => {}
            Shape::Moment => self.moment = None,
            Shape::Nanoseconds => self.copied_moment = None,
            _ => self.empty(field.column),
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
                self.nested(tokens, fields, key)?;
                true
            }
            Shape::Copied(fields) if first == b'{' => {
                self.copied(tokens, field, fields)?;
                true
            }
            Shape::TextList if first == b'[' => self.list(tokens, field.column)?,
            Shape::Rest => {
                tokens.value()?;
                false
            }
            _ => {
                let value = tokens.value()?;
                self.take(tokens, field, value)
            }
        };
        if !exact {
            self.rest.put(key, Span { start, end: tokens.passed() });
        }
        Ok(())
    }

    #[inline(never)]
    fn nested<T: Tokens>(&mut self, tokens: &mut T, fields: &'static [Field], key: Span) -> Scan<()> {
        let mark = self.rest.open(key);
        let (_, empty) = self.object(tokens, fields)?;
        self.rest.close(mark, empty);
        Ok(())
    }

    /// Reads a string into a column of text. False if the column can't tell it exactly.
    #[inline(always)]
    fn string<T: Tokens>(&mut self, tokens: &mut T, field: &Field) -> Scan<bool> {
        let (inner, escaped) = tokens.string()?;
        let (text, exact) = self.meaning(tokens, inner, escaped);
        self.put_span(field.column, text);
        Ok(exact)
    }

    /// Reads an object that is kept as it is, copying some of its fields.
    #[inline(never)]
    fn copied<T: Tokens>(&mut self, tokens: &mut T, field: &Field, fields: &'static [Field]) -> Scan<()> {
        let start = tokens.position();
        let mut more = tokens.first_member()?;
        let mut expected = 0;
        while more {
            match self.key(tokens, fields, expected)?.1 {
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
            more = tokens.next_member()?;
        }
        self.put_span(field.column, Span { start, end: tokens.passed() });
        Ok(())
    }

    /// Reads a list of text. False if the column can't tell it: it is empty, or not all text.
    #[inline(never)]
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
        self.put_span(column, Span { start, end: self.elements.len() });
        Ok(exact)
    }

    /// The key at hand, and the field that it names. Senders keep their order, so the search starts where the field before
    /// ended.
    #[inline(always)]
    fn key<T: Tokens>(&mut self, tokens: &mut T, fields: &[Field], expected: usize) -> Scan<(Span, Option<usize>)> {
        // Some fields are seldom there.
        for (ahead, field) in fields.iter().skip(expected).take(MOST_LEFT_OUT).enumerate() {
            if let Some(key) = tokens.key_like(&field.name) {
                return Ok((key, Some(expected + ahead)));
            }
        }
        let key = tokens.key()?;
        let name = tokens.text().as_bytes().get(key.start + 1..key.end - 1).unwrap_or_default();
        let place = find(fields, name, expected).or_else(|| {
            // Nobody writes a field's name with escapes, but JSON allows it.
            tokens.escaped(key).then(|| self.find_escaped(tokens, fields, key)).flatten()
        });
        Ok((key, place))
    }

    #[cold]
    fn find_escaped<T: Tokens>(&mut self, tokens: &T, fields: &[Field], key: Span) -> Option<usize> {
        let (name, _) = self.meaning(tokens, key.inner(), true);
        find(fields, self.read(name, tokens.text()).as_bytes(), 0)
    }

    /// Puts the value read last into its column. False if the column can't tell it exactly.
    #[inline(never)]
    fn take<T: Tokens>(&mut self, tokens: &T, field: &Field, value: Span) -> bool {
        let raw = value.of(tokens.text());
        let is_text = raw.starts_with('"');
        match field.shape {
            Shape::Any if raw != "null" => self.put_span(field.column, value),
            Shape::Object if raw.starts_with('{') => self.put_span(field.column, value),
            Shape::Time if is_text => {
                let (text, _) = self.meaning(tokens, value.inner(), tokens.escaped(value));
                let text = stretch(text, tokens.text(), &self.own);
                let Some((micros, exact)) = self.minute.parse(text) else { return false };
                self.put_number(field.column, micros);
                return exact;
            }
            Shape::Int32 => {
                let Ok(number) = raw.parse::<i32>() else { return false };
                self.put_number(field.column, i64::from(number));
                return raw != "-0";
            }
            Shape::Int64 => {
                if let Ok(number) = raw.trim_matches('"').parse() {
                    self.put_number(field.column, number);
                }
                return false;
            }
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
        }
        true
    }
}

/// A stretch of an event followed by a row's own text.
fn stretch<'a>(Span { start, end }: Span, event: &'a str, own: &'a str) -> &'a str {
    match start.checked_sub(event.len()) {
        Some(start) => Span { start, end: end - event.len() }.of(own),
        None => Span { start, end }.of(event),
    }
}

/// Text put behind what a row owns already, after an event of that length.
fn own(own: &mut String, event: usize, text: &str) -> Span {
    let start = event + own.len();
    own.push_str(text);
    Span { start, end: event + own.len() }
}
