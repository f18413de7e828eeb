//! Thirty-two bytes at a time: which of them are what is looked for, a bit each.

/// Bytes looked at in one go.
pub const WIDTH: usize = 32;

/// Which bytes are the one or the other.
#[inline(always)]
pub fn either(bytes: &[u8; WIDTH], one: u8, other: u8) -> u32 {
    #[cfg(target_arch = "x86_64")]
    #[expect(unsafe_code, reason = "every machine of this kind has the feature that the function needs")]
    // SAFETY: as above.
    let found = unsafe { sse2::either(bytes, one, other) };
    #[cfg(not(target_arch = "x86_64"))]
    let found = each(|at| bytes[at] == one || bytes[at] == other);
    found
}

/// Which bytes are the same.
#[inline(always)]
pub fn same(bytes: &[u8; WIDTH], others: &[u8; WIDTH]) -> u32 {
    #[cfg(target_arch = "x86_64")]
    #[expect(unsafe_code, reason = "every machine of this kind has the feature that the function needs")]
    // SAFETY: as above.
    let found = unsafe { sse2::same(bytes, others) };
    #[cfg(not(target_arch = "x86_64"))]
    let found = each(|at| bytes[at] == others[at]);
    found
}

#[cfg(any(test, not(target_arch = "x86_64")))]
fn each(is: impl Fn(usize) -> bool) -> u32 {
    (0..WIDTH).rev().fold(0, |bits, at| bits << 1 | u32::from(is(at)))
}

#[cfg(target_arch = "x86_64")]
mod sse2 {
    use std::arch::x86_64::{__m128i, _mm_cmpeq_epi8, _mm_loadu_si128, _mm_movemask_epi8, _mm_or_si128, _mm_set1_epi8};

    use super::WIDTH;

    #[target_feature(enable = "sse2")]
    #[inline]
    pub fn either(bytes: &[u8; WIDTH], one: u8, other: u8) -> u32 {
        let is = |half, byte: u8| _mm_cmpeq_epi8(half, _mm_set1_epi8(byte as i8));
        bits(halves(bytes).map(|half| _mm_or_si128(is(half, one), is(half, other))))
    }

    #[target_feature(enable = "sse2")]
    #[inline]
    pub fn same(bytes: &[u8; WIDTH], others: &[u8; WIDTH]) -> u32 {
        let ([low, high], [other_low, other_high]) = (halves(bytes), halves(others));
        bits([_mm_cmpeq_epi8(low, other_low), _mm_cmpeq_epi8(high, other_high)])
    }

    #[target_feature(enable = "sse2")]
    #[inline]
    fn bits([low, high]: [__m128i; 2]) -> u32 {
        _mm_movemask_epi8(low) as u32 | (_mm_movemask_epi8(high) as u32) << 16
    }

    #[target_feature(enable = "sse2")]
    #[inline]
    #[expect(unsafe_code, reason = "put together of words, the bytes are loaded piece by piece")]
    fn halves(bytes: &[u8; WIDTH]) -> [__m128i; 2] {
        let start: *const __m128i = bytes.as_ptr().cast();
        // SAFETY: both times 16 bytes are there to be read, and they need not be aligned.
        unsafe { [_mm_loadu_si128(start), _mm_loadu_si128(start.add(1))] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn every_machine_says_the_same(bytes: [u8; WIDTH], places: u32) {
            let mut others = bytes;
            (0..WIDTH).filter(|at| places >> at & 1 == 1).for_each(|at| others[at] = !others[at]);
            assert_eq!(same(&bytes, &others), !places);
            let (one, other) = (bytes[3], bytes[20]);
            assert_eq!(either(&bytes, one, other), each(|at| bytes[at] == one || bytes[at] == other));
        }
    }
}
