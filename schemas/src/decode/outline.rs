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
/// Kinds of open containers are bits of a word.
const MAX_DEPTH: usize = 63;

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
    compact && no_controls && follow(outline, text)
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
    compact && no_controls && follow(outline, text)
}

/// The first pass: whether no two neighbours are wrong anywhere. Control characters, which are wrong within strings as well
/// as outside, are left to the caller.
#[inline(always)]
fn compare(
    blocks: &mut Vec<Block>,
    text: &[u8],
    mut classify: impl FnMut(&[u8; 64]) -> Classes,
    parity: impl Fn(u64) -> u64,
) -> bool {
    let (whole, tail) = text.as_chunks::<64>();
    blocks.clear();
    blocks.resize(whole.len() + 1, Block::default());
    let mut before = Before::default();
    let mut wrong = 0;
    for (bytes, block) in whole.iter().zip(blocks.iter_mut()) {
        wrong |= compare_block(&classify(bytes), u64::MAX, &parity, &mut before, block);
    }
    if let Some(block) = blocks.last_mut()
        && !tail.is_empty()
    {
        let mut bytes = [b' '; 64];
        bytes[..tail.len()].copy_from_slice(tail);
        wrong |= compare_block(&classify(&bytes), !(u64::MAX << tail.len()), &parity, &mut before, block);
    }
    wrong == 0 && !before.strings.within_string()
}

/// What a block must know of the ones before: of each kind whether the last byte was one, as the lowest bit.
#[derive(Default)]
struct Before {
    strings: Carry,
    /// A colon or a comma.
    separator: u64,
    /// An opening bracket or a comma.
    open_or_comma: u64,
    /// A closing quote or bracket.
    close: u64,
    scalar: u64,
    /// The end of a string that can be a key.
    key: u64,
    /// 1 if a string that can be a key goes on.
    in_key: u64,
}

/// Each bit moved to the byte that follows; the last one is for the next block.
#[inline(always)]
fn follows(bits: u64, carry: &mut u64) -> u64 {
    let moved = bits << 1 | *carry;
    *carry = bits >> 63;
    moved
}

/// Fills a block, of which the bytes in `used` count. Returns the bytes that must not stand where they do.
#[inline(always)]
fn compare_block(
    classes: &Classes,
    used: u64,
    parity: &impl Fn(u64) -> u64,
    before: &mut Before,
    block: &mut Block,
) -> u64 {
    let strings = block::strings(classes, &mut before.strings, parity);
    let outside = !(strings.inside | strings.quotes);
    let (opens, closes) = (classes.opens & outside, classes.closes & outside);
    let (colons, commas) = (classes.colons & outside, classes.commas & outside);
    let scalars = outside & used & !(classes.opens | classes.closes | classes.colons | classes.commas);
    let (opening, closing) = (strings.quotes & strings.inside, strings.quotes & !strings.inside);

    let separators = colons | commas;
    let after_separator = follows(separators, &mut before.separator);
    let after_open_or_comma = follows(opens | commas, &mut before.open_or_comma);
    let after_close = follows(closes | closing, &mut before.close);
    let after_scalar = follows(scalars, &mut before.scalar);
    // A key stands after a bracket or a comma. Added to the bits of its string, its first bit is carried to the end.
    let (sum, carried) = strings.inside.overflowing_add(opening & after_open_or_comma);
    let (sum, carried_on) = sum.overflowing_add(before.in_key);
    before.in_key = u64::from(carried | carried_on);
    let after_key = follows(sum & closing, &mut before.key);

    block.quotes = strings.quotes;
    block.backslashes = classes.backslashes;
    block.brackets = opens | closes;
    block.scalars = scalars & !after_scalar;
    block.escaped = strings.escaped & !(classes.quotes | classes.backslashes);
    // In an object each string after a bracket or a comma is a key, and nothing else stands there; in an array none is.
    block.strange_in_array = colons;
    block.strange_in_object = after_open_or_comma & !(opening | closes) | after_key & !colons;
    (after_close | after_scalar) & (opening | opens)
        | after_close & scalars
        | after_separator & closes
        | (after_separator | after_open_or_comma) & separators
        | colons & !after_key
}

/// The second pass: whether brackets match, with nothing strange between them and nothing after the last, and scalars and
/// escapes are what JSON knows.
#[inline(always)]
fn follow(outline: &mut Outline, text: &[u8]) -> bool {
    let containers = &mut outline.containers;
    containers.clear();
    // The kinds of the open containers, 1 for an object and 0 for an array; the innermost is the lowest bit.
    let (mut kinds, mut depth) = (0_u64, 0_usize);
    // Where the open containers begin.
    let mut starts = [0_u32; MAX_DEPTH + 1];
    for (number, block) in outline.blocks.iter().enumerate() {
        let start = number * 64;
        let strange = |kinds: u64| if kinds & 1 == 1 { block.strange_in_object } else { block.strange_in_array };
        let (mut brackets, mut left, mut errors) = (block.brackets, u64::MAX, 0);
        while brackets != 0 {
            let at = start + brackets.trailing_zeros() as usize;
            let up_to = brackets ^ brackets.wrapping_sub(1);
            brackets &= brackets.wrapping_sub(1);
            errors |= strange(kinds) & left & up_to;
            left &= !up_to;
            // Curly and square brackets differ in one bit, opening and closing ones in another.
            let byte = u64::from(text.get(at).copied().unwrap_or(0));
            let (kind, opens) = (byte >> 5 & 1, byte >> 1 & 1);
            errors |= !opens & (kinds ^ kind) & 1;
            kinds = if opens == 1 { kinds << 1 | kind } else { kinds >> 1 };
            let outer = depth.min(depth.wrapping_sub(1).wrapping_add(opens as usize));
            depth = depth.wrapping_sub(1).wrapping_add(2 * opens as usize);
            errors |= u64::from(depth > MAX_DEPTH);
            let begins = &mut starts[outer % (MAX_DEPTH + 1)];
            *begins = if opens == 1 { at as u32 } else { *begins };
            if outer <= DEEPEST && opens == 0 {
                containers.push((*begins, at as u32));
            }
        }
        let fine = errors | strange(kinds) & left == 0
            && (block.scalars == 0 || each_scalar(text, start, block.scalars))
            && (block.escaped == 0 || escapes(text, start, block.escaped));
        if !fine {
            return false;
        }
    }
    // The whole ends last, with the text.
    depth == 0 && containers.last().is_some_and(|whole| *whole == (0, text.len() as u32 - 1))
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

/// Whether what begins at each of the bits is a number or a literal, to the end of it.
#[inline(never)]
fn each_scalar(text: &[u8], start: usize, mut firsts: u64) -> bool {
    while firsts != 0 {
        let at = start + firsts.trailing_zeros() as usize;
        let bytes = text.get(at..).unwrap_or_default();
        let Some(length) = scalar_length(bytes) else { return false };
        if !matches!(bytes.get(length), Some(b',' | b'}' | b']')) {
            return false;
        }
        firsts &= firsts - 1;
    }
    true
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
