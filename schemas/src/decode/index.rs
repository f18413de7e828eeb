//! Where the tokens of a JSON text begin: found 64 bytes at a time, so that the scanner never looks at the bytes between.
//! Closing quotes are among the tokens, and escapes are checked on the way.

#[cfg(target_arch = "x86_64")]
use super::block::avx2;
use super::block::{self, Carry, Classes};
use super::escape::is_escape;
use super::scan::Malformed;

/// Longest text taken, in bytes: with all that a row adds to it, which is less than three times as much, its length is still
/// one of 32 bits.
pub const LONGEST: usize = 1 << 30;

/// The tokens of a text, and its escapes.
#[derive(Debug, Default)]
pub struct Index {
    /// Byte positions, ascending: brackets, colons and commas outside strings, both quotes of each string, and the first byte
    /// of everything else. The text's length comes last, then what is of no use.
    positions: Vec<u32>,
    count: usize,
    /// Positions of the backslashes that escape what follows, ascending.
    escapes: Vec<u32>,
}

impl Index {
    /// Replaces what was indexed before.
    pub fn fill(&mut self, text: &str) -> Result<(), Malformed> {
        self.count = 0;
        self.escapes.clear();
        if text.len() > LONGEST {
            return Err(Malformed { at: 0, reason: "longer than 1 GiB" });
        }
        let open = fill(self, text)?;
        if open {
            return Err(Malformed { at: text.len(), reason: "unexpected end" });
        }
        self.push(text.len(), 1);
        Ok(())
    }

    pub fn tokens(&self) -> &[u32] {
        self.positions.get(..self.count).unwrap_or_default()
    }

    /// Whether an escape stands in a range.
    pub fn escaped(&self, start: usize, end: usize) -> bool {
        let before = |end: usize| move |at: &u32| (*at as usize) < end;
        // Most texts have none, most others have them late, in a body.
        if !self.escapes.first().is_some_and(before(end)) {
            return false;
        }
        let first = self.escapes.partition_point(before(start));
        self.escapes.get(first).is_some_and(before(end))
    }

    /// Adds the positions of a block's bits.
    #[inline(always)]
    fn push(&mut self, start: usize, mut bits: u64) {
        let count = bits.count_ones() as usize;
        if self.positions.len() < self.count + 64 {
            self.positions.resize((self.count + 64) * 2, 0);
        }
        // Eight at a time, some of them past the last: fewer branches to guess wrong.
        let free = self.positions.get_mut(self.count..).unwrap_or_default();
        for eight in free.as_chunks_mut::<8>().0.iter_mut().take(count.div_ceil(8)) {
            for position in eight {
                *position = (start as u32).wrapping_add(bits.trailing_zeros());
                bits &= bits.wrapping_sub(1);
            }
        }
        self.count += count;
    }
}

