//! What a program's report comes to: the same few numbers whoever it was, and its own words beside them.
//!
//! Pure: a [`Record`] (what one report said), what is known from elsewhere, and time go in, [`Progress`] comes out.
//! A number that is no number is absent; nothing in here is ever infinite, negative or past the end.

use crate::adapters::declaration::{Fields, Take};
use serde::Serialize;
use std::collections::BTreeMap;

/// One report in the program's own words: at most [`WORDS_MAX`], each at most [`WORD_BYTES_MAX`] long.
pub(crate) type Record = BTreeMap<String, String>;

/// Words of a report that are kept.
pub(crate) const WORDS_MAX: usize = 64;
/// Bytes of a word that are kept; as long as any number is, and some prose.
pub(crate) const WORD_BYTES_MAX: usize = 256;
/// A rate over less time than this says nothing.
const RATE_AFTER_MS: u64 = 1_000;
/// What every client can still count exactly.
const EXACT_MAX: f64 = 9_007_199_254_740_991.0;

/// How far a program is.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Progress {
    /// What is done, in `unit`.
    pub(crate) done: Option<f64>,
    /// Of how much.
    pub(crate) total: Option<f64>,
    /// What is counted.
    pub(crate) unit: Option<String>,
    /// `unit` a second.
    pub(crate) rate: Option<f64>,
    /// Milliseconds that are left.
    pub(crate) eta_ms: Option<u64>,
    /// 0 to 100.
    pub(crate) percent: Option<f64>,
    /// The report as it was.
    pub(crate) raw: Record,
    /// Lines up to here that made no sense.
    pub(crate) broken_lines: u64,
}

impl Progress {
    /// Whether this says more than `before` did; time alone says nothing.
    pub(crate) fn is_news(&self, before: &Progress) -> bool {
        let said = |of: &Progress| (of.done, of.total, of.percent);
        said(self) != said(before) || self.raw != before.raw
    }
}

/// What is known besides the report itself: the first that was said of each counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    numbers: [Option<f64>; 5],
    unit: Option<String>,
}

/// The fields that are numbers, and where [`Known`] has them.
const NUMBERS: [fn(&Fields) -> &Option<Take>; 5] =
    [|f| &f.done, |f| &f.total, |f| &f.rate, |f| &f.eta, |f| &f.percent];

impl Known {
    /// Reads what `fields` take from a record. The count is of those that were there and made no sense.
    pub(crate) fn read(fields: &Fields, record: &Record) -> (Known, u64) {
        let mut broken = 0;
        let numbers = NUMBERS.map(|field| {
            let take = field(fields).as_ref()?;
            match number(record.get(&take.from)?) {
                Ok(number) => {
                    number.map(|number| take.scaled(number)).filter(|n| (0.0..=EXACT_MAX).contains(n))
                }
                Err(NoNumber) => {
                    broken += 1;
                    None
                }
            }
        });
        let unit = fields.unit.as_ref().and_then(|take| record.get(&take.from).cloned());
        (Known { numbers, unit }, broken)
    }

    /// What was not known yet.
    pub(crate) fn learn(&mut self, more: Known) {
        for (mine, theirs) in self.numbers.iter_mut().zip(more.numbers) {
            *mine = mine.or(theirs);
        }
        self.unit = self.unit.take().or(more.unit);
    }

    /// The report with what was known before; none if nothing in it says how far it is.
    pub(crate) fn report(mut self, before: &Known, unit: Option<&str>, elapsed_ms: u64) -> Option<Progress> {
        let [done, _, _, _, percent] = self.numbers;
        if done.is_none() && percent.is_none() {
            return None;
        }
        self.learn(before.clone());
        let [done, total, rate, eta, percent] = self.numbers;
        let total = total.filter(|total| *total > 0.0);
        let of_total = || Some((done? / total? * 100.0).min(100.0));
        let percent = percent.map(|percent| percent.min(100.0)).or_else(of_total);
        let seconds = (elapsed_ms >= RATE_AFTER_MS).then(|| elapsed_ms as f64 / 1_000.0);
        let rate = rate.or_else(|| Some(done? / seconds?));
        let by_rate = || Some((total? - done?).max(0.0) / rate.filter(|rate| *rate > 0.0)?);
        let by_share = || {
            let percent = percent.filter(|percent| *percent > 0.0)?;
            Some(seconds? * (100.0 - percent) / percent)
        };
        let left = eta.or_else(by_rate).or_else(by_share).map(|left| (left * 1_000.0).min(EXACT_MAX));
        Some(Progress {
            done,
            total,
            unit: self.unit.or_else(|| unit.map(str::to_owned)),
            rate,
            eta_ms: left.map(|ms| ms.round() as u64),
            percent,
            ..Progress::default()
        })
    }
}

/// It isn't one, and doesn't say that it is none either.
struct NoNumber;

