//! A JSON text 64 bytes at a time: what the bytes of a block are, a bit each, and which of them stand within strings.
//!
//! The method is that of Langdale and Lemire, "Parsing Gigabytes of JSON per Second" (2019).

/// What the 64 bytes of a block are, a bit each.
pub struct Classes {
    pub quotes: u64,
    pub backslashes: u64,
    /// `{` and `[`.
    pub opens: u64,
    /// `}` and `]`.
    pub closes: u64,
    pub colons: u64,
    pub commas: u64,
    /// Space, tab, line feed and carriage return.
    pub blanks: u64,
    /// Everything below space.
    pub controls: u64,
}

/// The block of a text that begins there, if there is one; `last` has room for one that the text does not fill, and blanks.
#[inline(always)]
pub fn at<'a>(text: &'a [u8], start: usize, last: &'a mut [u8; 64]) -> Option<&'a [u8; 64]> {
    let left = text.get(start..)?;
    match left.first_chunk() {
        Some(bytes) => Some(bytes),
        None if left.is_empty() => None,
        None => {
            last[..left.len()].copy_from_slice(left);
            Some(last)
        }
    }
}

/// What a block must know of the one before.
#[derive(Debug, Default)]
pub struct Carry {
    /// All ones within a string.
    string: u64,
    /// 1 if the next byte is escaped.
    escape: u64,
}

impl Carry {
    pub fn within_string(&self) -> bool {
        self.string != 0
    }
}

/// The strings of a block, a bit a byte.
pub struct Strings {
    /// Quotes that no backslash escapes.
    pub quotes: u64,
    /// From each opening quote up to the byte before its closing one.
    pub inside: u64,
    /// Backslashes that escape the byte after them.
    pub escaping: u64,
    /// Bytes that a backslash escapes.
    pub escaped: u64,
}

