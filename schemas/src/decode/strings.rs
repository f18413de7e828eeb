//! Where a string in a text ends that is taken to be JSON.

use super::escape::is_escape;
use super::lanes;

/// The end of the string whose first byte after the quote is at `from`, and whether there is an escape in it. `None` if it does
/// not end, or if a backslash in it begins no escape that JSON knows.
#[inline(always)]
pub fn end(text: &[u8], from: usize) -> Option<(usize, bool)> {
    let end = next(text, from)?;
    if text.get(end) == Some(&b'"') { Some((end, false)) } else { end_with_escapes(text, end) }
}

/// The same from a backslash on.
#[inline(never)]
fn end_with_escapes(text: &[u8], mut at: usize) -> Option<(usize, bool)> {
    while text.get(at) == Some(&b'\\') {
        if !is_escape(text, at + 1) {
            return None;
        }
        at = next(text, at + 2)?;
    }
    Some((at, true))
}

/// Where the next quote or backslash is.
#[inline(always)]
fn next(text: &[u8], mut from: usize) -> Option<usize> {
    while let Some(bytes) = text.get(from..)?.first_chunk() {
        let found = lanes::either(bytes, b'"', b'\\');
        if found != 0 {
            return Some(from + found.trailing_zeros() as usize);
        }
        from += lanes::WIDTH;
    }
    memchr::memchr2(b'"', b'\\', text.get(from..)?).map(|found| from + found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_end_at_their_quotes() {
        for length in (0..70).chain([500, 600]) {
            let (plain, after) = ("x".repeat(length), " ".repeat(length));
            for (inside, escaped) in [
                (plain.clone(), false),
                (format!("{plain}\\\""), true),
                (format!("\\\\{plain}"), true),
                (format!("{plain}\\u00e9{plain}\\\\"), true),
                (format!("é{plain}[{{:,}}]"), false),
            ] {
                for after in ["", ":1}", "\\\"", &after] {
                    let text = format!("\"{inside}\"{after}");
                    assert_eq!(end(text.as_bytes(), 1), Some((1 + inside.len(), escaped)), "{text}");
                }
                for wrong in ["", "\\", "\\x\"", "\\u12\"", "\\\""] {
                    assert_eq!(end(format!("\"{inside}{wrong}").as_bytes(), 1), None, "{inside}{wrong}");
                }
            }
            assert_eq!(end(plain.as_bytes(), length + 1), None);
        }
    }
}
