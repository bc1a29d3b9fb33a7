//! Timestamps: MessagePack's extension −1, and ISO 8601 with milliseconds, as JavaScript prints it.

/// A point in time, from an extension −1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Timestamp {
    seconds: i64,
    nanoseconds: u32,
}

impl Timestamp {
    /// Reads the body of an extension −1.
    pub(crate) fn parse(body: &[u8]) -> Option<Timestamp> {
        let (seconds, nanoseconds) = match body.len() {
            4 => (i64::from(u32::from_be_bytes(body.try_into().ok()?)), 0),
            8 => {
                let packed = u64::from_be_bytes(body.try_into().ok()?);
                ((packed & ((1 << 34) - 1)) as i64, (packed >> 34) as u32)
            }
            12 => {
                let (nanoseconds, seconds) = body.split_at(4);
                (
                    i64::from_be_bytes(seconds.try_into().ok()?),
                    u32::from_be_bytes(nanoseconds.try_into().ok()?),
                )
            }
            _ => return None,
        };
        (nanoseconds < 1_000_000_000).then_some(Timestamp { seconds, nanoseconds })
    }

    /// Milliseconds since 1970, as far as they fit.
    pub(crate) fn milliseconds(self) -> i64 {
        self.seconds.saturating_mul(1000).saturating_add(i64::from(self.nanoseconds / 1_000_000))
    }

    /// `2026-01-31T12:00:00.000Z`.
    pub(crate) fn iso(self) -> String {
        iso(self.milliseconds())
    }
}

/// `2026-01-31T12:00:00.000Z` of milliseconds since 1970.
pub fn iso(milliseconds: i64) -> String {
    let (year, text) = iso_digits(milliseconds);
    let text = std::str::from_utf8(&text).unwrap_or_default();
    match year {
        0..=9_999 => text.to_owned(),
        _ => format!("{year:04}{}", text.get(4..).unwrap_or_default()),
    }
}

/// The same as bytes, and the year, of which the last four digits are in them.
pub(crate) fn iso_digits(milliseconds: i64) -> (i64, [u8; 24]) {
    let (year, month, day) = civil(milliseconds.div_euclid(86_400_000));
    let in_day = milliseconds.rem_euclid(86_400_000) as u32;
    let of_year = year.rem_euclid(10_000) as u32;
    let mut text = *b"0000-00-00T00:00:00.000Z";
    let mut put = |at: usize, number: u32| {
        text[at] = b'0' + (number / 10 % 10) as u8;
        text[at + 1] = b'0' + (number % 10) as u8;
    };
    put(0, of_year / 100);
    put(2, of_year);
    put(5, month as u32);
    put(8, day as u32);
    put(11, in_day / 3_600_000);
    put(14, in_day / 60_000 % 60);
    put(17, in_day / 1_000 % 60);
    put(20, in_day / 10);
    text[22] = b'0' + (in_day % 10) as u8;
    (year, text)
}

/// Year, month and day of a day counted from 1970-01-01 (Howard Hinnant's `civil_from_days`).
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// Milliseconds since 1970 of `2026-01-31T12:00:00.000Z` and its shorter forms: without seconds or their fraction, with an
/// offset such as `+02:00` for the `Z` or none (which is UTC), or the day alone.
pub fn from_iso(text: &str) -> Option<i64> {
    let (date, time) = text.split_once(['T', ' ']).unwrap_or((text, "00:00"));
    let mut parts = date.splitn(3, '-');
    let year = digits(parts.next()?, 4..=4)?;
    let (month, day) = (digits(parts.next()?, 2..=2)?, digits(parts.next()?, 2..=2)?);
    let (time, offset_minutes) = match time.find(['Z', '+', '-']) {
        None => (time, 0),
        Some(at) if &time[at..] == "Z" => (&time[..at], 0),
        Some(at) => {
            let (hours, minutes) = time[at + 1..].split_once(':')?;
            let offset = digits(hours, 2..=2)? * 60 + digits(minutes, 2..=2)?;
            (&time[..at], if time[at..].starts_with('-') { -offset } else { offset })
        }
    };
    let mut parts = time.splitn(3, ':');
    let (hours, minutes) = (digits(parts.next()?, 2..=2)?, digits(parts.next()?, 2..=2)?);
    let (seconds, fraction) = match parts.next() {
        None => (0, 0),
        Some(part) => {
            let (seconds, fraction) = part.split_once('.').unwrap_or((part, "0"));
            digits(fraction, 1..=9)?;
            let thousandths: String = fraction.chars().chain("00".chars()).take(3).collect();
            (digits(seconds, 2..=2)?, digits(&thousandths, 3..=3)?)
        }
    };
    let days = days(year, month, day);
    let is_a_day = (1..=12).contains(&month) && civil(days) == (year, month, day);
    let is_a_time = hours < 24 && minutes < 60 && seconds < 60 && offset_minutes.abs() < 24 * 60;
    let minutes = days * 1_440 + hours * 60 + minutes - offset_minutes;
    (is_a_day && is_a_time).then_some(minutes * 60_000 + seconds * 1_000 + fraction)
}

/// A number of so many digits and nothing else.
fn digits(text: &str, count: std::ops::RangeInclusive<usize>) -> Option<i64> {
    let only = count.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| only)
}

/// The inverse of [`civil`] (Howard Hinnant's `days_from_civil`).
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_days_read_as_themselves() {
        assert_eq!(iso(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(iso(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(iso(-1), "1969-12-31T23:59:59.999Z");
        assert_eq!(iso(1_795_348_805_123), "2026-11-22T12:00:05.123Z");
        assert_eq!(iso(253_402_300_800_045), "10000-01-01T00:00:00.045Z");
    }

    #[test]
    fn all_three_forms_of_a_timestamp_agree() {
        let four = Timestamp::parse(&[0, 0, 0, 10]).unwrap();
        let eight = Timestamp::parse(&10u64.to_be_bytes()).unwrap();
        let twelve = Timestamp::parse(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10]).unwrap();
        assert_eq!(four, eight);
        assert_eq!(four, twelve);
        assert_eq!(four.iso(), "1970-01-01T00:00:10.000Z");
        assert_eq!(Timestamp::parse(&[0xff; 1]), None, "what JavaScript sends for an invalid date");
    }

    #[test]
    fn a_time_is_read_as_it_is_written_and_shorter() {
        for milliseconds in
            [0, 1, -1, 951_782_400_000, 1_796_000_000_123, 4_102_444_799_999, -2_208_988_800_000]
        {
            assert_eq!(from_iso(&iso(milliseconds)), Some(milliseconds), "{}", iso(milliseconds));
        }
        let noon = from_iso("2026-11-29T12:00:00.000Z");
        for text in [
            "2026-11-29T12:00",
            "2026-11-29 12:00:00",
            "2026-11-29T14:00+02:00",
            "2026-11-29T05:30:00.0-06:30",
        ] {
            assert_eq!(from_iso(text), noon, "{text}");
        }
        assert_eq!(from_iso("2026-11-29").map(|day| day + 43_200_000), noon);
        for wrong in [
            "",
            "2026",
            "2026-02-30",
            "2026-13-01",
            "2026-01-01T24:00",
            "2026-01-01T1:00",
            "2026-01-01T10:00:00.Z",
            "2026-01-01T10:00Zulu",
            "2026-01-01T10:00+2",
            "+026-01-01",
            "2026-01-01T10:00:61",
            "2026-01-01T10",
        ] {
            assert_eq!(from_iso(wrong), None, "{wrong}");
        }
    }
}
