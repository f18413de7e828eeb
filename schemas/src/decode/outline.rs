//! The outline of a compact JSON object: whether it is JSON, where its strings end, and where its outer containers end.
//!
//! One pass, 64 bytes at a time. Without white space between tokens the grammar is a matter of neighbours, which are compared
//! for all bytes of a block at once; only brackets and scalars are looked at one by one.

#[cfg(target_arch = "x86_64")]
use super::block::avx2;
use super::block::{self, Carry, Classes};
use super::escape::is_escape;
use super::scan::scalar_length;

/// Containers this deep are found again: the object itself is at 0, lists in an object in it at 2.
const DEEPEST: usize = 2;
/// Kinds of open containers are bits of a word.
const MAX_DEPTH: usize = 63;

/// Room for outlines, to use again.
#[derive(Debug, Default)]
pub struct Outline {
    /// For each block its quotes that no backslash escapes, and its backslashes, a bit a byte.
    blocks: Vec<(u64, u64)>,
    /// Where outer containers begin and end, by their beginning.
    containers: Vec<(u32, u32)>,
}

impl Outline {
    /// Outlines a text. False if it is not for certain one JSON object without white space between tokens; the outline
    /// is of no use then.
    pub fn fill(&mut self, text: &str) -> bool {
        self.blocks.clear();
        self.containers.clear();
        if !text.starts_with('{') || u32::try_from(text.len()).is_err() {
            return false;
        }
        #[cfg(target_arch = "x86_64")]
        if avx2::found() {
            #[expect(unsafe_code, reason = "the features that the function needs have just been found")]
            // SAFETY: as above.
            return unsafe { fill_avx2(self, text) };
        }
        fill(self, text, block::classify, block::parity)
    }

    /// The first quote at or after a position that no backslash escapes.
    #[inline(always)]
    pub fn quote(&self, from: usize) -> Option<usize> {
        let mut number = from / 64;
        let mut quotes = self.blocks.get(number)?.0 & (u64::MAX << (from % 64));
        while quotes == 0 {
            number += 1;
            quotes = self.blocks.get(number)?.0;
        }
        Some(number * 64 + quotes.trailing_zeros() as usize)
    }

    /// Whether there is a backslash in a range.
    #[inline(always)]
    pub fn escaped(&self, start: usize, end: usize) -> bool {
        let (first, last) = (start / 64, end / 64);
        let backslashes = |number: usize| self.blocks.get(number).map_or(0, |block| block.1);
        let (after_start, before_end) = (u64::MAX << (start % 64), !(u64::MAX << (end % 64)));
        if first == last {
            return backslashes(first) & after_start & before_end != 0;
        }
        backslashes(first) & after_start != 0
            || backslashes(last) & before_end != 0
            || (first + 1..last).any(|number| backslashes(number) != 0)
    }

