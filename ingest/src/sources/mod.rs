//! The senders: what each may send, and what of it is an event. Pure: bytes in, events and rejections out.

pub mod audit;
pub mod falco;

use bytes::Bytes;
use vedette_journal::{Source, Topic};

use crate::split::{Form, Options, Piece, Reason, Splitter};

/// Something that is no event, with the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    pub bytes: Bytes,
    pub reason: Reason,
}

/// A kind of sender.
#[derive(Clone, Copy, Debug)]
pub struct Sender {
    pub source: Source,
    pub topic: Topic,
    /// Whether it sends again what was not answered with success.
    pub retries: bool,
    /// Whether an object with `items` is a list of events.
    lists: bool,
    /// Why an object of this form is none of its events.
    objection: fn(&Form) -> Option<Reason>,
}

impl Sender {
    pub fn splitter(&self, max_event_bytes: usize) -> Splitter {
        Splitter::new(Options { lists: self.lists, max_event_bytes })
    }

    /// An event, or why it is none.
    pub fn judge(&self, piece: Piece) -> Result<Bytes, Rejection> {
        let (bytes, form) = match piece {
            Piece::Event { bytes, form } => (bytes, form),
            Piece::Rejected { bytes, reason } => return Err(Rejection { bytes, reason }),
        };
        let objection = (self.objection)(&form);
        match objection.or_else(|| std::str::from_utf8(&bytes).err().map(|error| format!("not UTF-8: {error}").into()))
        {
            Some(reason) => Err(Rejection { bytes, reason }),
            None => Ok(bytes),
        }
    }
}
