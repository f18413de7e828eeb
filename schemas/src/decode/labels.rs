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
    slots: Vec<Slot>,
    /// Where each text ends among all.
    ends: Vec<usize>,
    text: Vec<u8>,
    keys: Vec<i32>,
    /// That of the label before: often the next one is the same.
    last: Slot,
}

/// What is known of a text: enough to tell a short one without looking at it.
#[derive(Clone, Copy, Debug)]
struct Slot {
    ends: [u64; 2],
    length: usize,
    /// Below zero there is no text.
    number: i32,
}

const EMPTY: Slot = Slot { ends: [0; 2], length: 0, number: -1 };
/// Longer texts are more than their ends.
const SHORT: usize = 16;

impl Labels {
    pub fn with_capacity(rows: usize) -> Self {
        Self {
            seed: RandomState::new().hash_one(0u8),
            slots: vec![EMPTY; FIRST_SLOTS],
            ends: Vec::new(),
            text: Vec::new(),
            keys: Vec::with_capacity(rows),
            last: EMPTY,
        }
    }

    /// Makes room for so many rows, or leaves out those beyond. Without a label a row has null.
    pub fn resize(&mut self, rows: usize) {
        self.keys.resize(rows, NULL);
    }

    /// Puts a row's label, for which there is room.
    #[inline(always)]
    pub fn put(&mut self, row: usize, label: &[u8]) {
        let number = self.number(label);
        if let Some(key) = self.keys.get_mut(row) {
            *key = number;
        }
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
        self.slots.resize(FIRST_SLOTS, EMPTY);
        self.ends.clear();
        self.text.clear();
        self.last = EMPTY;
        Ok(Arc::new(DictionaryArray::<Int32Type>::try_new(keys, Arc::new(values.finish()))?))
    }

    #[inline(always)]
    fn number(&mut self, label: &[u8]) -> i32 {
        let wanted = Slot { ends: ends(label), length: label.len(), number: -1 };
        if !self.holds(&self.last, &wanted, label) {
            self.last = self.look_up(wanted, label);
        }
        self.last.number
    }

    /// Whether a slot is that of a label, of which `wanted` tells all but the number.
    #[inline(always)]
    fn holds(&self, slot: &Slot, wanted: &Slot, label: &[u8]) -> bool {
        slot.number >= 0
            && slot.ends == wanted.ends
            && slot.length == wanted.length
            && (label.len() <= SHORT || self.label(slot.number as usize) == label)
    }

    fn look_up(&mut self, wanted: Slot, label: &[u8]) -> Slot {
        let hash = self.hash(&wanted, label);
        let mask = self.slots.len() - 1;
        for probe in 0..PROBES {
            let place = (hash as usize).wrapping_add(probe) & mask;
            let slot = self.slots[place];
            if slot.number < 0 {
                return self.enter(place, wanted, label);
            }
            if self.holds(&slot, &wanted, label) {
                return slot;
            }
        }
        self.enter(hash as usize & mask, wanted, label)
    }

    #[cold]
    fn enter(&mut self, place: usize, mut slot: Slot, label: &[u8]) -> Slot {
        slot.number = i32::try_from(self.ends.len()).unwrap_or(i32::MAX);
        self.text.extend_from_slice(label);
        self.ends.push(self.text.len());
        self.slots[place] = slot;
        if self.ends.len() * 2 > self.slots.len() {
            self.grow();
        }
        slot
    }

    fn grow(&mut self) {
        let mask = self.slots.len() * 4 - 1;
        let old = std::mem::replace(&mut self.slots, vec![EMPTY; mask + 1]);
        for slot in old.into_iter().filter(|slot| slot.number >= 0) {
            let hash = self.hash(&slot, self.label(slot.number as usize));
            let places = (0..PROBES).map(|probe| (hash as usize).wrapping_add(probe) & mask);
            for place in places {
                if self.slots[place].number < 0 {
                    self.slots[place] = slot;
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

    /// Sixteen bytes a step, then the ends.
    #[inline(always)]
    fn hash(&self, slot: &Slot, label: &[u8]) -> u64 {
        let mix = |hash: u64, [first, last]: [u64; 2]| {
            let product = u128::from(first ^ hash) * u128::from(last ^ 0x9e37_79b9_7f4a_7c15);
            product as u64 ^ (product >> 64) as u64
        };
        let mut hash = self.seed ^ slot.length as u64;
        if slot.length > SHORT {
            for chunk in label.as_chunks::<SHORT>().0 {
                hash = mix(hash, ends(chunk));
            }
            // What is left over, with some of what came before.
            hash = label.last_chunk::<SHORT>().map_or(hash, |chunk| mix(hash, ends(chunk)));
        }
        mix(hash, slot.ends)
    }
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
            labels.resize(texts.len());
            for (row, text) in texts.iter().enumerate() {
                text.iter().for_each(|text| labels.put(row, text.as_bytes()));
            }
            let array = labels.finish().unwrap();
            let typed = array.as_dictionary::<Int32Type>().downcast_dict::<arrow::array::StringArray>().unwrap();
            assert_eq!(typed.into_iter().map(|t| t.map(str::to_owned)).collect::<Vec<_>>(), texts);
            assert!(array.as_dictionary::<Int32Type>().values().len() <= 4000);
        }
    }

    #[test]
    fn each_text_is_entered_once() {
        let mut labels = Labels::with_capacity(8);
        labels.resize(10_000);
        for i in 0..10_000 {
            labels.put(i, ["get", "list", "", "a rather long user agent/1.0"][i % 4].as_bytes());
        }
        assert_eq!(labels.finish().unwrap().as_dictionary::<Int32Type>().values().len(), 4);
    }
}
