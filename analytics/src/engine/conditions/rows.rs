//! A set of a batch's rows, as bits.

use arrow::array::{Array, BooleanArray};
use arrow::buffer::{BooleanBuffer, Buffer};

const BITS: usize = 64;

/// Rows of one batch. Bits from the batch's length on are zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rows {
    words: Vec<u64>,
    len: usize,
}

impl Rows {
    /// None of so many rows.
    pub fn none(len: usize) -> Self {
        Self { words: vec![0; len.div_ceil(BITS)], len }
    }

    /// All of so many rows.
    pub fn all(len: usize) -> Self {
        let mut rows = Self { words: vec![u64::MAX; len.div_ceil(BITS)], len };
        rows.trim();
        rows
    }

    /// From whole words, the first row in the lowest bit of the first. Bits beyond the length are cleared.
    pub fn from_words(words: Vec<u64>, len: usize) -> Self {
        let mut rows = Self { words, len };
        rows.words.resize(len.div_ceil(BITS), 0);
        rows.trim();
        rows
    }

    /// The rows where a condition is true: null is not.
    pub fn from_condition(array: &BooleanArray) -> Self {
        let chunks = array.values().bit_chunks();
        let mut rows = Self::from_words(chunks.iter_padded().collect(), array.len());
        if let Some(valid) = array.nulls() {
            let words = valid.inner().bit_chunks().iter_padded();
            rows.words.iter_mut().zip(words).for_each(|(word, valid)| *word &= valid);
        }
        rows
    }

    fn trim(&mut self) {
        if let (Some(last), rest @ 1..) = (self.words.last_mut(), self.len % BITS) {
            *last &= (1 << rest) - 1;
        }
    }

    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    pub fn count(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    pub fn intersect(&mut self, other: &Rows) {
        self.words.iter_mut().zip(&other.words).for_each(|(word, other)| *word &= other);
    }

    pub fn unite(&mut self, other: &Rows) {
        self.words.iter_mut().zip(&other.words).for_each(|(word, other)| *word |= other);
    }

    pub fn remove(&mut self, other: &Rows) {
        self.words.iter_mut().zip(&other.words).for_each(|(word, other)| *word &= !other);
    }

    /// Adds a row.
    pub fn insert(&mut self, row: usize) {
        self.words[row / BITS] |= 1 << (row % BITS);
    }

    /// Leaves the rows that pass a test.
    pub fn retain(&mut self, test: impl Fn(usize) -> bool) {
        for (at, word) in self.words.iter_mut().enumerate() {
            let mut left = *word;
            while left != 0 {
                let lowest = left & left.wrapping_neg();
                left ^= lowest;
                if !test(at * BITS + lowest.trailing_zeros() as usize) {
                    *word ^= lowest;
                }
            }
        }
    }

    /// The numbers of the rows, in order.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.words.iter().enumerate().flat_map(|(at, word)| {
            let mut left = *word;
            std::iter::from_fn(move || {
                let bit = (left != 0).then(|| left.trailing_zeros() as usize)?;
                left &= left - 1;
                Some(at * BITS + bit)
            })
        })
    }

    /// Keeps the rows whose place among these rows is true.
    pub fn keep(&self, places: &Rows) -> Rows {
        let mut kept = Self::none(self.len);
        for (place, row) in self.iter().enumerate() {
            let passed = places.words[place / BITS] >> (place % BITS) & 1;
            kept.words[row / BITS] |= passed << (row % BITS);
        }
        kept
    }

    /// These rows' places among `all`, of which they are a part.
    pub fn places(&self, all: &Rows) -> Rows {
        let mut places = Self::none(all.count());
        for (place, row) in all.iter().enumerate() {
            let among = self.words[row / BITS] >> (row % BITS) & 1;
            places.words[place / BITS] |= among << (place % BITS);
        }
        places
    }

    /// As a filter.
    pub fn filter(&self) -> BooleanArray {
        BooleanArray::new(BooleanBuffer::new(Buffer::from_vec(self.words.clone()), 0, self.len), None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_become_rows_and_null_is_not_true() {
        let array = BooleanArray::from((0..150).map(|i| [Some(true), Some(false), None][i % 3]).collect::<Vec<_>>());
        // Slices begin within a byte.
        for start in [0, 1, 7, 64] {
            let slice = array.slice(start, 80);
            let want: Vec<usize> = (0..80).filter(|i| (i + start) % 3 == 0).collect();
            let rows = Rows::from_condition(&slice);
            assert_eq!(rows.iter().collect::<Vec<_>>(), want);
            assert_eq!(Rows::from_condition(&rows.filter()), rows);
            assert_eq!(rows.count(), want.len());
        }
    }

    #[test]
    fn rows_and_their_places_among_others() {
        let odd = Rows::from_words(vec![0xAAAA_AAAA_AAAA_AAAA, u64::MAX], 70);
        assert_eq!(odd.count(), 32 + 6);
        let mut some = odd.clone();
        some.intersect(&Rows::from_words(vec![0b1010], 70));
        assert_eq!(some.iter().collect::<Vec<_>>(), [1, 3]);
        assert_eq!(some.places(&odd).iter().collect::<Vec<_>>(), [0, 1]);
        assert_eq!(odd.keep(&some.places(&odd)), some);
        let mut rest = Rows::all(70);
        rest.remove(&odd);
        assert_eq!(rest.count(), 32);
        rest.unite(&odd);
        assert_eq!(rest, Rows::all(70));
        assert!(Rows::none(0).is_empty() && Rows::all(0).is_empty());
    }
}