/// `parity` makes each bit the parity of the bits up to it.
#[inline(always)]
pub fn strings(classes: &Classes, carry: &mut Carry, parity: impl Fn(u64) -> u64) -> Strings {
    let (escaping, escaped) = match classes.backslashes | carry.escape {
        0 => (0, 0),
        _ => escapes(classes.backslashes, &mut carry.escape),
    };
    let quotes = classes.quotes & !escaped;
    let inside = parity(quotes) ^ carry.string;
    carry.string = ((inside as i64) >> 63) as u64;
    Strings { quotes, inside, escaping, escaped }
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

/// On any machine: eight bytes at a time.
pub fn classify(block: &[u8; 64]) -> Classes {
    /// The high bit of each byte that is zero.
    fn zeros(word: u64) -> u64 {
        !(((word & LOW) + LOW) | word | LOW)
    }
    /// The high bits of the bytes, gathered.
    fn gather(highs: u64) -> u64 {
        (highs >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56
    }
    let mut classes =
        Classes { quotes: 0, backslashes: 0, opens: 0, closes: 0, colons: 0, commas: 0, blanks: 0, controls: 0 };
    for (place, eight) in block.as_chunks::<8>().0.iter().enumerate() {
        let word = u64::from_le_bytes(*eight);
        let equal = |byte: u8| zeros(word ^ (ONES * u64::from(byte)));
        let folded = |byte: u8| zeros((word | (ONES * 0x20)) ^ (ONES * u64::from(byte)));
        let shift = place * 8;
        classes.quotes |= gather(equal(b'"')) << shift;
        classes.backslashes |= gather(equal(b'\\')) << shift;
        classes.opens |= gather(folded(b'{')) << shift;
        classes.closes |= gather(folded(b'}')) << shift;
        classes.colons |= gather(equal(b':')) << shift;
        classes.commas |= gather(equal(b',')) << shift;
        classes.blanks |= gather(equal(b' ') | equal(b'\t') | equal(b'\n') | equal(b'\r')) << shift;
        classes.controls |= gather(controls(word)) << shift;
    }
    classes
}

/// Whether all bytes of a text are ASCII, and whether none is below space.
pub fn are_plain(text: &[u8]) -> (bool, bool) {
    #[cfg(target_arch = "x86_64")]
    if avx2::found() {
        #[expect(unsafe_code, reason = "the features that the function needs have just been found")]
        // SAFETY: as above.
        return unsafe { avx2::are_plain(text) };
    }
    all_plain(text)
}

#[inline(always)]
fn all_plain(text: &[u8]) -> (bool, bool) {
    let (any, least) = text.iter().fold((0, u8::MAX), |(any, least), byte| (any | byte, least.min(*byte)));
    (any < 0x80, least >= b' ')
}

const ONES: u64 = u64::MAX / 255;
const LOW: u64 = ONES * 0x7f;

/// The high bit of each byte of a word that is below space: neither it nor its sum with 0x60 has its high bit.
fn controls(word: u64) -> u64 {
    !(((word & LOW) + ONES * 0x60) | word | LOW)
}

/// On any machine: each bit becomes the parity of the bits up to it.
pub fn parity(mut bits: u64) -> u64 {
    for shift in [1, 2, 4, 8, 16, 32] {
        bits ^= bits << shift;
    }
    bits
}

#[cfg(target_arch = "x86_64")]
pub mod avx2 {
    use std::arch::x86_64::{
        __m256i, _mm_clmulepi64_si128, _mm_cvtsi128_si64, _mm_set_epi64x, _mm_set1_epi8, _mm256_cmpeq_epi8,
        _mm256_loadu_si256, _mm256_min_epu8, _mm256_movemask_epi8, _mm256_or_si256, _mm256_set1_epi8,
        _mm256_shuffle_epi8,
    };

    use super::Classes;

    /// By the last four bits of a byte, the white space that ends in them, for either half of a register.
    const BLANKS: &[u8; 32] = b" \x64\x64\x64\x11\x64\x71\x02\x64\t\n\x70\x64\r\x64\x64\
          \x20\x64\x64\x64\x11\x64\x71\x02\x64\t\n\x70\x64\r\x64\x64";

    /// Whether the machine has all that functions of this kind ask for: `avx2,bmi1,bmi2,lzcnt,popcnt,pclmulqdq`.
    pub fn found() -> bool {
        is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("lzcnt")
            && is_x86_feature_detected!("popcnt")
            && is_x86_feature_detected!("pclmulqdq")
    }

    /// The compiler makes the most of the feature.
    #[target_feature(enable = "avx2")]
    pub fn are_plain(text: &[u8]) -> (bool, bool) {
        super::all_plain(text)
    }

    /// A product without carries by all ones is the sum of all shifts.
    #[target_feature(enable = "avx2,pclmulqdq")]
    #[inline]
    pub fn parity(bits: u64) -> u64 {
        let product = _mm_clmulepi64_si128::<0>(_mm_set_epi64x(0, bits as i64), _mm_set1_epi8(-1));
        _mm_cvtsi128_si64(product) as u64
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    pub fn classify(block: &[u8; 64]) -> Classes {
        let halves = block.as_chunks::<32>().0;
        let (low, high) = (load(&halves[0]), load(&halves[1]));
        let bits = |low: __m256i, high: __m256i| {
            u64::from(_mm256_movemask_epi8(low) as u32) | u64::from(_mm256_movemask_epi8(high) as u32) << 32
        };
        let equal = |part: __m256i, byte: u8| _mm256_cmpeq_epi8(part, _mm256_set1_epi8(byte as i8));
        let both = |byte: u8| bits(equal(low, byte), equal(high, byte));
        // Curly and square brackets differ in one bit.
        let fold = |part: __m256i| _mm256_or_si256(part, _mm256_set1_epi8(0x20));
        let (low_folded, high_folded) = (fold(low), fold(high));
        let bracket = |byte: u8| bits(equal(low_folded, byte), equal(high_folded, byte));
        // Each byte against the one white space that ends in the same four bits.
        let blanks = load(BLANKS);
        let blank = |part: __m256i| _mm256_cmpeq_epi8(_mm256_shuffle_epi8(blanks, part), part);
        let control = |part: __m256i| {
            let limit = _mm256_set1_epi8(0x1f);
            _mm256_cmpeq_epi8(_mm256_min_epu8(part, limit), part)
        };
        Classes {
            quotes: both(b'"'),
            backslashes: both(b'\\'),
            opens: bracket(b'{'),
            closes: bracket(b'}'),
            colons: both(b':'),
            commas: both(b','),
            blanks: bits(blank(low), blank(high)),
            controls: bits(control(low), control(high)),
        }
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    #[expect(unsafe_code, reason = "put together of words, a block is loaded piece by piece")]
    fn load(half: &[u8; 32]) -> __m256i {
        // SAFETY: 32 bytes are there to be read, and they need not be aligned.
        unsafe { _mm256_loadu_si256(half.as_ptr().cast()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn every_machine_says_the_same(bytes: [u8; 32], noise in "[\\[\\]{}:,\" \\\\\t\n\r\u{1}\u{c}\u{1a}1]{32}") {
            let mut block = [b' '; 64];
            block[..32].copy_from_slice(&bytes);
            block[32..].copy_from_slice(noise.as_bytes());
            let bits = |is: fn(u8) -> bool| block.iter().rev().fold(0, |bits, byte| bits << 1 | u64::from(is(*byte)));
            let expected = [
                bits(|byte| byte == b'"'),
                bits(|byte| byte == b'\\'),
                bits(|byte| matches!(byte, b'{' | b'[')),
                bits(|byte| matches!(byte, b'}' | b']')),
                bits(|byte| byte == b':'),
                bits(|byte| byte == b','),
                bits(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r')),
                bits(|byte| byte < b' '),
            ];
            let plain = (block.is_ascii(), expected[7] == 0);
            assert_eq!((are_plain(&block), all_plain(&block)), (plain, plain));
            let listed = |c: Classes| {
                [c.quotes, c.backslashes, c.opens, c.closes, c.colons, c.commas, c.blanks, c.controls]
            };
            assert_eq!(listed(classify(&block)), expected);
            let parities = parity(expected[0]);
            let odd = |bit: &u32| (expected[0] << (63 - bit)).count_ones() % 2 == 1;
            assert_eq!(parities, (0..64).filter(odd).map(|bit| 1 << bit).sum::<u64>());
            #[cfg(target_arch = "x86_64")]
            if avx2::found() {
                #[expect(unsafe_code, reason = "the features that the functions need have just been found")]
                // SAFETY: as above.
                let (classes, fast) = unsafe { (avx2::classify(&block), avx2::parity(expected[0])) };
                assert_eq!(listed(classes), expected);
                assert_eq!(fast, parities);
            }
        }
    }
}
