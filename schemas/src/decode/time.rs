//! RFC 3339 times as microseconds since 1970, without a panic on any input.

const DAY: i64 = 86_400_000_000;

/// 0001-01-01T00:00:00Z, Go's zero time.
pub const ZERO: i64 = -62_135_596_800_000_000;
/// 9999-12-31T23:59:59.999999Z.
const LAST: i64 = 253_402_300_799_999_999;

/// The UTC day of a time, in days since 1970.
pub fn day(micros: i64) -> i64 {
    micros.div_euclid(DAY)
}

/// The time that an RFC 3339 text means, finer digits cut off. `None` outside the years 1 to 9999.
pub fn parse(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    let (year, month, mday) = (number(bytes, 0, 4)?, number(bytes, 5, 2)?, number(bytes, 8, 2)?);
    let (hour, minute, second) = (number(bytes, 11, 2)?, number(bytes, 14, 2)?, number(bytes, 17, 2)?);
    let marks = bytes[4] == b'-' && bytes[7] == b'-' && bytes[13] == b':' && bytes[16] == b':';
    let valid = marks
        && matches!(bytes[10], b'T' | b't' | b' ')
        && (1..=days_in(year, month)).contains(&mday)
        && hour < 24
        && minute < 60
        && second <= 60;
    if !valid {
        return None;
    }
    let (fraction, zone) = split_fraction(&bytes[19..])?;
    let seconds = ((hour * 60 + minute) * 60 + second) - offset(zone)?;
    let micros = days_from(year, month, mday) * DAY + seconds * 1_000_000 + fraction;
    (ZERO..=LAST).contains(&micros).then_some(micros)
}

/// A minute that times fall in: those of one batch mostly fall in the same.
#[derive(Debug, Default)]
pub struct Minute {
    /// Year to minute, as `format` writes them; zeros before the first time.
    text: [u8; 16],
    start: i64,
}

impl Minute {
    /// The time that a text means, and whether it is what `format` makes of it again.
    #[inline(always)]
    pub fn parse(&mut self, text: &str) -> Option<(i64, bool)> {
        match self.within(text.as_bytes()) {
            Some(micros) => Some((micros, true)),
            None => self.find(text),
        }
    }

    /// The time of a text as `format` writes it, if it falls in this minute.
    #[inline(always)]
    fn within(&self, text: &[u8]) -> Option<i64> {
        let text: &[u8; 27] = text.try_into().ok()?;
        let mut highest = 0;
        let mut digits = |from: usize, to: usize| {
            text[from..to].iter().fold(0, |sum, byte| {
                let digit = byte.wrapping_sub(b'0');
                highest = digit.max(highest);
                sum * 10 + i64::from(digit)
            })
        };
        let (second, micros) = (digits(17, 19), digits(20, 26));
        let marks = [text[16], text[19], text[26]];
        let valid = text[..16] == self.text && marks == *b":.Z" && highest <= 9 && second < 60;
        valid.then_some(self.start + second * 1_000_000 + micros)
    }

    #[cold]
    fn find(&mut self, text: &str) -> Option<(i64, bool)> {
        let micros = parse(text)?;
        let exact = is_canonical(text);
        if let (true, Some(minute)) = (exact, text.as_bytes().first_chunk()) {
            (self.text, self.start) = (*minute, micros - micros.rem_euclid(60_000_000));
        }
        Some((micros, exact))
    }
}

/// Whether a text that `parse` takes is what `format` makes of it again.
fn is_canonical(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() == 27 && bytes[10] == b'T' && bytes[17..19] != *b"60" && bytes[19] == b'.' && bytes[26] == b'Z'
}

/// A time from whole nanoseconds since 1970.
pub fn from_nanos(nanos: i64) -> i64 {
    nanos.div_euclid(1000)
}

/// The canonical text, `2006-01-02T15:04:05.000000Z`. `None` outside the years 1 to 9999.
pub fn format(micros: i64) -> Option<[u8; 27]> {
    if !(ZERO..=LAST).contains(&micros) {
        return None;
    }
    let (year, month, mday) = civil(micros.div_euclid(DAY));
    let time = micros.rem_euclid(DAY);
    let seconds = time / 1_000_000;
    let mut out = *b"0000-00-00T00:00:00.000000Z";
    write(&mut out[0..4], year);
    write(&mut out[5..7], month);
    write(&mut out[8..10], mday);
    write(&mut out[11..13], seconds / 3600);
    write(&mut out[14..16], seconds / 60 % 60);
    write(&mut out[17..19], seconds % 60);
    write(&mut out[20..26], time % 1_000_000);
    Some(out)
}

