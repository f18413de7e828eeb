//! Where a container ends in a text that is known to be JSON.

#[cfg(target_arch = "x86_64")]
use super::block::avx2;
use super::block::{self, Carry, Classes};

/// Where the closing bracket of the container is whose opening one stands before `from`. Of a text that is no JSON it is any
/// place, or none.
pub fn container(text: &[u8], from: usize) -> Option<usize> {
    #[cfg(target_arch = "x86_64")]
    if avx2::found() {
        #[expect(unsafe_code, reason = "the features that the function needs have just been found")]
        // SAFETY: as above.
        return unsafe { container_avx2(text, from) };
    }
    follow(text, from, block::classify, block::parity)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt,pclmulqdq")]
fn container_avx2(text: &[u8], from: usize) -> Option<usize> {
    follow(text, from, |block| avx2::classify(block), |bits| avx2::parity(bits))
}

#[inline(always)]
fn follow(
    text: &[u8],
    mut start: usize,
    classify: impl Fn(&[u8; 64]) -> Classes,
    parity: impl Fn(u64) -> u64,
) -> Option<usize> {
    let mut carry = Carry::default();
    let mut depth = 1;
    let mut last = [b' '; 64];
    loop {
        let classes = classify(block::at(text, start, &mut last)?);
        let strings = block::strings(&classes, &mut carry, &parity);
        let outside = !(strings.inside | strings.quotes);
        let (opens, closes) = (classes.opens & outside, classes.closes & outside);
        if closes.count_ones() < depth {
            depth = depth + opens.count_ones() - closes.count_ones();
            start += 64;
            continue;
        }
        let mut brackets = opens | closes;
        while brackets != 0 {
            let lowest = brackets & brackets.wrapping_neg();
            depth = if opens & lowest != 0 { depth + 1 } else { depth - 1 };
            if depth == 0 {
                return Some(start + lowest.trailing_zeros() as usize);
            }
            brackets ^= lowest;
        }
        start += 64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_end_where_they_do() {
        for length in [0, 1, 50, 60, 61, 62, 63, 64, 500, 511, 512, 600] {
            let string = format!("\"{}]\\\"\\\\\"", "x[".repeat(length));
            let text = format!("[[{string}],{{\"a\":[{string}]}}]{}", " ".repeat(length));
            let end = text.trim_end().len() - 1;
            for (from, expected) in [(1, Some(end)), (2, Some(2 + string.len())), (end + 1, None), (text.len(), None)] {
                assert_eq!(container(text.as_bytes(), from), expected);
                assert_eq!(follow(text.as_bytes(), from, block::classify, block::parity), expected);
            }
            let deep = format!("{}{}", "[{\"a\":".repeat(length), "}]".repeat(length));
            assert_eq!(container(deep.as_bytes(), 1), (length > 0).then(|| deep.len() - 1));
        }
    }
}
