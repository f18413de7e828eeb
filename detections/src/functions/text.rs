//! Patterns over text.

use std::iter::Peekable;
use std::str::Chars;

use regex::Regex;

use super::Function;
use super::matching::{Pattern, matching};
use super::udf::TextFunction;

pub(super) fn functions() -> Vec<TextFunction> {
    vec![matching(
        Function {
            name: "glob_match",
            family: "Text",
            signature: "glob_match(text, pattern) -> boolean",
            description: "Whether the whole text matches: * is any run of characters, ? one, [a-z] and [!a-z] one of a class, \\ escapes.",
            example: "glob_match('registry.example.com/team/app', '*.example.com/*')",
            result: "true",
        },
        Pattern::Second,
        glob,
        Regex::is_match,
    )]
}

/// A glob, compiled. Its matching time is linear in the text.
fn glob(pattern: &str) -> Result<Regex, String> {
    let expression = glob_to_regex(pattern)?;
    Regex::new(&expression).map_err(|_| format!("the glob {pattern:?} is too long"))
}

/// A glob as a regular expression over the whole text. `*` takes `/` as any other character.
pub(crate) fn glob_to_regex(pattern: &str) -> Result<String, String> {
    let wrong = |reason: &str| format!("the glob {pattern:?} {reason}");
    let mut expression = String::from(r"(?s)\A");
    let mut characters = pattern.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '*' => expression.push_str(".*"),
            '?' => expression.push('.'),
            '[' => expression.push_str(&class(&mut characters).ok_or_else(|| wrong("has a class that is not one"))?),
            '\\' => expression.push_str(&escaped(characters.next().ok_or_else(|| wrong("ends in a backslash"))?)),
            plain => expression.push_str(&escaped(plain)),
        }
    }
    Ok(expression + r"\z")
}

/// The rest of a class, from behind its `[`; none if it doesn't end or has a range that runs backwards.
fn class(characters: &mut Peekable<Chars>) -> Option<String> {
    let mut expression = String::from("[");
    if characters.next_if_eq(&'!').is_some() {
        expression.push('^');
    }
    // A `]` that comes first is one of the class.
    let mut first = true;
    loop {
        let start = match characters.next()? {
            ']' if !first => break,
            '\\' => characters.next()?,
            plain => plain,
        };
        first = false;
        expression.push_str(&escaped(start));
        let mut ahead = characters.clone();
        if ahead.next() == Some('-') && ahead.peek().is_some_and(|end| *end != ']') {
            let end = match ahead.next()? {
                '\\' => ahead.next()?,
                plain => plain,
            };
            if end < start {
                return None;
            }
            expression.push('-');
            expression.push_str(&escaped(end));
            *characters = ahead;
        }
    }
    expression.push(']');
    Some(expression)
}

fn escaped(character: char) -> String {
    regex::escape(character.encode_utf8(&mut [0; 4]))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::super::testing::{check, refused};
    use super::*;

    #[test]
    fn globs() {
        let cases = [
            ("", "", true),
            ("a", "", false),
            ("", "*", true),
            ("abc", "abc", true),
            ("abcd", "abc", false),
            ("xabc", "abc", false),
            ("abc", "ABC", false),
            ("a/b/c", "a*c", true),
            ("a\nb", "a*b", true),
            ("b", "**/b", false),
            ("a/b", "**/b", true),
            ("abc", "a?c", true),
            ("a/c", "a?c", true),
            ("aéc", "a?c", true),
            ("ac", "a?c", false),
            ("b", "[abc]", true),
            ("d", "[abc]", false),
            ("d", "[!a-c]", true),
            ("b", "[!a-c]", false),
            ("é", "[à-ü]", true),
            ("]", "[]]", true),
            ("a", "[!]]", true),
            ("-", "[a-]", true),
            ("b", "[a-]", false),
            ("^", "[a^]", true),
            ("]", r"[a\]]", true),
            ("a", "[[:alpha:]]", false),
            ("*", r"\*", true),
            ("a", r"\*", false),
            ("[a]", r"\[a]", true),
            (r"\", r"\\", true),
            ("a.b", "a.b", true),
            ("axb", "a.b", false),
            ("{a,b}", "{a,b}", true),
            ("a", "{a,b}", false),
            ("a+b|c$(x)", "a+b|c$(x)", true),
        ];
        for (text, pattern, expected) in cases {
            check(&[(&format!("glob_match('{text}', '{pattern}')"), &expected.to_string())]);
        }
    }

    #[test]
    fn what_is_no_glob_is_refused() {
        for odd in ["[", "a[b", "[]", "[!]", "[z-a]", r"a\", r"[a\", r"[a-\"] {
            refused(&format!("glob_match('a', '{odd}')"), &["glob_match()", "the glob"]);
        }
        check(&[("glob_match('[', column1) FROM (VALUES ('['))", "false")]);
    }

    #[test]
    fn many_stars_take_no_time() {
        let started = Instant::now();
        let stars = glob(&"a*".repeat(60)).unwrap();
        assert!(!stars.is_match(&("a".repeat(59) + &"b".repeat(20_000))));
        assert!(started.elapsed() < Duration::from_secs(5));
    }
}
