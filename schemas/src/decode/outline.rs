//! Whether a container in a text is compact JSON, and where it ends.
//!
//! Without white space between tokens the grammar is mostly a matter of neighbours, which are compared for 64 bytes at once;
//! brackets and scalars are looked at one by one.

#[cfg(target_arch = "x86_64")]
use super::block::avx2;
use super::block::{self, Carry, Classes};
use super::escape::is_escape;
use super::scan::scalar_length;

/// The length of the array or object that the text begins with. `None` if it is not for certain JSON without white space
/// between tokens. Whether it is UTF-8 without control characters is not looked at.
pub fn container(text: &[u8]) -> Option<usize> {
    #[cfg(target_arch = "x86_64")]
    if avx2::found() {
        #[expect(unsafe_code, reason = "the features that the function needs have just been found")]
        // SAFETY: as above.
        return unsafe { container_avx2(text) };
    }
    follow(text, block::classify, block::parity)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt,pclmulqdq")]
fn container_avx2(text: &[u8]) -> Option<usize> {
    follow(text, |block| avx2::classify(block), |bits| avx2::parity(bits))
}

/// What is known of 64 bytes, a bit each.
struct Block {
    /// Brackets outside strings.
    brackets: u64,
    /// Bytes of numbers and literals, and of what is nothing at all.
    scalars: u64,
    /// Where numbers and literals begin.
    begin: u64,
    /// What a backslash escapes.
    escaped: u64,
    /// What must not stand where it does, anywhere, in an array, and in an object.
    wrong: u64,
    wrong_in_array: u64,
    wrong_in_object: u64,
}

impl Block {
    /// Forgets what is not among those bytes.
    #[inline(always)]
    fn cut(&mut self, bytes: u64) {
        let Self { scalars, begin, escaped, wrong, wrong_in_array, wrong_in_object, .. } = self;
        for bits in [scalars, begin, escaped, wrong, wrong_in_array, wrong_in_object] {
            *bits &= bytes;
        }
    }
}

/// What a block must know of the ones before: of each kind whether the last byte was one, as the lowest bit.
#[derive(Default)]
struct Before {
    strings: Carry,
    open_or_comma: u64,
    /// At the start as well: the container stands where a value may stand.
    colon_or_comma: u64,
    /// 1 if a string that can be a key goes on, or has just ended.
    key: u64,
}

/// Each bit moved to the byte that follows; the last one is for the next block.
#[inline(always)]
fn follows(bits: u64, carry: &mut u64) -> u64 {
    let moved = bits << 1 | *carry;
    *carry = bits >> 63;
    moved
}

impl Before {
    /// The next block.
    #[inline(always)]
    fn block(&mut self, classes: &Classes, parity: &impl Fn(u64) -> u64) -> Block {
        let strings = block::strings(classes, &mut self.strings, parity);
        let within = strings.inside | strings.quotes;
        let (opens, closes) = (classes.opens & !within, classes.closes & !within);
        let (colons, commas) = (classes.colons & !within, classes.commas & !within);
        let scalars = !(within | opens | closes | colons | commas);

        let after_open_or_comma = follows(opens | commas, &mut self.open_or_comma);
        let after_colon_or_comma = follows(colons | commas, &mut self.colon_or_comma);
        // Where a value may begin. All other bytes outside strings follow something that ends one.
        let begin = after_open_or_comma | after_colon_or_comma;
        let opening = strings.quotes & strings.inside;
        // A key stands after a bracket or a comma. Added to the bits of its string, its first bit is carried to the byte after
        // the last.
        let (sum, carried) = within.overflowing_add(opening & after_open_or_comma);
        let (sum, carried_on) = sum.overflowing_add(self.key);
        self.key = u64::from(carried | carried_on);
        let after_key = sum & !within;

        Block {
            brackets: opens | closes,
            scalars,
            begin: scalars & begin,
            escaped: strings.escaped,
            wrong: (opening | opens) & !begin | commas & begin | closes & after_colon_or_comma | colons & !after_key,
            // In an object each string after a bracket or a comma is a key, and nothing else stands there; in an array none
            // is.
            wrong_in_array: colons,
            wrong_in_object: after_open_or_comma & !(opening | closes) | after_key & !colons,
        }
    }
}

#[inline(always)]
fn follow(text: &[u8], classify: impl Fn(&[u8; 64]) -> Classes, parity: impl Fn(u64) -> u64) -> Option<usize> {
    let mut before = Before { colon_or_comma: 1, ..Before::default() };
    // The kinds of the open containers, 1 for an object and 0 for an array, below a 1; the innermost is the lowest bit.
    let mut kinds = 1_u64;
    let (mut mismatched, mut wrong, mut deepest) = (0, 0, 0);
    // Bytes of scalars, and what those that were looked at make up: one that begins where none may is not among them.
    let (mut scalars, mut found) = (0, 0);
    let mut last = [b' '; 64];
    let mut start = 0;
    loop {
        let bytes = block::at(text, start, &mut last)?;
        let mut block = before.block(&classify(bytes), &parity);
        // Where what follows stands in an object: at the start, and after each bracket.
        let (start_kind, mut kinds_after) = (kinds & 1, 0);
        let (mut brackets, gaps) = (block.brackets, !block.brackets);
        let mut length = 64;
        while brackets != 0 {
            let place = brackets.trailing_zeros();
            brackets &= brackets.wrapping_sub(1);
            // Curly and square brackets differ in one bit, opening and closing ones in others.
            let byte = u64::from(bytes[place as usize % 64]);
            let kind = byte >> 5 & 1;
            mismatched |= (kinds ^ kind) & byte >> 2;
            kinds = if byte & 2 != 0 { kinds << 1 | kind } else { kinds >> 1 };
            deepest |= kinds;
            kinds_after |= (kinds & 1) << place;
            if kinds == 1 {
                length = place as usize + 1;
                block.cut(u64::MAX >> (63 - place));
                break;
            }
        }
        // Which bytes stand in objects: a bit is carried over the bytes from each bracket to the next.
        let in_object = gaps.wrapping_add(kinds_after << 1 | start_kind) ^ gaps;
        wrong |= block.wrong | in_object & block.wrong_in_object | !in_object & block.wrong_in_array;
        scalars += block.scalars.count_ones() as usize;
        if block.begin != 0 {
            found += each_scalar(text, start, block.begin)?;
        }
        if block.escaped != 0 && !are_escapes(text, start, block.escaped) {
            return None;
        }
        if kinds == 1 {
            let right = mismatched & 1 == 0 && wrong == 0 && deepest >> 63 == 0 && scalars == found;
            return right.then_some(start + length);
        }
        start += 64;
    }
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
    use crate::decode::scan::{Scanner, Scratch, Tokens};
    use crate::decode::tests::compacted;

    /// Control characters within strings are somebody else's business.
    fn is_json(text: &str) -> bool {
        let text = text.replace(|c: char| c.is_ascii_control(), "x");
        let scan = || {
            let mut scanner = Scanner::new(&text, Scratch::default())?;
            scanner.value()?;
            scanner.end()
        };
        scan().is_ok()
    }

    /// What the scanner takes is taken, if it is compact, and nothing else, on every machine; and what follows does not matter.
    #[track_caller]
    fn check(text: &str) {
        for text in [text, &compacted(text)] {
            let found = container(text.as_bytes());
            let starts = text.starts_with(['{', '[']);
            let expected = is_json(text) && starts && compacted(text) == text;
            assert_eq!(found == Some(text.len()), expected, "{text:?}");
            if let Some(length) = found {
                let taken = &text[..length];
                assert!(is_json(taken) && starts && compacted(taken) == taken, "{text:?}");
            }
            assert_eq!(follow(text.as_bytes(), block::classify, block::parity), found, "{text:?}");
            for after in [",\"a\":1}", "]}", "x", "\"\\", "{["].into_iter().filter(|_| expected) {
                assert_eq!(container(format!("{text}{after}").as_bytes()), found, "{text:?}");
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
            "{\"\":\"x\"}\"}",
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
        // A bit of a word is for each open container, and two are not.
        for (depth, taken) in [(62, true), (63, false), (1000, false)] {
            let text = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
            assert!(is_json(&text));
            assert_eq!(container(text.as_bytes()).is_some(), taken, "{depth}");
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
