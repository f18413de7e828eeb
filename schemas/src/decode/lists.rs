//! A column of lists of text under construction.

use std::sync::Arc;

use arrow::array::{ListArray, StringArray};
use arrow::buffer::{Buffer, OffsetBuffer, ScalarBuffer};
use arrow::error::ArrowError;

use super::scan::Span;
use super::texts::{PADDING, Placed};
use crate::table::list_item;

/// Lists, none of them null, and their elements, none of which is null either.
#[derive(Debug)]
pub struct Lists {
    /// Where each list ends among the elements, after a zero.
    lists: Vec<i32>,
    /// Where each element ends in the text, after a zero.
    elements: Vec<i32>,
    text: Vec<u8>,
}

impl Lists {
    pub fn with_capacity(rows: usize) -> Self {
        let mut lists = Vec::with_capacity(rows + 1);
        lists.push(0);
        Self { lists, elements: vec![0], text: Vec::new() }
    }

    #[inline(always)]
    pub fn append(&mut self, elements: &[Span], row: Placed<'_>) {
        for element in elements {
            let end = self.text.len() + (element.end - element.start);
            if end - self.text.len() <= PADDING {
                // So much is copied faster than as much as is needed.
                self.text.extend_from_slice(row.ahead::<PADDING>(element.start));
                self.text.truncate(end);
            } else {
                self.text.extend_from_slice(row.text(*element));
            }
            self.elements.push(self.text.len() as i32);
        }
        self.lists.push(self.elements.len() as i32 - 1);
    }

    /// The column, leaving this one empty. An error if it holds more than 2 GiB of text.
    pub fn finish(&mut self) -> Result<ListArray, ArrowError> {
        let Self { lists, elements, text } = std::mem::replace(self, Self::with_capacity(0));
        if i32::try_from(text.len()).is_err() {
            return Err(ArrowError::OffsetOverflowError(text.len()));
        }
        let offsets = |offsets: Vec<i32>| OffsetBuffer::new(ScalarBuffer::from(offsets));
        let elements = StringArray::try_new(offsets(elements), Buffer::from(text), None)?;
        ListArray::try_new(Arc::new(list_item()), offsets(lists), Arc::new(elements), None)
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;

    use super::*;
    use crate::decode::texts::Blocks;

    #[test]
    fn lists_come_back() {
        let mut blocks = Blocks::default();
        let mut column = Lists::with_capacity(4);
        let text: String = ('a'..='z').cycle().take(200).collect();
        for _ in 0..2 {
            let lists: [&[usize]; 5] = [&[], &[0, 1, 31], &[32, 33, 100], &[], &[0]];
            for lengths in lists {
                // The last one ends with the event, so that nothing follows that could be copied with it but padding.
                let spans: Vec<_> = lengths.iter().map(|length| Span { start: 200 - length, end: 200 }).collect();
                column.append(&spans, blocks.put(&text, None, ""));
            }
            let array = column.finish().unwrap();
            let found: Vec<Vec<String>> = array
                .iter()
                .map(|list| list.unwrap().as_string::<i32>().iter().map(|text| text.unwrap().to_owned()).collect())
                .collect();
            let expected =
                lists.map(|list| list.iter().map(|length| text[200 - length..].to_owned()).collect::<Vec<_>>());
            assert_eq!(found, expected);
        }
    }
}
