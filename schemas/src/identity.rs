//! An event's identity: its cluster and its content, hashed. The auditID can't serve alone, since a client chooses it.

use std::fmt;

/// The first 128 bits of BLAKE3 over the cluster's name, a zero byte and the event's bytes as they were received.
///
/// Two deliveries of the same bytes from the same cluster are the same event. Written as 32 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventId(pub u128);

impl EventId {
    pub fn of(cluster: &str, event: &[u8]) -> Self {
        // In one piece: BLAKE3 then hashes several chunks side by side, which is worth more than the copy.
        let whole = [cluster.as_bytes(), &[0], event].concat();
        Self::from_hash(&blake3::hash(&whole))
    }

    /// An id over several parts, each closed by a zero byte, for records that Vedette itself makes.
    pub fn of_parts(parts: &[&str]) -> Self {
        let mut hasher = blake3::Hasher::new();
        for part in parts {
            hasher.update(part.as_bytes());
            hasher.update(&[0]);
        }
        Self::from_hash(&hasher.finalize())
    }

    fn from_hash(hash: &blake3::Hash) -> Self {
        let mut first = [0; 16];
        first.copy_from_slice(&hash.as_bytes()[..16]);
        Self(u128::from_be_bytes(first))
    }

    /// The id back from its 32 hex digits; `None` if the text is anything else.
    pub fn parse(text: &str) -> Option<Self> {
        /// What each digit means; of anything else more than 15.
        const VALUES: [u8; 256] = {
            let (mut values, mut byte) = ([u8::MAX; 256], 0);
            while byte < 256 {
                if let Some(value) = (byte as u8 as char).to_digit(16) {
                    values[byte] = value as u8;
                }
                byte += 1;
            }
            values
        };
        let digits: &[u8; 32] = text.as_bytes().try_into().ok()?;
        let mut all = 0;
        let mut half = |digits: &[u8]| {
            digits.iter().fold(0_u64, |number, digit| {
                let value = VALUES[usize::from(*digit)];
                all |= value;
                number << 4 | u64::from(value)
            })
        };
        let (high, low) = (half(&digits[..16]), half(&digits[16..]));
        (all <= 15).then_some(Self(u128::from(high) << 64 | u128::from(low)))
    }

    /// The 32 hex digits without an allocation.
    pub fn hex(&self) -> [u8; 32] {
        /// The digits of each byte.
        const DIGITS: [[u8; 2]; 256] = {
            let (mut pairs, mut byte) = ([[0; 2]; 256], 0);
            while byte < 256 {
                pairs[byte] = [b"0123456789abcdef"[byte >> 4], b"0123456789abcdef"[byte & 15]];
                byte += 1;
            }
            pairs
        };
        let mut out = [0; 32];
        for (pair, byte) in out.as_chunks_mut().0.iter_mut().zip(self.0.to_be_bytes()) {
            *pair = DIGITS[usize::from(byte)];
        }
        out
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EventId({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cluster_and_content_both_count() {
        let id = EventId::of("prod", b"{}");
        assert_eq!(id, EventId::of("prod", b"{}"));
        assert_ne!(id, EventId::of("dev", b"{}"));
        assert_ne!(id, EventId::of("prod", b"{ }"));
        assert_ne!(EventId::of("a", b"bc"), EventId::of("ab", b"c"));
    }

    #[test]
    fn hex_round_trips_and_rejects_anything_else() {
        let id = EventId::of("prod", b"{}");
        assert_eq!(std::str::from_utf8(&id.hex()).unwrap(), id.to_string());
        assert_eq!(EventId::parse(&id.to_string()), Some(id));
        assert_eq!(EventId::parse(&id.to_string().to_uppercase()), Some(id));
        for (place, other) in (0..32).flat_map(|place| ["g", "/", ":", "@", "`", " "].map(|other| (place, other))) {
            let mut text = id.to_string();
            text.replace_range(place..=place, other);
            assert_eq!(EventId::parse(&text), None, "{text}");
        }
        assert_eq!(EventId::parse("+1"), None);
        assert_eq!(EventId::parse(&"z".repeat(32)), None);
    }
}
