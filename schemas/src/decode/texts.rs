//! A text column under construction: Arrow's views, made with fewer steps than its own builder takes.

use arrow::array::StringViewArray;
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer, ScalarBuffer};

/// Stands for null until the column is finished. No text is as long as this says.
const NULL: u128 = u128::MAX;
/// The longest text that a view holds itself.
const INLINE: usize = 12;
/// Blocks of text double in size from the first to the last of these, in bytes.
const FIRST_BLOCK: usize = 16 << 10;
const LARGEST_BLOCK: usize = 2 << 20;

/// Views, and the blocks of text that they point into.
#[derive(Debug)]
pub struct Texts {
    views: Vec<u128>,
    full: Vec<Buffer>,
    /// The block that is being filled; it never grows beyond its capacity.
    block: Vec<u8>,
    next_block: usize,
}

impl Texts {
    pub fn with_capacity(rows: usize) -> Self {
        Self { views: Vec::with_capacity(rows), full: Vec::new(), block: Vec::new(), next_block: FIRST_BLOCK }
    }

    #[inline(always)]
    pub fn append(&mut self, text: Option<&str>) {
        let view = match text.map(str::as_bytes) {
            None => NULL,
            Some(bytes) if bytes.len() <= INLINE => inline_view(bytes),
            Some(bytes) => self.put(bytes),
        };
        self.views.push(view);
    }

    /// Puts a long text into a block. Returns its view: length, first four bytes, block and offset. A text beyond 4 GiB, which
    /// no event has, has none.
    #[inline(always)]
    fn put(&mut self, bytes: &[u8]) -> u128 {
        if self.block.capacity() - self.block.len() < bytes.len() {
            self.start_block(bytes.len());
        }
        let prefix = bytes.first_chunk().map_or(0, |first| u32::from_le_bytes(*first));
        let (Ok(length), Ok(offset)) = (u32::try_from(bytes.len()), u32::try_from(self.block.len())) else {
            return NULL;
        };
        self.block.extend_from_slice(bytes);
        let words = [length, prefix, self.full.len() as u32, offset];
        words.into_iter().rev().fold(0, |view, word| view << 32 | u128::from(word))
    }

    #[cold]
    fn start_block(&mut self, least: usize) {
        let new = Vec::with_capacity(self.next_block.max(least));
        self.next_block = (self.next_block * 2).min(LARGEST_BLOCK);
        let full = std::mem::replace(&mut self.block, new);
        if !full.is_empty() {
            self.full.push(full.into());
        }
    }

    /// The column, leaving this one empty.
    pub fn finish(&mut self) -> StringViewArray {
        let mut views = std::mem::take(&mut self.views);
        let mut blocks = std::mem::take(&mut self.full);
        let block = std::mem::take(&mut self.block);
        if !block.is_empty() {
            blocks.push(block.into());
        }
        self.next_block = FIRST_BLOCK;
        let nulls = views.contains(&NULL).then(|| {
            let valid = BooleanBuffer::collect_bool(views.len(), |row| views[row] != NULL);
            views.iter_mut().filter(|view| **view == NULL).for_each(|view| *view = 0);
            NullBuffer::new(valid)
        });
        #[expect(unsafe_code, reason = "a check would read all text again")]
        // SAFETY: each view is that of a whole text, which stands in it or in the block and at the offset that it names, and
        // there are as many nulls as views.
        unsafe {
            StringViewArray::new_unchecked(ScalarBuffer::from(views), blocks, nulls)
        }
    }
}

/// The view of a text of 12 bytes at most: its length, then the text.
#[inline(always)]
fn inline_view(bytes: &[u8]) -> u128 {
    let length = bytes.len();
    // The last bytes overlap the first, moved to where they belong.
    let text = if let (Some(first), Some(last)) = (bytes.first_chunk::<8>(), bytes.last_chunk::<8>()) {
        let moved = u128::from(u64::from_le_bytes(*last)) << (8 * (length - 8));
        moved | u128::from(u64::from_le_bytes(*first))
    } else if let (Some(first), Some(last)) = (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
        let moved = u128::from(u32::from_le_bytes(*last)) << (8 * (length - 4));
        moved | u128::from(u32::from_le_bytes(*first))
    } else {
        bytes.iter().rev().fold(0, |text, byte| text << 8 | u128::from(*byte))
    };
    text << 32 | length as u128
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_what_arrow_makes_of_the_same_texts() {
        let mut texts = Texts::with_capacity(8);
        for round in 0..3_usize {
            let all: Vec<Option<String>> = (0..6000_usize)
                .map(|i| (round == 0 || i % 5 != 0).then(|| format!("{i}é").repeat(i * round % 40)))
                .chain([Some("x".repeat(3 << 20)), Some("y".into())])
                .chain((0..20).map(|length| Some("abcdefghijklmnopqrst"[..length].to_owned())))
                .collect();
            all.iter().for_each(|text| texts.append(text.as_deref()));
            let array = texts.finish();
            let data = arrow::array::Array::to_data(&array);
            data.validate_full().unwrap();
            assert_eq!(array, all.into_iter().collect::<StringViewArray>());
        }
        assert_eq!(texts.finish(), StringViewArray::from(Vec::<&str>::new()));
    }
}
