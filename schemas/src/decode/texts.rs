//! Text columns under construction: Arrow's views into blocks that hold each event once, for all columns.

use std::sync::Arc;

use arrow::array::StringViewArray;
use arrow::buffer::{Buffer, NullBuffer, ScalarBuffer};
use bytes::Bytes;

use super::index::LONGEST;
use super::pool;
use super::scan::Span;

/// The longest text that a view holds itself.
const INLINE: usize = 12;
/// What follows a row's text, so that the end of it can be read in large pieces.
pub const PADDING: usize = 32;
/// Blocks of text double in size from the first to the last of these, in bytes.
const FIRST_BLOCK: usize = 64 << 10;
const LARGEST_BLOCK: usize = 2 << 20;

/// Parts of texts smaller than this many bytes are copied: columns that refer to many texts are slow to work with.
const SHARED: usize = 64 << 10;

/// The texts of rows: each row's event, and the row's own text.
#[derive(Debug)]
pub struct Blocks {
    /// By number; the block that is being filled has an empty one in its place.
    all: Vec<Buffer>,
    /// The block that is being filled; it never grows beyond its capacity.
    block: Vec<u8>,
    number: usize,
    next_block: usize,
    /// The text shared last, and its number.
    shared: Option<(Bytes, usize)>,
}

impl Default for Blocks {
    fn default() -> Self {
        Self { all: Vec::new(), block: Vec::new(), number: 0, next_block: FIRST_BLOCK, shared: None }
    }
}

impl Blocks {
    /// Puts a row's texts. The event is copied unless it is a part of that larger text, which the columns then refer to.
    pub fn put<'a>(&'a mut self, event: &'a str, text: Option<&'a Bytes>, own: &str) -> Placed<'a> {
        let shared = text.and_then(|text| Some((text, part(text, event)?)));
        let shared = shared.map(|(text, start)| (&text[start..], Place::new(self.share(text), start)));
        let copied = if shared.is_some() { "" } else { event };
        // What padded the row before goes.
        self.block.truncate(self.block.len().saturating_sub(PADDING));
        let needed = copied.len() + own.len() + PADDING;
        if self.block.capacity() - self.block.len() < needed {
            self.start_block(needed);
        }
        let start = self.block.len();
        self.block.extend_from_slice(copied.as_bytes());
        self.block.extend_from_slice(own.as_bytes());
        self.block.extend_from_slice(&[0; PADDING]);
        let placed = |start| (&self.block[start..], Place::new(self.number, start));
        let (length, event, own) = (event.len(), shared.unwrap_or(placed(start)), placed(start + copied.len()));
        Placed { length, event, own }
    }

    /// The number of a text to share.
    fn share(&mut self, text: &Bytes) -> usize {
        let same = |(last, _): &&(Bytes, usize)| last.as_ptr() == text.as_ptr() && last.len() == text.len();
        if let Some((_, number)) = self.shared.as_ref().filter(same) {
            return *number;
        }
        let number = self.all.len();
        self.all.push(Buffer::from(text.clone()));
        self.shared = Some((text.clone(), number));
        number
    }

    #[cold]
    fn start_block(&mut self, least: usize) {
        let new = pool::block(self.next_block.max(least));
        self.next_block = (self.next_block * 2).min(LARGEST_BLOCK);
        self.end_block(new);
        self.number = self.all.len();
        self.all.push(Buffer::default());
    }

    fn end_block(&mut self, next: Vec<u8>) {
        let full = std::mem::replace(&mut self.block, next);
        if !full.is_empty() {
            self.all[self.number] = pool::share(full);
        }
    }

    /// All blocks, leaving none.
    pub fn finish(&mut self) -> Arc<[Buffer]> {
        self.end_block(Vec::new());
        std::mem::take(self).all.into()
    }
}

/// Where in a text its part begins, if columns may refer to it there.
fn part(text: &Bytes, part: &str) -> Option<usize> {
    let start = part.as_ptr().addr().checked_sub(text.as_ptr().addr())?;
    ((SHARED..=LONGEST).contains(&text.len()) && start + part.len() + PADDING <= text.len()).then_some(start)
}

/// Where a text begins: the number of its block, and bytes from the block's start.
#[derive(Clone, Copy)]
struct Place {
    number: u32,
    offset: u32,
}

impl Place {
    /// Blocks are shorter than 4 GiB, and there are fewer of them than bytes in memory.
    fn new(number: usize, offset: usize) -> Self {
        Self { number: number as u32, offset: offset as u32 }
    }
}

