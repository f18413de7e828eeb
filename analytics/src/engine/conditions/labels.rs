//! Conditions on one label column: asked once a distinct text, ever, and looked up for each row.
//!
//! Up to 64 conditions share a table from text to a word of answers. A batch's rows are looked up once for all of them, and
//! the words are turned into a bit a row for each condition.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, DictionaryArray, Int32Array, StringArray};
use arrow::datatypes::Int32Type;
use arrow::record_batch::RecordBatch;
use datafusion::common::Result;
use datafusion::common::internal_err;

use super::leaf::Leaf;
use super::rows::Rows;

/// From so many distinct texts on, what is known of a column is forgotten: an intruder who makes up user agents costs time,
/// never memory.
const MOST_TEXTS: usize = 50_000;
/// Conditions a table.
const WIDTH: usize = 64;

/// What is known of one label column.
#[derive(Default)]
pub struct Labels {
    numbers: HashMap<Arc<str>, usize>,
    texts: Vec<Arc<str>>,
    tables: Vec<Answers>,
    /// For each text of this batch's dictionary, its number in `texts`.
    batch: Option<Vec<usize>>,
}

/// The answers to up to 64 conditions.
#[derive(Default)]
struct Answers {
    /// Conditions by their place among all leaves.
    leaves: Vec<usize>,
    /// For each text asked so far, a bit a condition.
    texts: Vec<u64>,
    null: Option<u64>,
    /// This batch's rows for each condition; empty if not looked up yet.
    batch: Vec<Rows>,
}

impl Labels {
    /// Enters a condition. Returns its table and its place there.
    pub fn add(&mut self, leaf: usize) -> (usize, usize) {
        if self.tables.last().is_none_or(|table| table.leaves.len() == WIDTH) {
            self.tables.push(Answers::default());
        }
        let table = self.tables.len() - 1;
        let answers = &mut self.tables[table];
        answers.leaves.push(leaf);
        // A condition that comes later asks everything anew.
        answers.texts.clear();
        answers.null = None;
        (table, answers.leaves.len() - 1)
    }

    /// Forgets the last batch.
    pub fn begin(&mut self) {
        self.batch = None;
        self.tables.iter_mut().for_each(|table| table.batch.clear());
        if self.texts.len() > MOST_TEXTS {
            self.numbers.clear();
            self.texts.clear();
            self.tables.iter_mut().for_each(|table| table.texts.clear());
        }
    }

    /// The rows of this batch where a condition is true.
    pub fn rows(
        &mut self,
        leaves: &[Leaf],
        batch: &RecordBatch,
        column: usize,
        (table, place): (usize, usize),
    ) -> Result<&Rows> {
        if self.tables[table].batch.is_empty() {
            let Some(labels) = batch.column(column).as_dictionary_opt::<Int32Type>() else {
                return internal_err!("column {column} is not a label column");
            };
            self.look_up(leaves, labels, table)?;
        }
        Ok(&self.tables[table].batch[place])
    }

    fn look_up(&mut self, leaves: &[Leaf], labels: &DictionaryArray<Int32Type>, table: usize) -> Result<()> {
        if self.batch.is_none() {
            self.batch = Some(self.number(labels)?);
        }
        let answers = &mut self.tables[table];
        answers.ask(leaves, &self.texts)?;
        let words: Vec<u64> = self.batch.iter().flatten().map(|number| answers.texts[*number]).collect();
        answers.batch = transposed(labels, &words, answers.null.unwrap_or_default(), answers.leaves.len());
        Ok(())
    }

    /// The number of each text of a batch's dictionary; texts not met before get new ones.
    fn number(&mut self, labels: &DictionaryArray<Int32Type>) -> Result<Vec<usize>> {
        let Some(values) = labels.values().as_string_opt::<i32>() else {
            return internal_err!("labels are text");
        };
        let numbers = values.iter().map(|text| {
            let text = text.unwrap_or_default();
            if let Some(number) = self.numbers.get(text) {
                return *number;
            }
            let text: Arc<str> = text.into();
            self.texts.push(text.clone());
            self.numbers.insert(text, self.texts.len() - 1);
            self.texts.len() - 1
        });
        Ok(numbers.collect())
    }
}

