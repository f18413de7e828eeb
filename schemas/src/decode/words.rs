//! Short texts as words, to compare them without a call.

use super::lanes::{self, WIDTH};

/// The first and the last bytes of a text, which overlap. Of texts of one length up to 16 bytes no two have the same.
#[inline(always)]
pub const fn ends(text: &[u8]) -> [u64; 2] {
    if let (Some(first), Some(last)) = (text.first_chunk::<8>(), text.last_chunk::<8>()) {
        return [u64::from_le_bytes(*first), u64::from_le_bytes(*last)];
    }
    if let (Some(first), Some(last)) = (text.first_chunk::<4>(), text.last_chunk::<4>()) {
        return [u32::from_le_bytes(*first) as u64, u32::from_le_bytes(*last) as u64];
    }
    match *text {
        [a, b, c] => [a as u64, b as u64 | (c as u64) << 8],
        [a, b] => [a as u64, b as u64],
        [a] => [a as u64, 0],
        _ => [0, 0],
    }
}

/// The name of a field as it stands in compact JSON: with its quotes and the colon that follows.
#[derive(Clone, Copy, Debug)]
pub struct Name {
    bytes: [u8; WIDTH],
    /// Ones for the bytes that follow it.
    beyond: u32,
    /// With quotes and colon.
    length: usize,
}

impl Name {
    /// Names of up to 29 bytes that need no escapes. Any other stops the compiler.
    pub const fn new(name: &str) -> Self {
        let name = name.as_bytes();
        let length = name.len() + 3;
        assert!(length <= WIDTH);
        let (mut bytes, mut at) = ([0; WIDTH], 0);
        while at < length {
            bytes[at] = match at {
                0 => b'"',
                at if at <= name.len() => name[at - 1],
                at => b"\":"[at - 1 - name.len()],
            };
            assert!(bytes[at] != b'\\' && bytes[at] >= b' ');
            at += 1;
        }
        let beyond = if length < WIDTH { u32::MAX << length } else { 0 };
        Self { bytes, beyond, length }
    }

    /// The length of the name, its quotes and the colon, if the bytes begin with them.
    #[inline(always)]
    pub fn begins(&self, bytes: &[u8; WIDTH]) -> Option<usize> {
        (lanes::same(bytes, &self.bytes) | self.beyond == u32::MAX).then_some(self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_of_a_short_text_counts() {
        for length in 1..=16 {
            let text = &b"abcdefghijklmnop"[..length];
            for place in 0..length {
                let mut other = text.to_vec();
                other[place] = b'X';
                assert_ne!(ends(text), ends(&other), "{length} {place}");
            }
        }
    }

    #[test]
    fn a_name_begins_where_it_stands_and_nowhere_else() {
        for name in ["", "uid", "impersonatedUser", "authorization.k8s.io/decision"] {
            let mut bytes = [b'"'; WIDTH];
            bytes[1..=name.len()].copy_from_slice(name.as_bytes());
            bytes[name.len() + 2] = b':';
            assert_eq!(Name::new(name).begins(&bytes), Some(name.len() + 3));
            for at in 0..name.len() + 3 {
                let mut other = bytes;
                other[at] ^= 1;
                assert_eq!(Name::new(name).begins(&other), None, "{name} {at}");
            }
        }
    }
}
