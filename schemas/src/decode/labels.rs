//! A dictionary column under construction, faster than Arrow's own builder for short texts that come again and again.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use arrow::array::{ArrayRef, DictionaryArray, Int32Array, StringBuilder};
use arrow::buffer::{BooleanBuffer, NullBuffer};
use arrow::datatypes::Int32Type;
use arrow::error::ArrowError;

use super::words::ends;

/// How many slots a text is looked for in. Beyond them it is entered once more, so that a sender who
/// provokes collisions costs a larger dictionary, never time.
const PROBES: usize = 16;
const FIRST_SLOTS: usize = 128;

/// Stands for null among the keys until the column is finished.
const NULL: i32 = -1;

/// Texts by number, and a column of numbers.
#[derive(Debug)]
pub struct Labels {
    seed: u64,
    /// Hash and number of each text; a number below zero is an empty slot.
    slots: Vec<(u64, i32)>,
    ends: Vec<usize>,
    text: Vec<u8>,
    keys: Vec<i32>,
    /// The number of the label before: often the next one is the same.
    last: usize,
}

impl Labels {
    pub fn with_capacity(rows: usize) -> Self {
        Self {
            seed: RandomState::new().hash_one(0u8),
            slots: vec![(0, -1); FIRST_SLOTS],
            ends: Vec::new(),
            text: Vec::new(),
            keys: Vec::with_capacity(rows),
            last: 0,
        }
    }

    #[inline(always)]
    pub fn append(&mut self, label: Option<&str>) {
        let key = label.map_or(NULL, |label| self.number(label.as_bytes()));
        self.keys.push(key);
    }

    pub fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        let mut values = StringBuilder::with_capacity(self.ends.len(), self.text.len());
        for number in 0..self.ends.len() {
            // Whole texts were put in.
            values.append_value(String::from_utf8_lossy(self.label(number)));
        }
        let keys = std::mem::take(&mut self.keys);
        let valid = || BooleanBuffer::collect_bool(keys.len(), |row| keys[row] != NULL);
        let nulls = keys.contains(&NULL).then(|| NullBuffer::new(valid()));
        let keys = Int32Array::try_new(keys.into(), nulls)?;
        self.slots.clear();
        self.slots.resize(FIRST_SLOTS, (0, -1));
        self.ends.clear();
        self.text.clear();
        self.last = 0;
        Ok(Arc::new(DictionaryArray::<Int32Type>::try_new(keys, Arc::new(values.finish()))?))
    }

    #[inline(always)]
    fn number(&mut self, label: &[u8]) -> i32 {
        if self.last < self.ends.len() && same(self.label(self.last), label) {
            return self.last as i32;
        }
        let number = self.look_up(label);
        self.last = number as usize;
        number
    }

    fn look_up(&mut self, label: &[u8]) -> i32 {
        let hash = self.hash(label);
        let mask = self.slots.len() - 1;
        for probe in 0..PROBES {
            let slot = (hash as usize).wrapping_add(probe) & mask;
            let (other, number) = self.slots[slot];
            if number < 0 {
                return self.enter(slot, hash, label);
            }
            if other == hash && same(self.label(number as usize), label) {
                return number;
            }
        }
        self.enter(hash as usize & mask, hash, label)
    }

    #[cold]
    fn enter(&mut self, slot: usize, hash: u64, label: &[u8]) -> i32 {
        let number = i32::try_from(self.ends.len()).unwrap_or(i32::MAX);
        self.text.extend_from_slice(label);
        self.ends.push(self.text.len());
        self.slots[slot] = (hash, number);
        if self.ends.len() * 2 > self.slots.len() {
            self.grow();
        }
        number
    }

    fn grow(&mut self) {
        let mask = self.slots.len() * 4 - 1;
        let old = std::mem::replace(&mut self.slots, vec![(0, -1); mask + 1]);
        for (hash, number) in old.into_iter().filter(|slot| slot.1 >= 0) {
            let places = (0..PROBES).map(|probe| (hash as usize).wrapping_add(probe) & mask);
            for place in places {
                if self.slots[place].1 < 0 {
                    self.slots[place] = (hash, number);
                    break;
                }
            }
        }
    }

    #[inline(always)]
    fn label(&self, number: usize) -> &[u8] {
        let start = number.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.text[start..self.ends[number]]
    }

    /// Sixteen bytes a step; the last step overlaps the one before.
    #[inline(always)]
    fn hash(&self, bytes: &[u8]) -> u64 {
        let mix = |hash: u64, [first, last]: [u64; 2]| {
            let product = u128::from(first ^ hash) * u128::from(last ^ 0x9e37_79b9_7f4a_7c15);
            product as u64 ^ (product >> 64) as u64
        };
        let mut hash = self.seed ^ bytes.len() as u64;
        if bytes.len() <= 16 {
            return mix(hash, ends(bytes));
        }
        let words = |sixteen: &[u8; 16]| {
            let [first, last] = *sixteen.as_chunks::<8>().0 else { return [0; 2] };
            [u64::from_le_bytes(first), u64::from_le_bytes(last)]
        };
        let (chunks, _) = bytes.as_chunks::<16>();
        for chunk in chunks {
            hash = mix(hash, words(chunk));
        }
        bytes.last_chunk::<16>().map_or(hash, |chunk| mix(hash, words(chunk)))
    }
}

/// Whether two texts are equal: short ones without a call.
#[inline(always)]
fn same(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && ends(one) == ends(other) && (one.len() <= 16 || one == other)
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, AsArray};

    use super::*;

    #[test]
    fn texts_come_back_and_repeat_once() {
        let mut labels = Labels::with_capacity(8);
        for round in 0..2 {
            let texts: Vec<Option<String>> = (0..4000)
                .map(|i| (i % 7 != 0).then(|| format!("{round}-{}", "x".repeat(i % 40) + &(i % 500).to_string())))
                .collect();
            texts.iter().for_each(|text| labels.append(text.as_deref()));
            let array = labels.finish().unwrap();
            let typed = array.as_dictionary::<Int32Type>().downcast_dict::<arrow::array::StringArray>().unwrap();
            assert_eq!(typed.into_iter().map(|t| t.map(str::to_owned)).collect::<Vec<_>>(), texts);
            assert!(array.as_dictionary::<Int32Type>().values().len() <= 4000);
        }
    }

    #[test]
    fn each_text_is_entered_once() {
        let mut labels = Labels::with_capacity(8);
        for i in 0..10_000 {
            labels.append(Some(["get", "list", "", "a rather long user agent/1.0"][i % 4]));
        }
        assert_eq!(labels.finish().unwrap().as_dictionary::<Int32Type>().values().len(), 4);
    }
}