fn number(bytes: &[u8], at: usize, length: usize) -> Option<i64> {
    let digits = bytes.get(at..at + length)?;
    digits.iter().try_fold(0, |sum, b| b.is_ascii_digit().then(|| sum * 10 + i64::from(b - b'0')))
}

fn write(out: &mut [u8], mut number: i64) {
    for byte in out.iter_mut().rev() {
        *byte = b'0' + u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
    }
}

/// Microseconds of a fraction, if there is one, and what follows it.
fn split_fraction(bytes: &[u8]) -> Option<(i64, &[u8])> {
    let Some(digits) = bytes.strip_prefix(b".") else { return Some((0, bytes)) };
    let length = digits.iter().take_while(|b| b.is_ascii_digit()).count();
    let padded = digits[..length].iter().map(|b| i64::from(b - b'0')).chain(std::iter::repeat(0));
    let micros = padded.take(6).fold(0, |sum, digit| sum * 10 + digit);
    (length > 0).then_some((micros, &digits[length..]))
}

/// Seconds east of UTC.
fn offset(zone: &[u8]) -> Option<i64> {
    let sign = match zone {
        b"Z" | b"z" => return Some(0),
        [b'+', _, _, b':', _, _] => 1,
        [b'-', _, _, b':', _, _] => -1,
        _ => return None,
    };
    let (hours, minutes) = (number(zone, 1, 2)?, number(zone, 4, 2)?);
    (hours < 24 && minutes < 60).then_some(sign * (hours * 60 + minutes) * 60)
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => 0,
    }
}

/// Days since 1970 of a date: the year is counted from March, so that the leap day comes last.
fn days_from(year: i64, month: i64, mday: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + mday - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let mday = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, mday)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<i64>) {
        assert_eq!(parse(text), expected, "{text}");
    }

    #[test]
    fn parses_what_senders_write() {
        check("1970-01-01T00:00:00.000001Z", Some(1));
        check("2023-03-03T03:03:03.000000003Z", Some(1_677_812_583_000_000));
        check("2024-02-29T12:00:00+02:00", Some(1_709_200_800_000_000));
        check("2024-02-29T12:00:00.5-00:30", Some(1_709_209_800_500_000));
        check("0001-01-01T00:00:00Z", Some(ZERO));
        check("9999-12-31T23:59:59.9999999Z", Some(LAST));
    }

    #[test]
    fn refuses_the_rest() {
        for text in [
            "",
            "now",
            "2024-02-30T00:00:00Z",
            "2023-02-29T00:00:00Z",
            "2024-13-01T00:00:00Z",
            "2024-01-01T24:00:00Z",
            "2024-01-01",
            "2024-01-01T00:00:00",
            "2024-01-01T00:00:00.Z",
            "2024-01-01T00:00:00+0100",
            "0000-12-31T23:59:59Z",
            "0001-01-01T00:00:00+01:00",
            "9999-12-31T23:59:59-01:00",
            "２０２４-01-01T00:00:00Z",
            "2024-01-01T00:00:00Zé",
            "-024-01-01T00:00:00Z",
        ] {
            check(text, None);
        }
    }

    proptest::proptest! {
        #[test]
        fn format_and_parse_agree(micros in ZERO..=LAST) {
            let text = format(micros).unwrap();
            let text = std::str::from_utf8(&text).unwrap();
            assert_eq!(parse(text), Some(micros));
            assert!(is_canonical(text));
            let chrono = chrono::DateTime::from_timestamp_micros(micros).unwrap();
            assert_eq!(chrono.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string(), text);
        }

        #[test]
        fn canonical_is_what_format_writes(text in "20(16|25)-0[13]-[12][0-9][Tt ]23:5[0-9]:(60|[0-5][0-9])(\\.[0-9]{5,7})?([Zz]|\\+00:00)") {
            let formatted = parse(&text).and_then(format);
            let same = formatted.is_some_and(|formatted| formatted == text.as_bytes());
            assert_eq!(formatted.is_some() && is_canonical(&text), same, "{text}");
        }

        #[test]
        fn within_a_minute_a_time_means_the_same(
            text in "(0000|0001|2024|9999)-(0[0-9]|1[0-3])-[0-3][0-9][Tt:]([01][0-9]|2[0-5]):[0-6][0-9]",
            rest in proptest::collection::vec("[:;][0-6][0-9][.:][0-9/:]{6}[Zz]|:[0-5][0-9][.][0-9]{6}Z", 1..4),
        ) {
            let mut minute = Minute::default();
            for rest in rest {
                let text = format!("{text}{rest}");
                let expected = parse(&text).map(|micros| (micros, is_canonical(&text)));
                assert_eq!(minute.parse(&text), expected, "{text}");
            }
        }

        #[test]
        fn parse_never_panics(text in "\\PC{0,40}") {
            parse(&text);
        }
    }
}
