//! Where quotes and brackets stand in a text that is taken to be JSON, found as far as somebody asks for them.

#[cfg(target_arch = "x86_64")]
use super::block::avx2;
use super::block::{self, Carry, Classes};

/// Blocks of 64 bytes that are looked at in one go.
const STRIDE: usize = 8;

/// What is known of a text so far. Used again for its memory.
#[derive(Debug, Default)]
pub struct Marks {
    blocks: Vec<Block>,
    carry: Carry,
}

/// What is known of 64 bytes, a bit each.
#[derive(Clone, Copy, Debug, Default)]
struct Block {
    /// Quotes that no backslash escapes.
    quotes: u64,
    backslashes: u64,
    /// Brackets outside strings.
    opens: u64,
    closes: u64,
}

impl Marks {
    /// Forgets the text before.
    pub fn clear(&mut self) {
        self.blocks.clear();
        self.carry = Carry::default();
    }

    /// Where the string ends whose first byte after the quote is at `from`, and whether there is a backslash in it.
    #[inline(always)]
    pub fn string(&mut self, text: &[u8], from: usize) -> Option<(usize, bool)> {
        let mut number = from / 64;
        let Block { mut quotes, mut backslashes, .. } = self.block(text, number)?;
        let after = u64::MAX << (from % 64);
        (quotes, backslashes) = (quotes & after, backslashes & after);
        let mut escaped = 0;
        while quotes == 0 {
            escaped |= backslashes;
            number += 1;
            Block { quotes, backslashes, .. } = self.block(text, number)?;
        }
        // The backslashes below the lowest quote.
        escaped |= backslashes & !quotes & quotes.wrapping_sub(1);
        Some((number * 64 + quotes.trailing_zeros() as usize, escaped != 0))
    }

    /// Where the container ends whose bracket stands before `from`.
    pub fn container(&mut self, text: &[u8], from: usize) -> Option<usize> {
        let mut after = u64::MAX << (from % 64);
        let mut depth = 1_usize;
        for number in from / 64.. {
            let Block { opens, closes, .. } = self.block(text, number)?;
            let mut brackets = (opens | closes) & after;
            after = u64::MAX;
            while brackets != 0 {
                let lowest = brackets & brackets.wrapping_neg();
                depth = if opens & lowest != 0 { depth + 1 } else { depth - 1 };
                if depth == 0 {
                    return Some(number * 64 + lowest.trailing_zeros() as usize);
                }
                brackets ^= lowest;
            }
        }
        None
    }

    #[inline(always)]
    fn block(&mut self, text: &[u8], number: usize) -> Option<Block> {
        if number >= self.blocks.len() {
            self.look(text, number);
        }
        self.blocks.get(number).copied()
    }

    #[cold]
    fn look(&mut self, text: &[u8], number: usize) {
        while number >= self.blocks.len() && self.blocks.len() * 64 < text.len() {
            let left = &text[self.blocks.len() * 64..];
            let stride = &left[..left.len().min(STRIDE * 64)];
            #[cfg(target_arch = "x86_64")]
            if avx2::found() {
                #[expect(unsafe_code, reason = "the features that the function needs have just been found")]
                // SAFETY: as above.
                unsafe {
                    mark_avx2(self, stride);
                }
                continue;
            }
            mark(self, stride, block::classify, block::parity);
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt,pclmulqdq")]
fn mark_avx2(marks: &mut Marks, stride: &[u8]) {
    mark(marks, stride, |block| avx2::classify(block), |bits| avx2::parity(bits));
}

#[inline(always)]
fn mark(marks: &mut Marks, stride: &[u8], classify: impl Fn(&[u8; 64]) -> Classes, parity: impl Fn(u64) -> u64) {
    let Marks { blocks, carry } = marks;
    let mut add = |block: &[u8; 64]| {
        let classes = classify(block);
        let strings = block::strings(&classes, carry, &parity);
        let outside = !(strings.inside | strings.quotes);
        let (opens, closes) = (classes.opens & outside, classes.closes & outside);
        blocks.push(Block { quotes: strings.quotes, backslashes: classes.backslashes, opens, closes });
    };
    let (whole, tail) = stride.as_chunks::<64>();
    whole.iter().for_each(&mut add);
    if !tail.is_empty() {
        let mut block = [b' '; 64];
        block[..tail.len()].copy_from_slice(tail);
        add(&block);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_and_containers_end_where_they_do() {
        for length in [0, 1, 50, 60, 61, 62, 63, 64, 500, 511, 512, 600] {
            let string = format!("\"{}]\\\"\\\\\"", "x[".repeat(length));
            let text = format!("[[{string}],{{\"a\":[{string}]}}]{}", " ".repeat(length));
            let (mut marks, mut portable) = (Marks::default(), Marks::default());
            let end = text.trim_end().len() - 1;
            assert_eq!(marks.container(text.as_bytes(), 1), Some(end));
            assert_eq!(marks.container(text.as_bytes(), 2), Some(2 + string.len()));
            assert_eq!(marks.string(text.as_bytes(), 3), Some((1 + string.len(), true)));
            assert_eq!(marks.container(text.as_bytes(), end + 1), None);
            assert_eq!(marks.string(text.as_bytes(), text.len()), None);
            mark(&mut portable, text.as_bytes(), block::classify, block::parity);
            assert_eq!(format!("{portable:?}"), format!("{marks:?}"));
        }
    }
}
