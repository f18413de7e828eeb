//! Splits a body into its events as it streams, without a tree: each event's bytes go on unchanged.
//!
//! A body is a sequence of objects (a bare event, NDJSON, pretty-printed or not), of arrays of events, or of EventLists,
//! whose `items` are found wherever they stand among the keys. Only strings and brackets are looked at: whether an event's
//! inside is JSON is for the decoder to say. What is no event is rejected with its bytes and a reason, and after a line
//! that is broken the scan starts anew on the next line, so that one cut-off line does not take its neighbours along.

mod scan;
#[cfg(test)]
mod tests;
mod value;

use std::borrow::Cow;

use bytes::{Buf, Bytes, BytesMut};

use scan::{Envelope, Place};
pub use value::MAX_DEPTH;
use value::Value;

/// Why something is no event.
pub type Reason = Cow<'static, str>;

/// Where an event stood, and what its outermost keys say of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Form {
    /// In an array or in an EventList.
    Item,
    /// By itself.
    Bare { kind: Option<String>, audit_id: bool },
}

/// A part of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// A balanced JSON object.
    Event { bytes: Bytes, form: Form },
    /// Anything else.
    Rejected { bytes: Bytes, reason: Reason },
}

impl Piece {
    /// The memory that it takes.
    pub fn footprint(&self) -> usize {
        let (bytes, text) = match self {
            Piece::Event { bytes, form: Form::Bare { kind: Some(kind), .. } } => (bytes, kind.len()),
            Piece::Event { bytes, .. } => (bytes, 0),
            Piece::Rejected { bytes, reason } => (bytes, reason.len()),
        };
        size_of::<Self>() + bytes.len() + text
    }
}

/// What a splitter looks for.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Whether an object with `items` is a list of events.
    pub lists: bool,
    /// The longest event. A longer one is rejected, in parts of this length.
    pub max_event_bytes: usize,
}

/// A body on its way through. Feed it chunks with `push`, then call `finish`. Or, where memory counts, `add` each chunk
/// and call `proceed` until there is no more of it, and once more after `end`.
pub struct Splitter {
    options: Options,
    /// What is still needed: first what is rejected already if there is a `fault`, then from `start` the value at hand.
    buffer: BytesMut,
    /// Up to here the buffer has been scanned.
    at: usize,
    start: usize,
    fault: Option<Reason>,
    place: Place,
    value: Value,
    envelope: Envelope,
    /// Parts of the value at hand that were rejected because it is too long.
    parts: usize,
    /// After a fault, brackets and commas between events mean nothing.
    recovering: bool,
    /// Why the body ends where the chunks do, once it does.
    ending: Option<Reason>,
    pushed: usize,
    rescanned: usize,
}

impl Splitter {
    pub fn new(options: Options) -> Self {
        Self {
            options,
            buffer: BytesMut::new(),
            at: 0,
            start: 0,
            fault: None,
            place: Place::Top,
            value: Value::new(),
            envelope: Envelope::default(),
            parts: 0,
            recovering: false,
            ending: None,
            pushed: 0,
            rescanned: 0,
        }
    }

    /// Takes the next chunk and adds what it completes to `out`.
    pub fn push(&mut self, chunk: &[u8], out: &mut Vec<Piece>) {
        self.add(chunk);
        self.proceed(usize::MAX, out);
    }

    /// The body is at its end: what is left is rejected.
    pub fn finish(mut self, out: &mut Vec<Piece>) {
        self.end();
        self.proceed(usize::MAX, out);
    }

    /// Takes the next chunk, for `proceed` to split.
    pub fn add(&mut self, chunk: &[u8]) {
        self.pushed += chunk.len();
        self.buffer.extend_from_slice(chunk);
    }

    /// The body is at its end: what is left then is for `proceed` to reject.
    pub fn end(&mut self) {
        self.cut("the body ends within a value");
    }

    /// The body is cut off here, for this reason: what is left then is for `proceed` to reject.
    pub fn cut(&mut self, reason: impl Into<Reason>) {
        self.ending = Some(reason.into());
    }

    /// Adds what the chunks complete to `out`, until that holds `most`; false once there is no more. Two bytes can make
    /// a piece, which takes many times as much memory.
    pub fn proceed(&mut self, most: usize, out: &mut Vec<Piece>) -> bool {
        while out.len() < most {
            if self.step(out) {
                continue;
            }
            if self.buffer.len() > self.options.max_event_bytes {
                self.shorten(out);
                continue;
            }
            let Some(reason) = self.ending.clone() else { return false };
            if !self.place.within_value() {
                self.start = self.buffer.len();
                self.reject_faulty(out);
                return false;
            }
            self.fail(reason);
        }
        true
    }

