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
#[derive(Debug)]
pub struct Outline {
    ascii: bool,
    blocks: Vec<Block>,
    /// The bytes of the last block unless it is whole.
    last: [u8; 64],
    /// Blocks with escapes, by where they begin, and a bit for each of their escaped bytes.
    escapes: Vec<(usize, u64)>,
    /// Where the brackets of outer containers stand. There is room for all brackets.
    outer: Vec<u32>,
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
    strange_in_array: u64,
    strange_in_object: u64,
}

impl Default for Outline {
    fn default() -> Self {
        Self { ascii: false, blocks: Vec::new(), last: [b' '; 64], escapes: Vec::new(), outer: Vec::new() }
    }
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

    /// Where the brackets of outer containers stand, in order.
    pub fn brackets(&self) -> &[u32] {
        &self.outer
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
    let compact = compare(outline, text, classify, |bits| avx2::parity(bits));
    let (ascii, no_controls) = bytes.are_plain();
    outline.ascii = ascii;
    compact.is_some_and(|counted| no_controls && follow(outline, text, counted, |bits| avx2::parity(bits)))
}

fn fill_anywhere(outline: &mut Outline, text: &[u8]) -> bool {
    let mut bytes = block::Bytes::default();
    let classify = |block: &_| {
        bytes.add(block);
        block::classify(block)
    };
    let compact = compare(outline, text, classify, block::parity);
    let (ascii, no_controls) = bytes.are_plain();
    outline.ascii = ascii;
    compact.is_some_and(|counted| no_controls && follow(outline, text, counted, block::parity))
}

/// What the first pass counts.
struct Counted {
    /// Bytes of numbers and literals.
    scalars: u32,
    brackets: u32,
}

/// The first pass: what it counts, if no two neighbours are wrong anywhere. Control characters, which are wrong within
/// strings as well as outside, are left to the caller.
#[inline(always)]
fn compare(
    outline: &mut Outline,
    text: &[u8],
    mut classify: impl FnMut(&[u8; 64]) -> Classes,
    parity: impl Fn(u64) -> u64,
) -> Option<Counted> {
    let Outline { blocks, last, escapes, .. } = outline;
    let (whole, tail) = text.as_chunks::<64>();
    let mut before = Before { colon_or_comma: 1, ..Before::default() };
    escapes.clear();
    // Each is written anew.
    blocks.resize(text.len().div_ceil(64), Block::default());
    let mut start = 0;
    for (bytes, block) in whole.iter().zip(blocks.iter_mut()) {
        *block = before.block(&classify(bytes), u64::MAX, &parity, |escaped| escapes.push((start, escaped)));
        start += 64;
    }
    if let Some(block) = blocks.get_mut(whole.len()) {
        *last = [b' '; 64];
        last[..tail.len()].copy_from_slice(tail);
        let used = !(u64::MAX << tail.len());
        *block = before.block(&classify(last), used, &parity, |escaped| escapes.push((start, escaped)));
    }
    let right = before.wrong == 0 && !before.strings.within_string();
    right.then_some(Counted { scalars: before.scalars, brackets: before.brackets })
}

/// What a block must know of the ones before: of each kind whether the last byte was one, as the lowest bit.
#[derive(Default)]
struct Before {
    strings: Carry,
    open_or_comma: u64,
    /// At the start as well: the object stands where a value may stand.
    colon_or_comma: u64,
    /// 1 if a string that can be a key goes on, or has just ended.
    key: u64,
    /// Bytes that must not stand where they do, of all blocks.
    wrong: u64,
    /// Bytes of numbers and literals.
    scalars: u32,
    brackets: u32,
}

/// Each bit moved to the byte that follows; the last one is for the next block.
#[inline(always)]
fn follows(bits: u64, carry: &mut u64) -> u64 {
    let moved = bits << 1 | *carry;
    *carry = bits >> 63;
    moved
}

impl Before {
    /// The next block, of which the bytes in `used` count. `escapes` hears of those in it.
    #[inline(always)]
    fn block(&mut self, classes: &Classes, used: u64, parity: &impl Fn(u64) -> u64, escapes: impl FnMut(u64)) -> Block {
        let strings = block::strings(classes, &mut self.strings, parity, escapes);
        let within = strings.inside | strings.quotes;
        let (opens, closes) = (classes.opens & !within, classes.closes & !within);
        let (colons, commas) = (classes.colons & !within, classes.commas & !within);
        let scalars = used & !(within | opens | closes | colons | commas);
        let brackets = opens | closes;
        self.scalars += scalars.count_ones();
        self.brackets += brackets.count_ones();

        let after_open_or_comma = follows(opens | commas, &mut self.open_or_comma);
        let after_colon_or_comma = follows(colons | commas, &mut self.colon_or_comma);
        // What may begin a value. All other bytes outside strings follow something that ends one.
        let begin = after_open_or_comma | after_colon_or_comma;
        let opening = strings.quotes & strings.inside;
        // A key stands after a bracket or a comma. Added to the bits of its string, its first bit is carried to the byte after
        // the last.
        let (sum, carried) = within.overflowing_add(opening & after_open_or_comma);
        let (sum, carried_on) = sum.overflowing_add(self.key);
        self.key = u64::from(carried | carried_on);
        let after_key = sum & !within;

        self.wrong |= (opening | opens) & !begin | commas & begin | closes & after_colon_or_comma | colons & !after_key;
        Block {
            quotes: strings.quotes,
            backslashes: classes.backslashes,
            brackets,
            scalars: scalars & begin,
            // In an object each string after a bracket or a comma is a key, and nothing else stands there; in an array none
            // is.
            strange_in_array: colons,
            strange_in_object: after_open_or_comma & !(opening | closes) | after_key & !colons,
        }
    }
}

/// The second pass: whether brackets match, with nothing strange between them and nothing after the last, and scalars and
/// escapes are what JSON knows. `counted` says how many bytes of scalars there are: one that begins where no value may begin
/// is not among those that are looked at.
#[inline(always)]
fn follow(outline: &mut Outline, text: &[u8], counted: Counted, parity: impl Fn(u64) -> u64) -> bool {
    let Outline { blocks, last, escapes, outer, .. } = outline;
    // One more than there are: each is written before it is known whether it is an outer one.
    outer.resize(counted.brackets as usize + 1, 0);
    let (places, mut outers) = (outer.as_mut_slice(), 0);
    // The kinds of the open containers, 1 for an object and 0 for an array, below a 1; the innermost is the lowest bit.
    let mut kinds = 1_u64;
    let (mut errors, mut strange, mut deepest, mut outermost) = (0, 0, 0, 0_u32);
    let mut scalars_left = counted.scalars as usize;
    let whole = text.as_chunks().0;
    for (number, block) in blocks.iter().enumerate() {
        let (bytes, start) = (whole.get(number).unwrap_or(last), number as u32 * 64);
        // Which brackets stand between an object and an array.
        let mut changes = 0;
        let within = (kinds & 1).wrapping_neg();
        let mut brackets = block.brackets;
        while brackets != 0 {
            let place = brackets.trailing_zeros();
            brackets &= brackets.wrapping_sub(1);
            // Curly and square brackets differ in one bit, opening and closing ones in another.
            let byte = u64::from(bytes[place as usize % 64]);
            let kind = byte >> 5 & 1;
            let before = kinds;
            errors |= (kinds ^ kind) & byte >> 2;
            kinds = if byte & 2 != 0 { kinds << 1 | kind } else { kinds >> 1 };
            deepest |= kinds;
            changes |= ((before ^ kinds) & 1) << place;
            // The same highest bit for both brackets of a container: that of the kinds of those around it and its own.
            let depth = before | kinds;
            outermost += u32::from(depth < 4);
            if let Some(next) = places.get_mut(outers) {
                *next = start + place;
            }
            outers += usize::from(depth < 4 << DEEPEST);
        }
        // Which bytes stand in objects.
        let in_object = parity(changes) << 1 ^ within;
        strange |= in_object & block.strange_in_object | !in_object & block.strange_in_array;
        if block.scalars != 0 {
            let Some(length) = each_scalar(text, start as usize, block.scalars) else { return false };
            scalars_left = scalars_left.wrapping_sub(length);
        }
    }
    outer.truncate(outers);
    // The whole is the only container that stands in none, and ends with the text.
    let ended = kinds == 1 && outermost == 2 && outer.last().is_some_and(|end| *end as usize == text.len() - 1);
    let right = ended && errors & 1 == 0 && strange == 0 && deepest >> 63 == 0 && scalars_left == 0;
    right && escapes.iter().all(|(start, escaped)| are_escapes(text, *start, *escaped))
}

/// Whether all of the escaped bytes of a block make escapes that JSON knows.
fn are_escapes(text: &[u8], start: usize, mut escaped: u64) -> bool {
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
        let bytes = text.get(start + firsts.trailing_zeros() as usize..).unwrap_or_default();
        sum += match small_number(bytes) {
            Some(length) => length,
            None => scalar_length(bytes).filter(|length| ends_value(bytes.get(*length).copied()))?,
        };
        firsts &= firsts - 1;
    }
    Some(sum)
}

/// The length of a whole number below ten million, which most scalars are. What it is `None` for may be one all the same.
#[inline(always)]
fn small_number(bytes: &[u8]) -> Option<usize> {
    const EACH: u64 = u64::MAX / 0xff;
    let word = u64::from_le_bytes(*bytes.first_chunk()?);
    // Of a digit the high half is 3, and still is if 6 is added to the low half.
    let strange = (word ^ (EACH * 0x30) | word.wrapping_add(EACH * 0x06) ^ (EACH * 0x30)) & (EACH * 0xf0);
    let length = strange.trailing_zeros() as usize / 8;
    let padded = word as u8 == b'0' && length > 1;
    (length.wrapping_sub(1) < 7 && !padded && ends_value(Some((word >> (8 * length)) as u8))).then_some(length)
}

fn ends_value(byte: Option<u8>) -> bool {
    matches!(byte, Some(b',' | b'}' | b']'))
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