/// Whether the text ends within a string.
fn fill(index: &mut Index, text: &str) -> Result<bool, Malformed> {
    #[cfg(target_arch = "x86_64")]
    if avx2::found() {
        #[expect(unsafe_code, reason = "the features that the function needs have just been found")]
        // SAFETY: as above.
        return unsafe { fill_avx2(index, text) };
    }
    blocks(index, text, block::classify, block::parity)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt,pclmulqdq")]
fn fill_avx2(index: &mut Index, text: &str) -> Result<bool, Malformed> {
    blocks(index, text, |block| avx2::classify(block), |bits| avx2::parity(bits))
}

/// What a block must know of the one before.
#[derive(Default)]
struct Before {
    strings: Carry,
    /// 1 if the byte before belongs to a token that goes on: neither a blank, an operator nor a string.
    scalar: u64,
}

#[inline(always)]
fn blocks(
    index: &mut Index,
    text: &str,
    classify: impl Fn(&[u8; 64]) -> Classes,
    parity: impl Fn(u64) -> u64,
) -> Result<bool, Malformed> {
    let mut before = Before::default();
    let (whole, tail) = text.as_bytes().as_chunks::<64>();
    for (number, block) in whole.iter().enumerate() {
        block_tokens(index, text, number * 64, &classify(block), &parity, &mut before)?;
    }
    if !tail.is_empty() {
        let mut block = [b' '; 64];
        block[..tail.len()].copy_from_slice(tail);
        block_tokens(index, text, whole.len() * 64, &classify(&block), &parity, &mut before)?;
    }
    Ok(before.strings.within_string())
}

#[inline(always)]
fn block_tokens(
    index: &mut Index,
    text: &str,
    start: usize,
    classes: &Classes,
    parity: &impl Fn(u64) -> u64,
    before: &mut Before,
) -> Result<(), Malformed> {
    let strings = block::strings(classes, &mut before.strings, parity);
    if strings.escaping != 0 {
        take_escapes(index, text, start, strings.escaping)?;
    }
    let controls = classes.controls & strings.inside;
    if controls != 0 {
        let at = start + controls.trailing_zeros() as usize;
        return Err(Malformed { at, reason: "control character in a string" });
    }
    let outside = !(strings.inside | strings.quotes);
    let operators = classes.opens | classes.closes | classes.colons | classes.commas;
    let scalars = outside & !(operators | classes.blanks);
    let firsts = scalars & !(scalars << 1 | before.scalar);
    before.scalar = scalars >> 63;
    index.push(start, strings.quotes | (operators & outside) | firsts);
    Ok(())
}

/// Notes the escapes of a block, each of which must be one that JSON knows.
fn take_escapes(index: &mut Index, text: &str, start: usize, mut escaping: u64) -> Result<(), Malformed> {
    while escaping != 0 {
        let at = start + escaping.trailing_zeros() as usize;
        escaping &= escaping - 1;
        index.escapes.push(at as u32);
        if !is_escape(text.as_bytes(), at + 1) {
            return Err(Malformed { at, reason: "invalid escape" });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tokens as a byte at a time finds them. A backslash outside strings, which no JSON has, escapes as well.
    fn plain(text: &str) -> Vec<u32> {
        let (mut tokens, mut string, mut escaped, mut scalar) = (Vec::new(), false, false, false);
        for (at, byte) in text.bytes().enumerate() {
            let quote = byte == b'"' && !escaped;
            let blank = matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
            let operator = matches!(byte, b'{' | b'}' | b'[' | b']' | b':' | b',');
            let begins = !scalar && !blank;
            escaped = byte == b'\\' && !escaped;
            if quote || !string && (operator || begins) {
                tokens.push(at as u32);
            }
            scalar = !string && !quote && !blank && !operator;
            string ^= quote;
        }
        tokens.push(text.len() as u32);
        tokens
    }

    #[track_caller]
    fn check(text: &str) {
        let mut index = Index::default();
        if index.fill(text).is_ok() {
            assert_eq!(index.tokens(), plain(text), "{text:?}");
        }
        let mut portable = Index::default();
        let by_word = blocks(&mut portable, text, block::classify, block::parity);
        let mut other = Index::default();
        assert_eq!(by_word, fill(&mut other, text), "{text:?}");
        assert_eq!(portable.tokens(), other.tokens(), "{text:?}");
    }

    #[test]
    fn strings_and_escapes_cross_blocks() {
        for length in 50..80 {
            check(&format!("[\"{}\\\\\\\"\", 1,{{\"k\\n\":true}}]", "x".repeat(length)));
            check(&format!("{}\"{}\"", " ".repeat(length), "\\\\".repeat(length)));
            check(&format!("\"{}é\\u00e9\"", "a{b}[c]:,".repeat(length)));
        }
    }

    proptest::proptest! {
        #[test]
        fn finds_what_a_byte_at_a_time_finds(text in "([\\[\\]{}:,\" \\\\ntru1\u{1}é]|\\\\\"|\\\\\\\\|[a-z]{9}){0,60}") {
            check(&text);
        }
    }
}