    /// Bytes held back for what follows.
    pub fn buffered(&self) -> usize {
        self.buffer.len()
    }

    /// Gives up the first line of the value at hand, and goes back to scan what follows as if it stood by itself.
    fn fail(&mut self, reason: impl Into<Reason>) {
        if self.fault.is_none() {
            self.drop_separators();
            self.fault = Some(reason.into());
        }
        self.recovering = true;
        self.parts = 0;
        let line_end = memchr::memchr(b'\n', &self.buffer[self.start..]).map(|i| self.start + i + 1);
        let Some(next) = line_end else {
            self.at = self.buffer.len();
            self.place = Place::Line;
            return;
        };
        self.rescanned += self.at.saturating_sub(next);
        self.at = next;
        self.start = next;
        // A body made to be scanned again and again is given up as a whole.
        let patience = 4 * self.pushed + (1 << 20);
        self.place = if self.rescanned > patience { Place::Rest } else { Place::Top };
    }

    /// The buffer is longer than an event may be: rejects some of it.
    fn shorten(&mut self, out: &mut Vec<Piece>) {
        let limit = self.options.max_event_bytes;
        if self.start > 0 {
            self.reject_faulty(out);
        } else if self.place.within_value() && self.parts == 0 && memchr::memmem::find(&self.buffer, b"\n{").is_some() {
            self.fail(format!("no event ends within {limit} bytes"));
        } else {
            self.reject_part(out);
        }
    }

    /// Rejects the start of a value that is too long, and goes on looking for its end.
    fn reject_part(&mut self, out: &mut Vec<Piece>) {
        let reason = match &self.fault {
            Some(fault) => fault.clone(),
            None => self.too_long(),
        };
        let bytes = self.buffer.split_to(self.at.max(1)).freeze();
        self.reject(bytes, reason, out);
        self.parts += 1;
        self.envelope.moved(self.at);
        self.at = 0;
        self.start = 0;
    }

    fn too_long(&self) -> Reason {
        format!("longer than {} bytes: in parts", self.options.max_event_bytes).into()
    }

    /// Cuts off what stands before the value at hand; it is rejected if it is faulty, and only separators if not.
    fn reject_faulty(&mut self, out: &mut Vec<Piece>) {
        // A line, or the rest, that is being given up stays faulty.
        let ended = self.place != Place::Line && self.place != Place::Rest;
        let fault = if ended { self.fault.take() } else { self.fault.clone() };
        if let Some(reason) = fault {
            let bytes = self.buffer[..self.start].to_vec().into();
            self.reject(bytes, reason, out);
        }
        self.drop_separators();
    }

    /// Cuts off what stands before the value at hand.
    fn drop_separators(&mut self) {
        self.buffer.advance(self.start);
        self.at = self.at.saturating_sub(self.start);
        self.envelope.moved(self.start);
        self.start = 0;
    }

    /// The value at hand, out of the buffer.
    fn take(&mut self, out: &mut Vec<Piece>) -> Bytes {
        self.reject_faulty(out);
        let bytes = self.buffer.split_to(self.at).freeze();
        self.at = 0;
        bytes
    }

    fn emit(&mut self, form: Form, too_deep: bool, out: &mut Vec<Piece>) {
        let bytes = self.take(out);
        if self.parts > 0 || bytes.len() > self.options.max_event_bytes {
            self.parts = 0;
            self.reject(bytes, self.too_long(), out);
        } else if too_deep {
            self.reject(bytes, format!("nested deeper than {MAX_DEPTH}").into(), out);
        } else if bytes.first() != Some(&b'{') {
            self.reject(bytes, "not a JSON object".into(), out);
        } else {
            out.push(Piece::Event { bytes, form });
        }
    }

    fn reject(&self, bytes: Bytes, reason: Reason, out: &mut Vec<Piece>) {
        let end = bytes.iter().rposition(|b| !b.is_ascii_whitespace()).map_or(0, |i| i + 1);
        let mut rest = bytes.slice(..end);
        while !rest.is_empty() {
            let part = rest.split_to(rest.len().min(self.options.max_event_bytes));
            out.push(Piece::Rejected { bytes: part, reason: reason.clone() });
        }
    }
}

/// Splits a whole body at once.
pub fn split_all(body: &[u8], options: Options) -> Vec<Piece> {
    let mut out = Vec::new();
    let mut splitter = Splitter::new(options);
    splitter.push(body, &mut out);
    splitter.finish(&mut out);
    out
}
