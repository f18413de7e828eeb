//! The outline of a compact JSON object: whether it is JSON, where its strings end, and where its outer containers end.
//!
//! Without white space between tokens the grammar is a matter of neighbours. A first pass compares them, for 64 bytes at
//! once; a second one looks at brackets and scalars one by one.

#[cfg(target_arch = "x86_64")]
use super::block::avx2;
use super::block::{self, Carry, Classes};
use super::escape::is_escape;
use super::index::LONGEST;
use super::scan::scalar_length;

/// Containers this deep are found again: the object itself is at 0, lists in an object in it at 2.
const DEEPEST: usize = 2;

/// Room for outlines, to use again.
#[derive(Debug, Default)]
pub struct Outline {
    ascii: bool,
    blocks: Vec<Block>,
    /// Where outer containers begin and end, by their end.
    containers: Vec<(u32, u32)>,
}

/// What is known of 64 bytes, a bit each.
#[derive(Clone, Copy, Debug, Default)]
struct Block {
    /// Quotes that no backslash escapes.
    quotes: u64,
    backslashes: u64,
    /// Brackets outside strings.
    brackets: u64,
    /// Where numbers and literals begin.
    scalars: u64,
    /// Escaped bytes other than quotes and backslashes.
    escaped: u64,
    strange_in_array: u64,
    strange_in_object: u64,
}

impl Outline {
    /// Outlines a text. False if it is not for certain one JSON object without white space between tokens; the outline
    /// is of no use then. Whether it is UTF-8 beyond ASCII is not looked at.
    pub fn fill(&mut self, text: &[u8]) -> bool {
        if text.first() != Some(&b'{') || text.len() > LONGEST {
            return false;
        }
        #[cfg(target_arch = "x86_64")]
        if avx2::found() {
            #[expect(unsafe_code, reason = "the features that the function needs have just been found")]
            // SAFETY: as above.
            return unsafe { fill_avx2(self, text) };
        }
        fill_anywhere(self, text)
    }

    /// Whether all of the text is ASCII.
    pub fn is_ascii(&self) -> bool {
        self.ascii
    }

    /// Where the string ends whose first byte after the quote is at `from`, and whether there is a backslash in it.
    #[inline(always)]
    pub fn string(&self, from: usize) -> Option<(usize, bool)> {
        let mut number = from / 64;
        let Block { mut quotes, mut backslashes, .. } = *self.blocks.get(number)?;
        let after = u64::MAX << (from % 64);
        (quotes, backslashes) = (quotes & after, backslashes & after);
        let mut escaped = 0;
        while quotes == 0 {
            escaped |= backslashes;
            number += 1;
            Block { quotes, backslashes, .. } = *self.blocks.get(number)?;
        }
        // The backslashes below the lowest quote.
        escaped |= backslashes & !quotes & quotes.wrapping_sub(1);
        Some((number * 64 + quotes.trailing_zeros() as usize, escaped != 0))
    }