    /// Beginning and end of the container that was opened as the `number`th.
    #[inline(always)]
    pub fn container(&self, number: usize) -> Option<(usize, usize)> {
        self.containers.get(number).map(|(start, end)| (*start as usize, *end as usize))
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt,pclmulqdq")]
fn fill_avx2(outline: &mut Outline, text: &str) -> bool {
    fill(outline, text, |block| avx2::classify(block), |bits| avx2::parity(bits))
}

#[inline(always)]
fn fill(
    outline: &mut Outline,
    text: &str,
    classify: impl Fn(&[u8; 64]) -> Classes,
    parity: impl Fn(u64) -> u64,
) -> bool {
    let mut pass = Pass { text, containers: &mut outline.containers, before: Before::default(), open: Open::default() };
    let (whole, tail) = text.as_bytes().as_chunks::<64>();
    outline.blocks.reserve(whole.len() + 1);
    for (number, block) in whole.iter().enumerate() {
        let classes = classify(block);
        let Some(quotes) = pass.block(number * 64, &classes, u64::MAX, &parity) else { return false };
        outline.blocks.push((quotes, classes.backslashes));
    }
    if !tail.is_empty() {
        let mut block = [b' '; 64];
        block[..tail.len()].copy_from_slice(tail);
        let classes = classify(&block);
        let used = !(u64::MAX << tail.len());
        let Some(quotes) = pass.block(whole.len() * 64, &classes, used, &parity) else { return false };
        outline.blocks.push((quotes, classes.backslashes));
    }
    let closed = pass.open.depth == 0 && !pass.before.strings.within_string();
    // Nothing follows the end of the object.
    closed && outline.containers.first().is_some_and(|(_, end)| *end as usize + 1 == text.len())
}

/// What a block must know of the ones before: of each kind whether the last byte was one, as the lowest bit.
#[derive(Default)]
struct Before {
    strings: Carry,
    open: u64,
    /// A closing quote or bracket.
    close: u64,
    colon: u64,
    comma: u64,
    scalar: u64,
    /// The end of a string that can be a key.
    key: u64,
    /// 1 if a string that can be a key goes on.
    in_key: u64,
}

/// The containers that are open.
#[derive(Default)]
struct Open {
    /// 1 for an object, 0 for an array; the innermost is the lowest bit.
    kinds: u64,
    depth: usize,
    /// Places of the outermost among the outline's containers.
    places: [usize; DEEPEST + 1],
}

struct Pass<'a, 'o> {
    text: &'a str,
    containers: &'o mut Vec<(u32, u32)>,
    before: Before,
    open: Open,
}

/// Each bit moved to the byte that follows; the last one is for the next block.
#[inline(always)]
fn follows(bits: u64, carry: &mut u64) -> u64 {
    let moved = bits << 1 | *carry;
    *carry = bits >> 63;
    moved
}

impl Pass<'_, '_> {
    /// Checks a block, of which the bytes in `used` count. Its quotes, or nothing if the text is not compact JSON.
    #[inline(always)]
    fn block(&mut self, start: usize, classes: &Classes, used: u64, parity: &impl Fn(u64) -> u64) -> Option<u64> {
        let before = &mut self.before;
        let strings = block::strings(classes, &mut before.strings, parity);
        let outside = !(strings.inside | strings.quotes);
        let (opens, closes) = (classes.opens & outside, classes.closes & outside);
        let (colons, commas) = (classes.colons & outside, classes.commas & outside);
        let scalars = outside & used & !(opens | closes | colons | commas);
        let (opening, closing) = (strings.quotes & strings.inside, strings.quotes & !strings.inside);

        let after_open = follows(opens, &mut before.open);
        let after_close = follows(closes | closing, &mut before.close);
        let after_colon = follows(colons, &mut before.colon);
        let after_comma = follows(commas, &mut before.comma);
        let after_scalar = follows(scalars, &mut before.scalar);
        // A key stands after a bracket or a comma. Added to the bits of its string, its first bit is carried to the end.
        let keys = opening & (after_open | after_comma);
        let (sum, carried) = strings.inside.overflowing_add(keys);
        let (sum, carried_on) = sum.overflowing_add(before.in_key);
        before.in_key = u64::from(carried | carried_on);
        let after_key = follows(sum & closing, &mut before.key);

        let begins = opening | opens;
        let wrong = classes.controls & strings.inside
            | (after_close | after_scalar) & begins
            | after_close & scalars
            | (after_colon | after_comma) & (closes | colons | commas)
            | after_open & (colons | commas)
            | colons & !after_key;
        // In an object each string after a bracket or a comma is a key, and nothing else stands there; in an array none is.
        let wrong_in_object = (after_open | after_comma) & !(opening | closes) | after_key & !colons;
        let fine = wrong == 0
            && self.escapes(start, strings.escaped & !(classes.quotes | classes.backslashes))
            && self.scalars(start, scalars & !after_scalar)
            && self.brackets(start, opens, opens | closes, wrong_in_object, colons);
        fine.then_some(strings.quotes)
    }

    /// Whether all of the escaped bytes make escapes that JSON knows.
    #[inline(always)]
    fn escapes(&self, start: usize, mut escaped: u64) -> bool {
        while escaped != 0 {
            if !is_escape(self.text, start + escaped.trailing_zeros() as usize) {
                return false;
            }
            escaped &= escaped - 1;
        }
        true
    }

    /// Whether what begins at each of the bits is a number or a literal, to the end of it.
    #[inline(always)]
    fn scalars(&self, start: usize, mut firsts: u64) -> bool {
        while firsts != 0 {
            let at = start + firsts.trailing_zeros() as usize;
            let bytes = self.text.as_bytes().get(at..).unwrap_or_default();
            let Some(length) = scalar_length(bytes) else { return false };
            if !matches!(bytes.get(length), Some(b',' | b'}' | b']')) {
                return false;
            }
            firsts &= firsts - 1;
        }
        true
    }

    /// Whether brackets match, and no object and no array has what is wrong in it.
    #[inline(always)]
    fn brackets(&mut self, start: usize, opens: u64, mut brackets: u64, in_object: u64, in_array: u64) -> bool {
        let Open { mut kinds, mut depth, .. } = self.open;
        let wrong = |kinds: u64| if kinds & 1 == 1 { in_object } else { in_array };
        let (mut errors, mut left) = (0, u64::MAX);
        while brackets != 0 {
            let lowest = brackets & brackets.wrapping_neg();
            let up_to = lowest ^ lowest.wrapping_sub(1);
            errors |= wrong(kinds) & up_to & left;
            left &= !up_to;
            brackets ^= lowest;
            let at = start + lowest.trailing_zeros() as usize;
            let kind = u64::from(self.text.as_bytes().get(at).is_some_and(|byte| byte & 0x20 != 0));
            if opens & lowest != 0 {
                if let Some(place) = self.open.places.get_mut(depth) {
                    *place = self.containers.len();
                    self.containers.push((at as u32, 0));
                }
                kinds = kinds << 1 | kind;
                errors |= u64::from(depth >= MAX_DEPTH);
                depth = depth.wrapping_add(1);
            } else {
                errors |= (kinds ^ kind) & 1 | u64::from(depth == 0);
                kinds >>= 1;
                depth = depth.wrapping_sub(1);
                if let Some(place) = self.open.places.get(depth)
                    && let Some(container) = self.containers.get_mut(*place)
                {
                    container.1 = at as u32;
                }
            }
        }
        self.open.kinds = kinds;
        self.open.depth = depth;
        errors | wrong(kinds) & left == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::scan::{Scanner, Scratch, Tokens};
    use crate::decode::tests::compacted;

    fn is_json(text: &str) -> bool {
        let scan = || {
            let mut scanner = Scanner::new(text, Scratch::default())?;
            scanner.value()?;
            scanner.end()
        };
        scan().is_ok()
    }

    /// The outline takes what the scanner takes, if it is compact, and nothing else, on every machine.
    #[track_caller]
    fn check(text: &str) {
        for text in [text, &compacted(text)] {
            let mut outline = Outline::default();
            let taken = outline.fill(text);
            let expected = is_json(text) && text.starts_with('{') && compacted(text) == text;
            assert_eq!(taken, expected, "{text:?}");
            if taken {
                let mut portable = Outline::default();
                assert!(fill(&mut portable, text, block::classify, block::parity), "{text:?}");
                assert_eq!(format!("{portable:?}"), format!("{outline:?}"), "{text:?}");
            }
        }
    }

    #[test]
    fn takes_compact_objects_and_nothing_else() {
        for text in [
            "",
            "{}",
            "{}{}",
            "{},{}",
            "{}}",
            "{}}{}",
            "{}]",
            "[]",
            "7",
            "{\"a\":1}",
            "{\"a\":1},",
            "{\"a\":1}2",
            "{\"a\" :1}",
            "{\"a\":1,}",
            "{\"a\":1,2}",
            "{\"a\":1,[]}",
            "{\"a\":1,\"b\"}",
            "{\"a\"}",
            "{\"a\",\"b\":1}",
            "{\"a\":}",
            "{\"a\"::1}",
            "{\"a\":\"b\":1}",
            "{\"a\":[\"b\":1]}",
            "{\"a\":[1,\"b\",null,{},[]]}",
            "{\"a\":[,1]}",
            "{\"a\":[1,]}",
            "{\"a\":[1}}",
            "{\"a\":{1]}",
            "{\"a\":[}]",
            "{[]}",
            "{1}",
            "{:1}",
            "{,}",
            "{\"a\":{}{}}",
            "{\"a\":[1[2]]}",
            "{\"a\":[1\"b\"]}",
            "{\"a\":[\"b\"1]}",
            "{\"a\":[[]1]}",
            "{\"a\":tru}",
            "{\"a\":01}",
            "{\"a\":-}",
            "{\"a\":1\u{c}}",
            "{\"a\":é}",
            "{\"é\":\"\u{1}\"}",
            "{\"a\":\"\\x\"}",
            "{\"a\":\"\\u12\"}",
            "{\"\\u12aF\\\\\\\"\":\"\\\\\"}",
            "{\"a\":\\\"}",
            "{\"a",
            "{\"a\\",
        ] {
            check(text);
            // The same on either side of a block's end, and across it.
            for length in 50..66 {
                check(&text.replacen('{', &format!("{{\"{}\":0,", "x".repeat(length)), 1));
                check(&text.replacen('{', &format!("{{\"{}\":[", "x".repeat(length)), 1).replacen('}', "]}", 1));
            }
        }
    }

    #[test]
    fn deep_nesting_is_left_to_the_scanner() {
        for (depth, taken) in [(MAX_DEPTH - 1, true), (MAX_DEPTH, false), (1000, false)] {
            let text = format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
            assert!(is_json(&text));
            assert_eq!(Outline::default().fill(&text), taken, "{depth}");
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(4000))]

        #[test]
        fn takes_what_the_scanner_takes(
            text in "\\{(\"[ab]\":|\"\\\\n\"|\"[{},:]{0,2}\"|[\\[\\]{}:,]|[0-9.e-]{1,3}|true|null|[ \\\\\"é\u{1}]){0,24}\\}",
        ) {
            check(&text);
        }
    }
}
