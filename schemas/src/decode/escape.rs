//! Escapes in JSON strings.

use std::borrow::Cow;

/// The number that four hex digits write.
fn hex4(text: &[u8], at: usize) -> Option<u32> {
    let digits = text.get(at..at + 4)?;
    digits.iter().try_fold(0, |number, digit| Some(number << 4 | char::from(*digit).to_digit(16)?))
}

/// Whether the bytes that follow a backslash, from `at` on, make an escape that JSON knows.
pub fn is_escape(text: &[u8], at: usize) -> bool {
    match text.get(at) {
        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => true,
        Some(b'u') => hex4(text, at + 1).is_some(),
        _ => false,
    }
}

/// The text of a checked JSON string without its quotes, and whether it is exact: half a surrogate pair becomes U+FFFD.
pub fn unescape(inner: &str) -> (Cow<'_, str>, bool) {
    if memchr::memchr(b'\\', inner.as_bytes()).is_none() {
        return (Cow::Borrowed(inner), true);
    }
    let mut out = String::with_capacity(inner.len());
    let exact = unescape_into(inner, &mut out);
    (Cow::Owned(out), exact)
}

/// The same, appended to `out`.
pub fn unescape_into(inner: &str, out: &mut String) -> bool {
    let (mut left, mut exact) = (inner, true);
    while let Some(at) = memchr::memchr(b'\\', left.as_bytes()) {
        out.push_str(&left[..at]);
        let (character, length) = escape_at(left, at);
        exact &= character.is_some();
        out.push(character.unwrap_or(char::REPLACEMENT_CHARACTER));
        left = left.get(at + length..).unwrap_or_default();
    }
    out.push_str(left);
    exact
}

/// A JSON text in which half a surrogate pair stands for U+FFFD, as the API server reads it. serde_json refuses the text as
/// it was.
pub fn mend_surrogates(text: &str) -> Cow<'_, str> {
    let bytes = text.as_bytes();
    if [r"\ud", r"\uD"].iter().all(|start| memchr::memmem::find(bytes, start.as_bytes()).is_none()) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut left = text;
    while let Some(at) = memchr::memchr(b'\\', left.as_bytes()) {
        let (character, length) = escape_at(left, at);
        let (before, after) = left.split_at((at + length).min(left.len()));
        match character {
            Some(_) => out.push_str(before),
            None => {
                out.push_str(&left[..at]);
                out.push_str(r"\ufffd");
            }
        }
        left = after;
    }
    out.push_str(left);
    Cow::Owned(out)
}

/// The character that the escape at `at` stands for, and the escape's length.
fn escape_at(text: &str, at: usize) -> (Option<char>, usize) {
    let simple = match text.as_bytes().get(at + 1) {
        Some(b'b') => '\u{8}',
        Some(b'f') => '\u{c}',
        Some(b'n') => '\n',
        Some(b'r') => '\r',
        Some(b't') => '\t',
        Some(b'u') => return unicode_at(text, at),
        Some(other) => char::from(*other),
        None => return (None, 1),
    };
    (Some(simple), 2)
}

fn unicode_at(text: &str, at: usize) -> (Option<char>, usize) {
    let high = hex4(text.as_bytes(), at + 2).unwrap_or(0xfffd);
    if !(0xd800..0xdc00).contains(&high) {
        return (char::from_u32(high), 6);
    }
    let follows = text.get(at + 6..at + 8) == Some("\\u");
    match hex4(text.as_bytes(), at + 8).filter(|low| follows && (0xdc00..0xe000).contains(low)) {
        Some(low) => (char::from_u32(0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00)), 12),
        None => (None, 6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unescapes_as_serde_json_does() {
        for raw in [r#""a\u00e9\n\"\\\/b""#, r#""\ud83d\ude00x""#, r#""\b\f\r\t\u0000""#] {
            let expected: String = serde_json::from_str(raw).unwrap();
            assert_eq!(unescape(&raw[1..raw.len() - 1]), (Cow::Owned(expected), true));
        }
        for half in [r"\ud83d", r"\ude00"] {
            assert_eq!(unescape(half), (Cow::Borrowed("\u{fffd}"), false));
        }
        assert_eq!(unescape(r"\ud83d\u0041"), (Cow::Borrowed("\u{fffd}A"), false));
        assert_eq!(unescape(r"\ud83dé"), (Cow::Borrowed("\u{fffd}é"), false));
    }

    #[test]
    fn mended_text_is_what_serde_json_takes() {
        for (text, mended) in [
            (r#"{"\ud800":"\uDC00x"}"#, r#"{"\ufffd":"\ufffdx"}"#),
            (r#"["\ud83d\ude00","\\ud800","\ud800\n"]"#, r#"["\ud83d\ude00","\\ud800","\ufffd\n"]"#),
        ] {
            assert_eq!(mend_surrogates(text), mended);
            serde_json::from_str::<serde_json::Value>(mended).unwrap();
        }
        assert!(matches!(mend_surrogates("{\"a\":1}"), Cow::Borrowed(_)));
    }
}