    /// Beginning and end of the container that was closed as the `number`th.
    #[inline(always)]
    pub fn container(&self, number: usize) -> Option<(usize, usize)> {
        self.containers.get(number).map(|(start, end)| (*start as usize, *end as usize))
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt,pclmulqdq")]
fn fill_avx2(outline: &mut Outline, text: &[u8]) -> bool {
    let mut bytes = avx2::Bytes::new();
    let classify = |block: &_| {
        bytes.add(block);
        avx2::classify(block)
    };
    let compact = compare(&mut outline.blocks, text, classify, |bits| avx2::parity(bits));
    let (ascii, no_controls) = bytes.are_plain();
    outline.ascii = ascii;
    compact.is_some_and(|scalars| no_controls && follow(outline, text, scalars))
}

fn fill_anywhere(outline: &mut Outline, text: &[u8]) -> bool {
    let mut bytes = block::Bytes::default();
    let classify = |block: &_| {
        bytes.add(block);
        block::classify(block)
    };
    let compact = compare(&mut outline.blocks, text, classify, block::parity);
    let (ascii, no_controls) = bytes.are_plain();
    outline.ascii = ascii;
    compact.is_some_and(|scalars| no_controls && follow(outline, text, scalars))
}

/// The first pass: how many bytes numbers and literals have, if no two neighbours are wrong anywhere. Control characters,
/// which are wrong within strings as well as outside, are left to the caller.
#[inline(always)]
fn compare(
    blocks: &mut Vec<Block>,
    text: &[u8],
    mut classify: impl FnMut(&[u8; 64]) -> Classes,
    parity: impl Fn(u64) -> u64,
) -> Option<u32> {
    let (whole, tail) = text.as_chunks::<64>();
    // The object stands where a value may stand.
    let mut before = Before { colon: 1, ..Before::default() };
    // Each is written anew.
    blocks.resize(text.len().div_ceil(64), Block::default());
    for (bytes, block) in whole.iter().zip(blocks.iter_mut()) {
        *block = before.block(&classify(bytes), u64::MAX, &parity);
    }
    if let Some(block) = blocks.get_mut(whole.len()) {
        let mut bytes = [b' '; 64];
        bytes[..tail.len()].copy_from_slice(tail);
        *block = before.block(&classify(&bytes), !(u64::MAX << tail.len()), &parity);
    }
    (before.wrong == 0 && !before.strings.within_string()).then_some(before.scalars)
}

/// What a block must know of the ones before: of each kind whether the last byte was one, as the lowest bit.
#[derive(Default)]
struct Before {
    strings: Carry,
    open: u64,
    colon: u64,
    comma: u64,
    /// The end of a string that can be a key.
    key: u64,
    /// 1 if a string that can be a key goes on.
    in_key: u64,
    /// Bytes that must not stand where they do, of all blocks.
    wrong: u64,
    /// Bytes of numbers and literals.
    scalars: u32,
}

/// Each bit moved to the byte that follows; the last one is for the next block.
#[inline(always)]
fn follows(bits: u64, carry: &mut u64) -> u64 {
    let moved = bits << 1 | *carry;
    *carry = bits >> 63;
    moved
}

impl Before {
    /// The next block, of which the bytes in `used` count.
    #[inline(always)]
    fn block(&mut self, classes: &Classes, used: u64, parity: &impl Fn(u64) -> u64) -> Block {
        let strings = block::strings(classes, &mut self.strings, parity);
        let outside = !(strings.inside | strings.quotes);
        let (opens, closes) = (classes.opens & outside, classes.closes & outside);
        let (colons, commas) = (classes.colons & outside, classes.commas & outside);
        let scalars = outside & used & !(classes.opens | classes.closes | classes.colons | classes.commas);
        let (opening, closing) = (strings.quotes & strings.inside, strings.quotes & !strings.inside);
        self.scalars += scalars.count_ones();

        let after_open = follows(opens, &mut self.open);
        let after_colon = follows(colons, &mut self.colon);
        let after_comma = follows(commas, &mut self.comma);
        let after_open_or_comma = after_open | after_comma;
        // What may begin a value. All other bytes outside strings follow something that ends one.
        let begin = after_open_or_comma | after_colon;
        // A key stands after a bracket or a comma. Added to the bits of its string, its first bit is carried to the end.
        let (sum, carried) = strings.inside.overflowing_add(opening & after_open_or_comma);
        let (sum, carried_on) = sum.overflowing_add(self.in_key);
        self.in_key = u64::from(carried | carried_on);
        let after_key = follows(sum & closing, &mut self.key);

        self.wrong |=
            (opening | opens) & !begin | commas & begin | closes & (after_colon | after_comma) | colons & !after_key;
        Block {
            quotes: strings.quotes,
            backslashes: classes.backslashes,
            brackets: opens | closes,
            scalars: scalars & begin,
            escaped: strings.escaped & !(classes.quotes | classes.backslashes),
            // In an object each string after a bracket or a comma is a key, and nothing else stands there; in an array none
            // is.
            strange_in_array: colons,
            strange_in_object: after_open_or_comma & !(opening | closes) | after_key & !colons,
        }
    }
}

/// The second pass: whether brackets match, with nothing strange between them and nothing after the last, and scalars and
/// escapes are what JSON knows. `scalars` says how many bytes of scalars there are: one that begins where no value may begin
/// is not among those that are looked at.
#[inline(always)]
fn follow(outline: &mut Outline, text: &[u8], scalars: u32) -> bool {
    let containers = &mut outline.containers;
    containers.clear();
    // The kinds of the open containers, 1 for an object and 0 for an array, below a 1; the innermost is the lowest bit.
    let mut kinds = 1_u64;
    // Where the open outer containers begin.
    let mut starts = [0_u32; DEEPEST + 1];
    let (mut errors, mut deepest, mut scalars_left) = (0, 0, scalars as usize);
    for (number, block) in outline.blocks.iter().enumerate() {
        let start = number * 64;
        // Which bytes stand in objects.
        let mut in_object = (kinds & 1).wrapping_neg();
        let mut brackets = block.brackets;
        while brackets != 0 {
            let place = brackets.trailing_zeros();
            brackets &= brackets.wrapping_sub(1);
            let at = start + place as usize;
            // Curly and square brackets differ in one bit, opening and closing ones in another.
            let byte = u64::from(text.get(at).copied().unwrap_or(0));
            let (kind, opens) = (byte >> 5 & 1, byte >> 1 & 1);
            let before = kinds;
            errors |= !opens & (kinds ^ kind) & 1;
            kinds = if opens == 1 { kinds << 1 | kind } else { kinds >> 1 };
            deepest |= kinds;
            in_object ^= ((before ^ kinds) & 1).wrapping_neg() << place << 1;
            // The same for both brackets of a container: the kinds of those around it.
            let around = before.min(kinds);
            if around < 2 << DEEPEST {
                let begins = &mut starts[(around.max(1).ilog2() as usize).min(DEEPEST)];
                // Nobody can guess which bracket comes next: an opening one is taken off again.
                *begins = if opens == 1 { at as u32 } else { *begins };
                containers.push((*begins, at as u32));
                containers.truncate(containers.len() - opens as usize);
            }
        }
        errors |= in_object & block.strange_in_object | !in_object & block.strange_in_array;
        if block.scalars != 0 {
            let Some(length) = each_scalar(text, start, block.scalars) else { return false };
            scalars_left = scalars_left.wrapping_sub(length);
        }
        if block.escaped != 0 && !escapes(text, start, block.escaped) {
            return false;
        }
    }
    // The whole ends last, with the text.
    let ended = kinds == 1 && containers.last().is_some_and(|whole| *whole == (0, text.len() as u32 - 1));
    ended && errors == 0 && deepest >> 63 == 0 && scalars_left == 0
}

/// Whether all of the escaped bytes make escapes that JSON knows.
#[inline(never)]
fn escapes(text: &[u8], start: usize, mut escaped: u64) -> bool {
    while escaped != 0 {
        if !is_escape(text, start + escaped.trailing_zeros() as usize) {
            return false;
        }
        escaped &= escaped - 1;
    }
    true
}

/// The length of all that begins at the bits, if each is a number or a literal, to the end of it.
#[inline(never)]
fn each_scalar(text: &[u8], start: usize, mut firsts: u64) -> Option<usize> {
    let mut sum = 0;
    while firsts != 0 {
        let at = start + firsts.trailing_zeros() as usize;
        let bytes = text.get(at..).unwrap_or_default();
        let length = scalar_length(bytes)?;
        if !matches!(bytes.get(length), Some(b',' | b'}' | b']')) {
            return None;
        }
        sum += length;
        firsts &= firsts - 1;
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A bit of a word is for each open container, and two are not.
    const MAX_DEPTH: usize = 62;
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
            let taken = outline.fill(text.as_bytes());
            let expected = is_json(text) && text.starts_with('{') && compacted(text) == text;
            assert_eq!(taken, expected, "{text:?}");
            if taken {
                let mut portable = Outline::default();
                assert!(fill_anywhere(&mut portable, text.as_bytes()), "{text:?}");
                assert_eq!(outline.is_ascii(), text.is_ascii());
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
            assert_eq!(Outline::default().fill(text.as_bytes()), taken, "{depth}");
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