impl Answers {
    /// Asks every condition about the texts it has not been asked about.
    fn ask(&mut self, leaves: &[Leaf], texts: &[Arc<str>]) -> Result<()> {
        let known = self.texts.len();
        if self.null.is_none() {
            let mut null = 0;
            // What looks for something finds nothing in null.
            for (place, leaf) in self.leaves.iter().enumerate().filter(|(_, leaf)| leaves[**leaf].search.is_none()) {
                null |= (leaves[*leaf].over(vec![dictionary(vec![None], &[])?], 1)?.count() as u64) << place;
            }
            self.null = Some(null);
        }
        if known == texts.len() {
            return Ok(());
        }
        let news = &texts[known..];
        let column = dictionary((0..news.len()).map(|n| i32::try_from(n).ok()).collect(), news)?;
        self.texts.resize(texts.len(), 0);
        for (place, leaf) in self.leaves.iter().map(|leaf| &leaves[*leaf]).enumerate() {
            match &leaf.search {
                Some(search) => {
                    let answers = self.texts[known..].iter_mut().zip(news);
                    answers.for_each(|(answer, text)| *answer |= u64::from(search.is(text)) << place);
                }
                None => {
                    let passed = leaf.over(vec![column.clone()], news.len())?;
                    passed.iter().for_each(|row| self.texts[known + row] |= 1 << place);
                }
            }
        }
        Ok(())
    }
}

/// A label column of these keys.
fn dictionary(keys: Vec<Option<i32>>, texts: &[Arc<str>]) -> Result<ArrayRef> {
    let values = StringArray::from_iter_values(texts.iter().map(|text| text.as_ref()));
    Ok(Arc::new(DictionaryArray::<Int32Type>::try_new(Int32Array::from(keys), Arc::new(values))?))
}

/// A word of answers a dictionary entry becomes, through the rows' keys, a bit a row for each condition.
fn transposed(labels: &DictionaryArray<Int32Type>, words: &[u64], null: u64, conditions: usize) -> Vec<Rows> {
    let keys = labels.keys();
    let mut bits: Vec<Vec<u64>> = vec![Vec::with_capacity(keys.len().div_ceil(64)); conditions];
    let mut block = [0u64; 64];
    for start in (0..keys.len()).step_by(64) {
        let end = keys.len().min(start + 64);
        block[end - start..].fill(0);
        match keys.nulls() {
            None => {
                for (word, key) in block.iter_mut().zip(&keys.values()[start..end]) {
                    *word = words.get(*key as usize).copied().unwrap_or_default();
                }
            }
            Some(valid) => {
                for (row, word) in (start..end).zip(&mut block) {
                    let known = valid.is_valid(row).then(|| words.get(keys.value(row) as usize).copied());
                    *word = known.map_or(null, Option::unwrap_or_default);
                }
            }
        }
        transpose(&mut block);
        bits.iter_mut().zip(&block).for_each(|(bits, word)| bits.push(*word));
    }
    bits.into_iter().map(|bits| Rows::from_words(bits, keys.len())).collect()
}

/// Row `i`, bit `j` becomes row `j`, bit `i`: quarters change places, then quarters of quarters.
fn transpose(block: &mut [u64; 64]) {
    let mut width = 32;
    let mut mask = 0x0000_0000_FFFF_FFFF_u64;
    while width != 0 {
        let mut row = 0;
        while row < 64 {
            let swap = (block[row] >> width ^ block[row + width]) & mask;
            block[row + width] ^= swap;
            block[row] ^= swap << width;
            row = (row + width + 1) & !width;
        }
        width >>= 1;
        mask ^= mask << width;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_turned() {
        let mut block = [0u64; 64];
        for (row, word) in block.iter_mut().enumerate() {
            *word = (row as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(row as u32);
        }
        let before = block;
        transpose(&mut block);
        for (row, before) in before.iter().enumerate() {
            for (bit, word) in block.iter().enumerate() {
                assert_eq!(word >> row & 1, before >> bit & 1, "{row} {bit}");
            }
        }
    }
}
