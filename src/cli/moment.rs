//! Points in the log, as they are typed: `1h`, `@1024`, `2026-11-29T10:00:00Z`, `start`, `now`.

use crate::config::raw::Span;
use kairo_wire::codec::time::from_iso;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

/// Where in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// The first event that is kept.
    Start,
    /// Here.
    Now,
    /// A place.
    Seq(u64),
    /// A time, milliseconds since 1970.
    Time(u64),
    /// So many milliseconds before now.
    Ago(u64),
}

impl Moment {
    /// Milliseconds since 1970, for those that are times.
    pub(crate) fn time_ms(self, now_ms: u64) -> Option<u64> {
        match self {
            Moment::Start | Moment::Seq(_) => None,
            Moment::Now => Some(now_ms),
            Moment::Time(at) => Some(at),
            Moment::Ago(before) => Some(now_ms.saturating_sub(before)),
        }
    }
}

impl FromStr for Moment {
    type Err = String;
    fn from_str(text: &str) -> Result<Moment, String> {
        let wrong = || format!("{text:?}: write 1h, @1024, 2026-11-29T10:00:00Z, start or now");
        match text {
            "start" => return Ok(Moment::Start),
            "now" => return Ok(Moment::Now),
            _ => {}
        }
        if let Some(place) = text.strip_prefix('@') {
            return place.parse().map(Moment::Seq).map_err(|_| wrong());
        }
        let time = from_iso(text).and_then(|time| u64::try_from(time).ok());
        time.map(Moment::Time).or_else(|| Span::parse(text).map(|span| Moment::Ago(span.0))).ok_or_else(wrong)
    }
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_place_a_time_or_a_while_ago() {
        let cases = [
            ("start", Moment::Start),
            ("now", Moment::Now),
            ("@17", Moment::Seq(17)),
            ("90s", Moment::Ago(90_000)),
            ("1h30m", Moment::Ago(5_400_000)),
            ("2w", Moment::Ago(1_209_600_000)),
            ("1970-01-01T00:00:01Z", Moment::Time(1_000)),
            ("1970-01-02", Moment::Time(86_400_000)),
        ];
        for (text, moment) in cases {
            assert_eq!(text.parse(), Ok(moment), "{text}");
        }
        for wrong in
            ["", "h", "1", "1y", "@", "@-1", "soon", "1hh", "é", "5é", "99999999999999999w", "1969-01-01"]
        {
            assert!(wrong.parse::<Moment>().is_err(), "{wrong}");
        }
        assert_eq!(Moment::Ago(10).time_ms(100), Some(90));
        assert_eq!(Moment::Ago(1_000).time_ms(100), Some(0));
        assert_eq!(Moment::Seq(1).time_ms(100), None);
    }
}
