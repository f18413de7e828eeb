//! Where the tokens of a JSON text begin: found 64 bytes at a time, so that the scanner never looks at the bytes between.
//!
//! The method is that of Langdale and Lemire, "Parsing Gigabytes of JSON per Second" (2019), with closing quotes among the
//! tokens and escapes checked on the way.

use super::scan::{Malformed, hex4};

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
        let Ok(length) = u32::try_from(text.len()) else {
            return Err(Malformed { at: 0, reason: "longer than 4 GiB" });
        };
        let open = fill(self, text)?;
        if open {
            return Err(Malformed { at: text.len(), reason: "unexpected end" });
        }
        self.push(length as usize, 1);
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
        return unsafe { avx2::fill(index, text) };
    }
    blocks(index, text, classify, prefix_xor)
}

/// What the 64 bytes of a block are, a bit each.
struct Classes {
    quotes: u64,
    backslashes: u64,
    /// `{}[]:,`, and form feed and substitute, which stand for nothing outside strings.
    operators: u64,
    /// Space, tab, line feed and carriage return.
    blanks: u64,
    /// Everything below space.
    controls: u64,
}

/// What a block must know of the one before.
#[derive(Default)]
struct Carry {
    /// All ones within a string.
    string: u64,
    /// 1 if the next byte is escaped.
    escape: u64,
    /// 1 if the byte before belongs to a token that goes on: neither a blank, an operator nor a string.
    scalar: u64,
}

#[inline(always)]
fn blocks(
    index: &mut Index,
    text: &str,
    classify: impl Fn(&[u8; 64]) -> Classes,
    prefix_xor: impl Fn(u64) -> u64,
) -> Result<bool, Malformed> {
    let mut carry = Carry::default();
    let (whole, tail) = text.as_bytes().as_chunks::<64>();
    for (number, block) in whole.iter().enumerate() {
        block_tokens(index, text, number * 64, &classify(block), &prefix_xor, &mut carry)?;
    }
    if !tail.is_empty() {
        let mut block = [b' '; 64];
        block[..tail.len()].copy_from_slice(tail);
        block_tokens(index, text, whole.len() * 64, &classify(&block), &prefix_xor, &mut carry)?;
    }
    Ok(carry.string != 0)
}

#[inline(always)]
fn block_tokens(
    index: &mut Index,
    text: &str,
    start: usize,
    classes: &Classes,
    prefix_xor: &impl Fn(u64) -> u64,
    carry: &mut Carry,
) -> Result<(), Malformed> {
    let mut quotes = classes.quotes;
    if classes.backslashes | carry.escape != 0 {
        let (escaping, escaped) = escapes(classes.backslashes, &mut carry.escape);
        quotes &= !escaped;
        take_escapes(index, text, start, escaping)?;
    }
    // From each opening quote up to the byte before its closing one.
    let string = prefix_xor(quotes) ^ carry.string;
    carry.string = ((string as i64) >> 63) as u64;
    let controls = classes.controls & string;
    if controls != 0 {
        let at = start + controls.trailing_zeros() as usize;
        return Err(Malformed { at, reason: "control character in a string" });
    }
    let outside = !(string | quotes);
    let scalars = outside & !(classes.operators | classes.blanks);
    let firsts = scalars & !(scalars << 1 | carry.scalar);
    carry.scalar = scalars >> 63;
    index.push(start, quotes | (classes.operators & outside) | firsts);
    Ok(())
}

/// Which backslashes escape the byte after them, and which bytes are escaped.
#[inline(always)]
fn escapes(backslashes: u64, carry: &mut u64) -> (u64, u64) {
    const EVEN: u64 = 0x5555_5555_5555_5555;
    let starts = backslashes & !*carry;
    let follows = starts << 1 | *carry;
    // A run of backslashes that starts on an odd bit ends on the bit where the sum carries to.
    let odd_starts = starts & !EVEN & !follows;
    let (sum, overflow) = odd_starts.overflowing_add(starts);
    let escaped = (EVEN ^ (sum << 1)) & follows;
    let escaping = backslashes & !escaped;
    *carry = u64::from(overflow);
    (escaping, escaped)
}

/// Each bit becomes the parity of the bits up to it.
fn prefix_xor(mut bits: u64) -> u64 {
    for shift in [1, 2, 4, 8, 16, 32] {
        bits ^= bits << shift;
    }
    bits
}

/// Notes the escapes of a block, each of which must be one that JSON knows.
fn take_escapes(index: &mut Index, text: &str, start: usize, mut escaping: u64) -> Result<(), Malformed> {
    while escaping != 0 {
        let at = start + escaping.trailing_zeros() as usize;
        escaping &= escaping - 1;
        let valid = match text.as_bytes().get(at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => true,
            Some(b'u') => hex4(text, at + 2).is_some(),
            _ => false,
        };
        index.escapes.push(at as u32);
        if !valid {
            return Err(Malformed { at, reason: "invalid escape" });
        }
    }
    Ok(())
}

