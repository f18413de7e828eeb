//! Values of a rule's file, read as strictly as its JSON Schema says: YAML would let a text pass for a number, and the other way
//! round.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer};

/// A whole number; `2.0` is one, and `"2"` is a text.
pub fn whole<'de, T: TryFrom<i64>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    deserializer.deserialize_any(Whole(PhantomData))
}

/// A whole number that may be left out, and not null.
pub fn some_whole<'de, T: TryFrom<i64>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    whole(deserializer).map(Some)
}

struct Whole<T>(PhantomData<T>);

impl<T: TryFrom<i64>> Visitor<'_> for Whole<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number")
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<T, E> {
        T::try_from(number).map_err(|_| E::custom(format!("{number} is out of range")))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<T, E> {
        let whole = i64::try_from(number).ok().and_then(|number| T::try_from(number).ok());
        whole.ok_or_else(|| E::custom(format!("{number} is out of range")))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<T, E> {
        // Beyond it not every whole number is a float.
        let exact = number.fract() == 0.0 && number.abs() < 9e15;
        let whole = exact.then_some(number as i64).and_then(|number| T::try_from(number).ok());
        whole.ok_or_else(|| E::custom(format!("{number} is not a whole number here")))
    }
}

/// Words: a text, and no number or null that YAML would write as one.
pub fn words<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    deserializer.deserialize_any(Words)
}

struct Words;

impl Visitor<'_> for Words {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text; what looks like something else goes into quotes")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }
}

/// What says nothing when it is empty, and is then to be left out.
pub fn filled<'de, T: Deserialize<'de> + Default + PartialEq, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    let value = T::deserialize(deserializer)?;
    if value == T::default() { Err(D::Error::custom("is empty; it may be left out")) } else { Ok(value) }
}

#[cfg(test)]
mod tests {
    use crate::rule::{Rule, RuleTest};

    const RULE: &str = "{id: a, title: t, description: d, severity: low, summary: s, ";

    fn rule(more: &str) -> Result<Rule, String> {
        serde_saphyr::from_str(&format!("{RULE}{more}}}")).map_err(|error| error.to_string())
    }

    #[test]
    fn whole_numbers_may_be_written_with_a_point_and_not_as_text() {
        let read = rule("version: 2.0, risk: 50.0").unwrap();
        assert_eq!((read.version, read.risk), (2, Some(50)));
        assert_eq!(rule("version: 3").unwrap().version, 3);
        for (more, want) in [
            ("version: '2'", "whole number"),
            ("version: 2.5", "whole number"),
            ("version: 3000000000", "out of range"),
            ("risk: '5'", "whole number"),
            ("risk: null", "whole number"),
            ("risk: -1", "out of range"),
        ] {
            let error = rule(more).unwrap_err();
            assert!(error.contains(want), "{more}: {error}");
        }
        let test = |times: &str| -> Result<RuleTest, String> {
            let text = format!("{{name: n, events: [{{base: b, times: {times}}}]}}");
            serde_saphyr::from_str(&text).map_err(|error| error.to_string())
        };
        assert_eq!(test("2").unwrap().events[0].times, Some(2));
        assert!(test("'2'").unwrap_err().contains("whole number"));
    }

    #[test]
    fn words_are_text() {
        let titled = |title: &str| {
            let rule = format!("{}}}", RULE.replace("title: t", title).trim_end_matches(", "));
            serde_saphyr::from_str::<Rule>(&rule)
        };
        for title in ["title: '5'", "title: two words", "title: \"null\"", "title: 5 pods", "title: 2026-01-01"] {
            assert!(titled(title).is_ok(), "{title}");
        }
        for title in ["title: 5", "title: null", "title: ~", "title: 1.5", "title: true", "title: [a]"] {
            assert!(titled(title).is_err(), "{title}");
        }
    }

    #[test]
    fn what_is_given_is_not_empty() {
        for more in ["steps: []", "terms: []", "group_by: []", "sql: ''"] {
            let error = rule(more).unwrap_err();
            assert!(error.contains("is empty"), "{more}: {error}");
        }
        assert!(rule("terms: [a]").is_ok());
    }
}
