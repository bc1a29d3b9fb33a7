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
pub(crate) fn iso(milliseconds: i64) -> String {
    let days = milliseconds.div_euclid(86_400_000);
    let in_day = milliseconds.rem_euclid(86_400_000);
    let (year, month, day) = civil(days);
    let (hours, minutes) = (in_day / 3_600_000, in_day / 60_000 % 60);
    let (seconds, millis) = (in_day / 1000 % 60, in_day % 1000);
    format!("{year:04}-{month:02}-{day:02}T{hours:02}:{minutes:02}:{seconds:02}.{millis:03}Z")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_days_read_as_themselves() {
        assert_eq!(iso(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(iso(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(iso(-1), "1969-12-31T23:59:59.999Z");
        assert_eq!(iso(1_795_348_805_123), "2026-11-22T12:00:05.123Z");
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
}