/// On any machine: eight bytes at a time.
fn classify(block: &[u8; 64]) -> Classes {
    const ONES: u64 = u64::MAX / 255;
    const LOW: u64 = ONES * 0x7f;
    /// The high bit of each byte that is zero.
    fn zeros(word: u64) -> u64 {
        !(((word & LOW) + LOW) | word | LOW)
    }
    /// The high bits of the bytes, gathered.
    fn gather(highs: u64) -> u64 {
        (highs >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56
    }
    // A byte is a control character if neither it nor its sum with 0x60 has its high bit.
    let mut classes = Classes { quotes: 0, backslashes: 0, operators: 0, blanks: 0, controls: 0 };
    for (place, eight) in block.as_chunks::<8>().0.iter().enumerate() {
        let word = u64::from_le_bytes(*eight);
        let equal = |byte: u8| zeros(word ^ (ONES * u64::from(byte)));
        let folded = |byte: u8| zeros((word | (ONES * 0x20)) ^ (ONES * u64::from(byte)));
        let shift = place * 8;
        classes.quotes |= gather(equal(b'"')) << shift;
        classes.backslashes |= gather(equal(b'\\')) << shift;
        classes.operators |= gather(folded(b'{') | folded(b'}') | folded(b':') | folded(b',')) << shift;
        classes.blanks |= gather(equal(b' ') | equal(b'\t') | equal(b'\n') | equal(b'\r')) << shift;
        classes.controls |= gather(!(((word & LOW) + ONES * 0x60) | word | LOW)) << shift;
    }
    classes
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::{
        __m256i, _mm_clmulepi64_si128, _mm_cvtsi128_si64, _mm_set_epi64x, _mm_set1_epi8, _mm256_cmpeq_epi8,
        _mm256_min_epu8, _mm256_movemask_epi8, _mm256_or_si256, _mm256_set_epi64x, _mm256_set1_epi8,
        _mm256_shuffle_epi8,
    };

    use super::{Classes, Index, Malformed, blocks};

    pub fn found() -> bool {
        is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("popcnt")
            && is_x86_feature_detected!("pclmulqdq")
    }

    #[target_feature(enable = "avx2,bmi1,popcnt,pclmulqdq")]
    pub fn fill(index: &mut Index, text: &str) -> Result<bool, Malformed> {
        blocks(index, text, |block| classify(block), |bits| prefix_xor(bits))
    }

    /// A product without carries by all ones is the sum of all shifts.
    #[target_feature(enable = "avx2,pclmulqdq")]
    #[inline]
    fn prefix_xor(bits: u64) -> u64 {
        let product = _mm_clmulepi64_si128::<0>(_mm_set_epi64x(0, bits as i64), _mm_set1_epi8(-1));
        _mm_cvtsi128_si64(product) as u64
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn classify(block: &[u8; 64]) -> Classes {
        let (low, high) = (load(block, 0), load(block, 32));
        let bits = |low: __m256i, high: __m256i| {
            u64::from(_mm256_movemask_epi8(low) as u32) | u64::from(_mm256_movemask_epi8(high) as u32) << 32
        };
        let equal = |part: __m256i, byte: u8| _mm256_cmpeq_epi8(part, _mm256_set1_epi8(byte as i8));
        // Each byte against the one operator, or the one white space, that ends in the same four bits.
        let table = |bytes: [u8; 16]| {
            let [low, high] = halves(bytes);
            _mm256_set_epi64x(high, low, high, low)
        };
        let operators = table(*b"\0\0\0\0\0\0\0\0\0\0:{,}\0\0");
        let blanks = table(*b" \x64\x64\x64\x11\x64\x71\x02\x64\t\n\x70\x64\r\x64\x64");
        let operator = |part: __m256i| {
            let folded = _mm256_or_si256(part, _mm256_set1_epi8(0x20));
            _mm256_cmpeq_epi8(_mm256_shuffle_epi8(operators, part), folded)
        };
        let blank = |part: __m256i| _mm256_cmpeq_epi8(_mm256_shuffle_epi8(blanks, part), part);
        let control = |part: __m256i| {
            let limit = _mm256_set1_epi8(0x1f);
            _mm256_cmpeq_epi8(_mm256_min_epu8(part, limit), part)
        };
        Classes {
            quotes: bits(equal(low, b'"'), equal(high, b'"')),
            backslashes: bits(equal(low, b'\\'), equal(high, b'\\')),
            operators: bits(operator(low), operator(high)),
            blanks: bits(blank(low), blank(high)),
            controls: bits(control(low), control(high)),
        }
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn load(block: &[u8; 64], at: usize) -> __m256i {
        let words = block.as_chunks::<8>().0;
        let word = |place: usize| i64::from_le_bytes(words[at / 8 + place]);
        _mm256_set_epi64x(word(3), word(2), word(1), word(0))
    }

    fn halves(bytes: [u8; 16]) -> [i64; 2] {
        let words = bytes.as_chunks::<8>().0;
        [i64::from_le_bytes(words[0]), i64::from_le_bytes(words[1])]
    }
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
        let by_word = blocks(&mut portable, text, classify, prefix_xor);
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