/// `200`, `92.1x`, `429.5kbits/s` (its unit is not looked at), `00:01:02.50` in seconds; none of `N/A` and of the like.
fn number(text: &str) -> Result<Option<f64>, NoNumber> {
    let text = text.trim();
    if text.is_empty() || ["n/a", "nan", "-", "?"].iter().any(|none| text.eq_ignore_ascii_case(none)) {
        return Ok(None);
    }
    let sign = if text.starts_with('-') { -1.0 } else { 1.0 };
    let mut parts = text.trim_start_matches(['-', '+']).split(':');
    let first = parts.next().and_then(leading).ok_or(NoNumber)?;
    let all = parts.try_fold(first, |all, part| leading(part).map(|part| all * 60.0 + part));
    all.map(|all| Some(all * sign)).ok_or(NoNumber)
}

/// The decimal number that a word begins with.
fn leading(word: &str) -> Option<f64> {
    let digits = |from: &str| from.bytes().take_while(u8::is_ascii_digit).count();
    let whole = digits(word);
    let fraction = word[whole..].strip_prefix('.').map_or(0, |rest| match digits(rest) {
        0 => 0,
        some => some + 1,
    });
    word[..whole + fraction].parse().ok()
}

/// A word as it is kept: valid, and not too long.
pub(crate) fn word(bytes: &[u8]) -> String {
    let bytes = bytes.trim_ascii();
    let mut text = String::from_utf8_lossy(&bytes[..bytes.len().min(WORD_BYTES_MAX)]).into_owned();
    // A character that was cut in half became a replacement, which may be longer than what it replaces.
    while text.len() > WORD_BYTES_MAX {
        text.pop();
    }
    text
}

/// Puts a word into a record, unless that is full.
pub(crate) fn put(record: &mut Record, name: String, value: String) {
    if record.len() < WORDS_MAX || record.contains_key(&name) {
        record.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<Option<f64>> {
        number(text).ok()
    }

    #[test]
    fn numbers_are_read_as_programs_write_them() {
        for (text, value) in [
            ("200", 200.0),
            ("92.1x", 92.1),
            (" 429.5kbits/s", 429.5),
            ("00:01:02.50", 62.5),
            ("1:00:00", 3600.0),
        ] {
            assert_eq!(read(text), Some(Some(value)), "{text}");
        }
        for none in ["N/A", "", " - ", "nan"] {
            assert_eq!(read(none), Some(None), "{none}");
        }
        assert_eq!(read("-00:00:01"), Some(Some(-1.0)));
        for broken in ["x1", "1:x", "::", "+", "∞"] {
            assert_eq!(read(broken), None, "{broken}");
        }
    }

    fn report(words: &[(&str, &str)], elapsed_ms: u64) -> Option<Progress> {
        let take = |from: &str| Some(Take { from: from.to_owned(), scale: 1.0 });
        let fields = Fields {
            done: take("done"),
            total: take("total"),
            unit: take("unit"),
            rate: take("rate"),
            eta: take("eta"),
            percent: take("percent"),
        };
        let record = words.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Known::read(&fields, &record).0.report(&Known::default(), Some("s"), elapsed_ms)
    }

    #[test]
    fn what_a_program_does_not_say_is_worked_out() {
        let found = report(&[("done", "25"), ("total", "100")], 5_000).unwrap();
        assert_eq!((found.rate, found.eta_ms, found.percent), (Some(5.0), Some(15_000), Some(25.0)));
        let found = report(&[("percent", "20")], 2_000).unwrap();
        assert_eq!((found.rate, found.eta_ms, found.done), (None, Some(8_000), None));
        let found =
            report(&[("done", "25"), ("total", "100"), ("rate", "3"), ("eta", "0:07")], 5_000).unwrap();
        assert_eq!((found.rate, found.eta_ms), (Some(3.0), Some(7_000)));
        let early = report(&[("done", "25"), ("total", "100")], 10).unwrap();
        assert_eq!((early.rate, early.eta_ms, early.percent), (None, None, Some(25.0)));
    }

    #[test]
    fn nothing_is_infinite_negative_or_past_the_end() {
        assert_eq!(report(&[("total", "5")], 0), None);
        assert_eq!(report(&[("done", "-5")], 0), None);
        let found = report(&[("done", "9"), ("total", "3"), ("rate", "0")], 0).unwrap();
        assert_eq!((found.percent, found.eta_ms), (Some(100.0), None));
        let found = report(&[("done", "9"), ("total", "0"), ("percent", "900")], 0).unwrap();
        assert_eq!((found.total, found.percent), (None, Some(100.0)));
        let huge = "9".repeat(400);
        assert_eq!(report(&[("done", &huge)], 0), None);
    }

    #[test]
    fn words_are_valid_and_bounded() {
        assert_eq!(word(b" a\xff "), "a\u{fffd}");
        assert!(word(&[b'\xff'; 1_000]).len() <= WORD_BYTES_MAX);
        let mut record = Record::new();
        (0..100).for_each(|n| put(&mut record, n.to_string(), String::new()));
        assert_eq!(record.len(), WORDS_MAX);
    }
}
