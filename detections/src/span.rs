//! Lengths of time as rules write them: `90s`, `10m`, `1h`, `14d`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer};

const SECOND: i64 = 1_000_000;

/// A length of time in whole seconds, more than none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(i64);

impl Span {
    pub fn from_seconds(seconds: u32) -> Self {
        Self(i64::from(seconds.max(1)) * SECOND)
    }

    /// Reads a length of time that may be none at all.
    pub fn or_zero(text: &str) -> Result<Self, String> {
        let unit = UNITS.into_iter().find(|(unit, _)| text.ends_with(*unit));
        let (_, seconds) = unit.ok_or_else(|| wrong(text))?;
        let digits = &text[..text.len() - 1];
        let number: Option<u32> = digits.parse().ok().filter(|_| digits.bytes().all(|byte| byte.is_ascii_digit()));
        // Ten years: anything longer is a slip of the keyboard.
        match i64::from(number.ok_or_else(|| wrong(text))?) * seconds {
            seconds if seconds > 3_653 * 86_400 => Err(format!("{text:?} is more than ten years")),
            seconds => Ok(Self(seconds * SECOND)),
        }
    }

    /// In microseconds.
    pub fn micros(self) -> i64 {
        self.0
    }

    /// In days, rounded up.
    pub fn days(self) -> i64 {
        self.0.div_euclid(86_400 * SECOND) + i64::from(self.0 % (86_400 * SECOND) != 0)
    }
}

const UNITS: [(char, i64); 4] = [('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)];

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::or_zero(text).and_then(|span| if span.0 == 0 { Err(wrong(text)) } else { Ok(span) })
    }
}

fn wrong(text: &str) -> String {
    format!("{text:?} is not a length of time such as 90s, 10m, 1h or 14d")
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0 / SECOND;
        let fits = |(_, unit): &(char, i64)| seconds % unit == 0;
        let (unit, length) = UNITS.into_iter().find(fits).unwrap_or(('s', 1));
        write!(f, "{}{unit}", seconds / length)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A length of time, if there is one, which may be none at all.
pub fn some_or_zero<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Span>, D::Error> {
    let text: Option<String> = Option::deserialize(deserializer)?;
    text.map(|text| Span::or_zero(&text)).transpose().map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_and_written() {
        for (text, micros, shown) in [
            ("90s", 90 * SECOND, "90s"),
            ("120s", 120 * SECOND, "2m"),
            ("1h", 3_600 * SECOND, "1h"),
            ("14d", 14 * 86_400 * SECOND, "14d"),
            ("24h", 86_400 * SECOND, "1d"),
        ] {
            let span: Span = text.parse().unwrap();
            assert_eq!((span.micros(), span.to_string()), (micros, shown.to_owned()));
        }
        assert_eq!("36h".parse::<Span>().unwrap().days(), 2);
        for text in ["", "10", "m", "0s", "-1s", "+1h", "1.5h", "10 m", "99999d"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
            assert_eq!(Span::or_zero(text).is_ok(), text == "0s", "{text}");
        }
        assert_eq!(Span::or_zero("0s").unwrap().micros(), 0);
    }
}