/// The text of a row: the event and the row's own, each with what follows it in its block.
#[derive(Clone, Copy)]
pub struct Placed<'a> {
    /// Of the event.
    length: usize,
    event: (&'a [u8], Place),
    own: (&'a [u8], Place),
}

impl<'a> Placed<'a> {
    /// The text that a position is in, where that begins, and the position from there.
    #[inline(always)]
    fn find(self, at: usize) -> (&'a [u8], Place, usize) {
        let ((text, place), before) = if at < self.length { (self.event, 0) } else { (self.own, self.length) };
        (text, place, at - before)
    }

    /// A stretch of the row's text; nothing if it has none such.
    #[inline(always)]
    pub fn text(self, span: Span) -> &'a [u8] {
        let (text, _, start) = self.find(span.start);
        text.get(start..start + (span.end - span.start)).unwrap_or_default()
    }

    /// What stands there and after it.
    #[inline(always)]
    pub fn ahead<const N: usize>(self, from: usize) -> &'a [u8; N] {
        const { assert!(N <= PADDING) };
        let (text, _, start) = self.find(from);
        text.get(start..).and_then(|ahead| ahead.first_chunk()).unwrap_or(&[0; N])
    }

    /// The view of a text: its length, then the text, or its first four bytes, block and offset.
    #[inline(always)]
    fn view(self, Span { start, end }: Span) -> u128 {
        const MASKS: [u128; 16] = {
            let mut masks = [0; 16];
            let mut length = 0;
            while length <= INLINE {
                masks[length] = (1 << (8 * length)) - 1;
                length += 1;
            }
            masks
        };
        let length = end - start;
        let (_, place, from) = self.find(start);
        let ahead = u128::from_le_bytes(*self.ahead(start));
        let offset = place.offset as usize + from;
        let far = u128::from(ahead as u32) | u128::from(place.number) << 32 | (offset as u128) << 64;
        let near = ahead & MASKS[length % 16];
        let text = if length <= INLINE { near } else { far };
        text << 32 | length as u128
    }
}

/// A column of texts.
#[derive(Debug)]
pub struct Texts {
    views: Vec<u128>,
}

impl Texts {
    pub fn with_capacity(rows: usize) -> Self {
        Self { views: Vec::with_capacity(rows) }
    }

    /// Makes room for so many rows, or leaves out those beyond. Without a text a row has an empty one.
    pub fn resize(&mut self, rows: usize) {
        self.views.resize(rows, 0);
    }

    /// Puts a row's text, for which there is room.
    #[inline(always)]
    pub fn put(&mut self, row: usize, text: Span, placed: Placed<'_>) {
        if let Some(view) = self.views.get_mut(row) {
            *view = placed.view(text);
        }
    }

    /// The column, leaving this one empty. `blocks` are those that the rows were placed in.
    pub fn finish(&mut self, blocks: Arc<[Buffer]>, nulls: Option<NullBuffer>) -> StringViewArray {
        let views = ScalarBuffer::from(std::mem::take(&mut self.views));
        #[expect(unsafe_code, reason = "a check would read all text again")]
        // SAFETY: each view is that of a stretch of a row's text between two of its tokens, which is whole characters, in the
        // block and at the offset that it names; and there are as many nulls as views.
        unsafe {
            StringViewArray::new_unchecked(views, blocks, nulls)
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::Array;

    use super::*;

    #[test]
    fn columns_are_what_arrow_makes_of_the_same_texts() {
        let mut blocks = Blocks::default();
        let mut columns = [Texts::with_capacity(8), Texts::with_capacity(8)];
        for round in 0..3_usize {
            let texts: Vec<String> = (0..6000_usize)
                .map(|i| format!("{i}é").repeat(i * round % 40))
                .chain(["x".repeat(3 << 20), "y".into()])
                .chain((0..20).map(|length| "abcdefghijklmnopqrst"[..length].to_owned()))
                .collect();
            let mut expected = [Vec::new(), Vec::new()];
            let (whole, mut end) = (Bytes::from(texts.concat()), 0);
            for (i, text) in texts.iter().enumerate() {
                let own = texts[i % 7].as_str();
                let start = end;
                end += text.len();
                // By turns without a larger text, with one that it is no part of, and with the one that it is a part of.
                let row = match i % 3 {
                    0 => blocks.put(text, None, own),
                    1 => blocks.put(text, Some(&whole), own),
                    _ => blocks.put(str::from_utf8(&whole[start..end]).unwrap(), Some(&whole), own),
                };
                let own_span = Span { start: text.len(), end: text.len() + own.len() };
                let spans = [Span { start: 0, end: text.len() }, own_span];
                for (((column, expected), span), text) in
                    columns.iter_mut().zip(&mut expected).zip(spans).zip([text, own])
                {
                    column.resize(i + 1);
                    column.put(i, span, row);
                    expected.push(text.to_owned());
                    assert_eq!(row.text(span), text.as_bytes());
                }
            }
            let shared = blocks.finish();
            assert_eq!(shared.iter().filter(|block| block.as_ptr() == whole.as_ptr()).count(), 1);
            for (column, expected) in columns.iter_mut().zip(expected) {
                let array = column.finish(shared.clone(), None);
                array.to_data().validate_full().unwrap();
                assert_eq!(array, expected.into_iter().map(Some).collect::<StringViewArray>());
            }
        }
        assert_eq!(columns[0].finish(blocks.finish(), None), StringViewArray::from(Vec::<&str>::new()));
    }

    #[test]
    fn a_row_has_no_text_beyond_its_block() {
        let mut blocks = Blocks::default();
        let row = blocks.put("é", None, "");
        assert_eq!(row.text(Span { start: 1, end: 1 << 20 }), b"");
        assert_eq!(row.ahead(1 << 20), &[0; 4]);
    }
}
