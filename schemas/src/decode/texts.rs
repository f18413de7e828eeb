//! Text columns under construction: Arrow's views into blocks that hold each event once, for all columns.

use std::sync::Arc;

use arrow::array::StringViewArray;
use arrow::buffer::{Buffer, NullBuffer, ScalarBuffer};

use super::pool;
use super::scan::Span;

/// The longest text that a view holds itself.
const INLINE: usize = 12;
/// What follows a row's text, so that the end of it can be read in large pieces.
pub const PADDING: usize = 32;
/// Blocks of text double in size from the first to the last of these, in bytes.
const FIRST_BLOCK: usize = 64 << 10;
const LARGEST_BLOCK: usize = 2 << 20;

/// The texts of rows: each row's event, and behind it the row's own text.
#[derive(Debug)]
pub struct Blocks {
    full: Vec<Buffer>,
    /// The block that is being filled; it never grows beyond its capacity.
    block: Vec<u8>,
    next_block: usize,
}

impl Default for Blocks {
    fn default() -> Self {
        Self { full: Vec::new(), block: Vec::new(), next_block: FIRST_BLOCK }
    }
}

impl Blocks {
    /// Puts a row's text in one piece.
    pub fn put(&mut self, event: &str, own: &str) -> Placed<'_> {
        // What padded the row before goes.
        self.block.truncate(self.block.len().saturating_sub(PADDING));
        let needed = event.len() + own.len() + PADDING;
        if self.block.capacity() - self.block.len() < needed {
            self.start_block(needed);
        }
        let start = self.block.len();
        self.block.extend_from_slice(event.as_bytes());
        self.block.extend_from_slice(own.as_bytes());
        self.block.extend_from_slice(&[0; PADDING]);
        Placed { block: &self.block, number: self.full.len(), start }
    }

    #[cold]
    fn start_block(&mut self, least: usize) {
        let new = pool::block(self.next_block.max(least));
        self.next_block = (self.next_block * 2).min(LARGEST_BLOCK);
        let full = std::mem::replace(&mut self.block, new);
        if !full.is_empty() {
            self.full.push(pool::share(full));
        }
    }

    /// All blocks, leaving none.
    pub fn finish(&mut self) -> Arc<[Buffer]> {
        let Self { mut full, block, .. } = std::mem::take(self);
        if !block.is_empty() {
            full.push(pool::share(block));
        }
        full.into()
    }
}

/// The text of a row in its block.
#[derive(Clone, Copy)]
pub struct Placed<'a> {
    block: &'a [u8],
    /// The block's.
    number: usize,
    start: usize,
}

impl<'a> Placed<'a> {
    /// A stretch of the row's text; nothing if it has none such.
    #[inline(always)]
    pub fn text(self, span: Span) -> &'a [u8] {
        self.block.get(self.start + span.start..self.start + span.end).unwrap_or_default()
    }

    /// What stands there and after it.
    #[inline(always)]
    pub fn ahead<const N: usize>(self, from: usize) -> &'a [u8; N] {
        const { assert!(N <= PADDING) };
        self.block.get(self.start + from..).and_then(|ahead| ahead.first_chunk()).unwrap_or(&[0; N])
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
        let ahead = u128::from_le_bytes(*self.ahead(start));
        let offset = self.start + start;
        let far = u128::from(ahead as u32) | (self.number as u128) << 32 | (offset as u128) << 64;
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

    #[inline(always)]
    pub fn append(&mut self, text: Span, row: Placed<'_>) {
        self.views.push(row.view(text));
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
            for (i, text) in texts.iter().enumerate() {
                let own = texts[i % 7].as_str();
                let row = blocks.put(text, own);
                let own_span = Span { start: text.len(), end: text.len() + own.len() };
                let spans = [Span { start: 0, end: text.len() }, own_span];
                for (((column, expected), span), text) in
                    columns.iter_mut().zip(&mut expected).zip(spans).zip([text, own])
                {
                    column.append(span, row);
                    expected.push(text.to_owned());
                    assert_eq!(row.text(span), text.as_bytes());
                }
            }
            let shared = blocks.finish();
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
        let row = blocks.put("é", "");
        assert_eq!(row.text(Span { start: 1, end: 1 << 20 }), b"");
        assert_eq!(row.ahead(1 << 20), &[0; 4]);
    }
}
