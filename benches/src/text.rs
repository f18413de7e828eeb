//! Appending formatted text to a `String`, which can't fail.

/// `write!` into a `String` without the `Result` that a `String` never makes an error of.
macro_rules! put {
    ($out:expr, $($format:tt)*) => {
        $crate::text::append($out, format_args!($($format)*))
    };
}
pub(crate) use put;

pub(crate) fn append(out: &mut String, text: std::fmt::Arguments<'_>) {
    // A `String` takes everything: the error type is only there for other writers.
    let _ = std::fmt::Write::write_fmt(out, text);
}

/// Appends `items` with commas between them, each written by `write`.
pub(crate) fn put_list<T>(out: &mut String, items: impl IntoIterator<Item = T>, mut write: impl FnMut(&mut String, T)) {
    for (i, item) in items.into_iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        write(out, item);
    }
}
