//! Is what was read what was written?
//!
//! A [`Checker`] follows one output of one process as one reader has it, over all of the reader's connections. It is
//! told bytes, gaps and the end, in the stream's offsets, and says at once what is wrong.
//!
//! Invariant: `at` is the offset of the next byte; nothing before it is ever told again.
//!
//! Not here: whether a gap was allowed (`reader` knows its policy).

use super::plan::Script;
use crate::child::{RECORD_BYTES, answer_to, parse_record, question};
use crate::support::pattern;

/// What is wrong, in words.
pub(crate) type Wrong = String;

/// One output, followed.
#[derive(Debug)]
pub(crate) struct Checker {
    at: u64,
    missed: u64,
    content: Content,
}

/// What is known of the bytes so far.
#[derive(Debug)]
enum Content {
    Silent,
    Sequence(Sequence),
    Records(Records),
    Answers(Answers),
    Text(&'static str),
}

/// The sequence, of whose bytes some may have gone by uncounted, see [`Checker::may_have_lost`].
#[derive(Debug)]
struct Sequence {
    bytes: Option<u64>,
    /// How many did, as far as what came tells: one of these, rising.
    lost: Vec<u64>,
    /// At most so many.
    lost_max: u64,
    /// Some more may have since the last byte that came.
    is_adrift: bool,
}

/// Records of several writers in one stream: those of each come in their order.
#[derive(Debug)]
struct Records {
    counts: Vec<u64>,
    next: Vec<u64>,
    /// For each tag: some of its records may be in a gap.
    may_jump: Vec<bool>,
    /// Bytes that are no whole record yet.
    rest: Vec<u8>,
    /// The next record begins anywhere, as a gap was before it.
    astray: bool,
    /// Bytes may be missing here without a gap, see [`Checker::doubt`]: how often it may go astray by itself.
    doubts: u64,
    /// Records that did not come.
    lost: u64,
}

/// Lines of somebody who answers questions.
#[derive(Debug)]
struct Answers {
    questions: u64,
    echo: bool,
    asked: u64,
    answered: u64,
    is_ready: bool,
    may_jump: bool,
    rest: Vec<u8>,
    astray: bool,
    /// Lines that may be broken, see [`Checker::doubt`].
    doubts: u64,
}

impl Checker {
    /// Nothing has been read yet.
    pub(crate) fn new(script: &Script) -> Checker {
        let content = match script {
            Script::Silent => Content::Silent,
            Script::Sequence(bytes) => {
                Content::Sequence(Sequence { bytes: *bytes, lost: vec![0], lost_max: 0, is_adrift: false })
            }
            Script::Records(counts) => Content::Records(Records {
                counts: counts.clone(),
                next: vec![0; counts.len()],
                may_jump: vec![false; counts.len()],
                rest: Vec::new(),
                astray: false,
                doubts: 0,
                lost: 0,
            }),
            Script::Answers { questions, echo } => Content::Answers(Answers {
                questions: *questions,
                echo: *echo,
                asked: 0,
                answered: 0,
                is_ready: false,
                may_jump: false,
                rest: Vec::new(),
                astray: false,
                doubts: 0,
            }),
            Script::Text(text) => Content::Text(text),
        };
        Checker { at: 0, missed: 0, content }
    }

    /// Offset of the next byte.
    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    /// Bytes that were in gaps.
    pub(crate) fn missed(&self) -> u64 {
        self.missed
    }

    /// Records that did not come, where their number tells.
    pub(crate) fn lost_records(&self) -> u64 {
        if let Content::Records(records) = &self.content { records.lost } else { 0 }
    }

    /// How many questions were answered, the greeting included.
    pub(crate) fn answers(&self) -> u64 {
        match &self.content {
            Content::Answers(answers) => answers.answered + u64::from(answers.is_ready),
            _ => 0,
        }
    }

    /// These bytes come next.
    pub(crate) fn take(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Wrong> {
        if offset != self.at {
            let what = if offset < self.at { "again" } else { "too early" };
            return Err(format!("bytes from offset {offset} came {what}: {} is next", self.at));
        }
        match &mut self.content {
            Content::Silent => return Err(format!("{} bytes of one who says nothing", bytes.len())),
            Content::Sequence(sequence) => sequence.take(offset, bytes)?,
            Content::Records(records) => records.take(bytes)?,
            Content::Answers(answers) => answers.take(bytes)?,
            Content::Text(text) => {
                let expected = text.as_bytes().get(offset as usize..).unwrap_or_default();
                if !expected.starts_with(bytes) {
                    return Err(format!("at {offset}: {:?}", String::from_utf8_lossy(bytes)));
                }
            }
        }
        self.at += bytes.len() as u64;
        Ok(())
    }

    /// These bytes are missing.
    pub(crate) fn gap(&mut self, from: u64, to: u64) -> Result<(), Wrong> {
        if from != self.at || to <= from {
            return Err(format!("a gap of [{from}, {to}) where {} is next", self.at));
        }
        self.missed += to - from;
        self.at = to;
        match &mut self.content {
            Content::Records(records) => records.stray(),
            Content::Answers(answers) => answers.stray(),
            Content::Silent | Content::Sequence(_) | Content::Text(_) => {}
        }
        Ok(())
    }

    /// Here, or a little further on, up to one read of a terminal may be missing, and no offset tells: its kernel died
    /// between the read and the note of it.
    pub(crate) fn doubt(&mut self) {
        match &mut self.content {
            Content::Records(records) => {
                records.may_jump.fill(true);
                records.doubts += 1;
            }
            Content::Answers(answers) => {
                answers.may_jump = true;
                answers.doubts += 2;
            }
            Content::Silent | Content::Sequence(_) | Content::Text(_) => {}
        }
    }

    /// Kernels have died that may have let bytes go by uncounted, at most so many in all: offsets may be too small by that, from
    /// here on.
    pub(crate) fn may_have_lost(&mut self, bytes: u64) {
        if let Content::Sequence(sequence) = &mut self.content {
            sequence.is_adrift = bytes > sequence.lost_max;
            sequence.lost_max = bytes.max(sequence.lost_max);
        }
    }

    /// The stream has ended after so many bytes. `is_exact`: offsets count what the child wrote and nothing else.
    pub(crate) fn end(&self, total: u64, is_exact: bool) -> Result<(), Wrong> {
        // Who was ahead of the source when its kernel died may have more than was counted.
        let uncounted = if let Content::Sequence(sequence) = &self.content { sequence.lost_max } else { 0 };
        if !(total..=total + uncounted).contains(&self.at) {
            return Err(format!("the end is at {total}, and {} bytes came or were missing", self.at));
        }
        match &self.content {
            Content::Sequence(sequence) => sequence.end(self.at),
            Content::Text(text) if text.len() as u64 != total => {
                Err(format!("it ended at {total}: {text:?}"))
            }
            Content::Records(records) => records.end(total, is_exact),
            Content::Answers(answers) => answers.end(),
            Content::Silent | Content::Text(_) => Ok(()),
        }
    }
}

impl Sequence {
    fn take(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Wrong> {
        let is_right = |lost: u64| pattern::wrong_at(bytes, offset + lost).is_none();
        let least = self.lost.first().copied().unwrap_or(0);
        if std::mem::take(&mut self.is_adrift) {
            // Where the beginning of it may be from, and then all of it.
            let head = &bytes[..bytes.len().min(16)];
            let all = pattern::bytes(offset + least, (self.lost_max - least) as usize + head.len());
            let fits = all.windows(head.len()).enumerate().filter(|(_, window)| *window == head);
            self.lost = fits.map(|(more, _)| least + more as u64).filter(|lost| is_right(*lost)).collect();
        } else {
            self.lost.retain(|lost| is_right(*lost));
        }
        if self.lost.is_empty() { Err(misplaced(offset, bytes, least, self.lost_max)) } else { Ok(()) }
    }

    fn end(&self, total: u64) -> Result<(), Wrong> {
        let Some(bytes) = self.bytes else { return Ok(()) };
        let least = self.lost.first().copied().unwrap_or(0);
        let is_right = match self.is_adrift {
            true => (total + least..=total + self.lost_max).contains(&bytes),
            false => self.lost.iter().any(|lost| total + lost == bytes),
        };
        let lost = || format!("{:?} of at most {} went by uncounted", self.lost.first(), self.lost_max);
        if is_right {
            Ok(())
        } else {
            Err(format!("it ended at {total}, and the child wrote {bytes}; {}", lost()))
        }
    }
}

/// Where a chunk is from that should be from somewhere else.
fn misplaced(offset: u64, bytes: &[u8], lost: u64, lost_max: u64) -> Wrong {
    let wrong = pattern::wrong_at(bytes, offset + lost).unwrap_or(offset + lost) - lost;
    let place = pattern::place_in_block(&bytes[(wrong - offset) as usize..]);
    let instead = place.map_or("of nowhere".to_owned(), |place| {
        let further = place as i64 - ((wrong + lost) % pattern::BLOCK_BYTES as u64) as i64;
        format!("those of a place {further} further")
    });
    let end = offset + bytes.len() as u64;
    format!(
        "the byte at offset {wrong} is wrong, in a chunk of [{offset}, {end}): the bytes there are {instead}; {lost} of at most \
         {lost_max} bytes went by uncounted"
    )
}

impl Records {
    fn take(&mut self, bytes: &[u8]) -> Result<(), Wrong> {
        self.rest.extend_from_slice(bytes);
        let mut at = 0;
        while self.rest.len() - at >= RECORD_BYTES {
            match parse_record(&self.rest[at..at + RECORD_BYTES]) {
                Ok((tag, number)) => {
                    self.astray = false;
                    self.note(tag, number)?;
                    at += RECORD_BYTES;
                }
                Err(_) if self.astray => at += 1,
                Err(_) if self.doubts > 0 => {
                    self.doubts -= 1;
                    self.astray = true;
                }
                Err(_) => {
                    let found = &self.rest[at..at + RECORD_BYTES];
                    return Err(format!(
                        "no record: {:?}, next are {:?}",
                        found.escape_ascii().to_string(),
                        self.next
                    ));
                }
            }
        }
        self.rest.drain(..at);
        Ok(())
    }

    fn note(&mut self, tag: u8, number: u64) -> Result<(), Wrong> {
        let Some(next) = self.next.get_mut(tag as usize) else { return Err(format!("nobody has tag {tag}")) };
        let jumps = std::mem::take(&mut self.may_jump[tag as usize]);
        if number != *next && !(jumps && number > *next) {
            return Err(format!("record {number} of writer {tag}, and {next} is next"));
        }
        self.lost += number - *next;
        *next = number + 1;
        Ok(())
    }

    fn stray(&mut self) {
        self.rest.clear();
        self.astray = true;
        self.may_jump.fill(true);
    }

    fn end(&self, total: u64, is_exact: bool) -> Result<(), Wrong> {
        for (tag, (next, count)) in self.next.iter().zip(&self.counts).enumerate() {
            if next > count || (next < count && !self.may_jump[tag]) {
                return Err(format!("writer {tag} wrote {count} records, and {next} came"));
            }
        }
        let written = self.counts.iter().sum::<u64>() * RECORD_BYTES as u64;
        if is_exact && total != written {
            return Err(format!("it ended at {total}, and the writers wrote {written}"));
        }
        if !self.rest.is_empty() && !self.astray {
            return Err(format!("{} bytes trail the last record", self.rest.len()));
        }
        Ok(())
    }
}

impl Answers {
    fn take(&mut self, bytes: &[u8]) -> Result<(), Wrong> {
        self.rest.extend_from_slice(bytes);
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            if std::mem::take(&mut self.astray) {
                continue;
            }
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            self.line(&line)?;
        }
        Ok(())
    }

    fn line(&mut self, line: &str) -> Result<(), Wrong> {
        let number = line.split(' ').nth(1).and_then(|word| word.parse().ok());
        match (line, number) {
            ("ready", _) if !self.is_ready => self.is_ready = true,
            ("", _) if self.doubts > 0 => {}
            (_, Some(number)) if line == answer_to(number) => {
                self.may_jump_to(number, self.answered, "answer")?;
                self.answered = number + 1;
            }
            (_, Some(number)) if self.echo && line == question(number) => {
                self.may_jump_to(number, self.asked, "echo of question")?;
                self.asked = number + 1;
            }
            _ if self.doubts > 0 => self.doubts -= 1,
            _ => return Err(format!("the line {line:?}, after {} answers", self.answered)),
        }
        Ok(())
    }

    fn may_jump_to(&self, number: u64, next: u64, what: &str) -> Result<(), Wrong> {
        if number == next || (self.may_jump && number > next) {
            return Ok(());
        }
        Err(format!("{what} {number}, and {next} is next"))
    }

    fn stray(&mut self) {
        self.rest.clear();
        self.astray = true;
        self.may_jump = true;
    }

    fn end(&self) -> Result<(), Wrong> {
        if self.answered != self.questions && !self.may_jump {
            return Err(format!("{} answers to {} questions", self.answered, self.questions));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::child::record;

    fn sequence(bytes: u64) -> Checker {
        Checker::new(&Script::Sequence(Some(bytes)))
    }

    #[test]
    fn a_sequence_read_in_pieces_is_right() {
        let mut checker = sequence(200_000);
        for (from, length) in [(0, 1), (1, 65_535), (65_536, 100_000), (165_536, 34_464)] {
            assert_eq!(checker.take(from, &pattern::bytes(from, length)), Ok(()));
        }
        assert_eq!(checker.end(200_000, true), Ok(()));
    }

    #[test]
    fn a_byte_lost_doubled_or_changed_is_seen() {
        let mut lost = sequence(1_000);
        lost.take(0, &pattern::bytes(0, 100)).expect("these are right");
        assert!(lost.take(101, &pattern::bytes(101, 10)).is_err(), "an offset too far");
        assert!(lost.take(100, &pattern::bytes(101, 10)).is_err(), "bytes too far");
        assert!(lost.take(99, &pattern::bytes(99, 10)).is_err(), "bytes again");
        let mut changed = pattern::bytes(100, 10);
        changed[9] ^= 1;
        assert!(lost.take(100, &changed).is_err(), "a byte changed");
        assert!(lost.end(100, true).is_err(), "an end too early");
        assert!(lost.gap(90, 110).is_err(), "a gap over what came");
    }

    #[test]
    fn bytes_that_went_by_uncounted_are_looked_for_where_and_as_far_as_that_was_told() {
        let came = |lost: u64, told: u64, more: u64| {
            let mut checker = sequence(500_000);
            checker.take(0, &pattern::bytes(0, 100)).expect("these are right");
            checker.may_have_lost(told);
            checker.take(100, &pattern::bytes(100 + lost, 10))?;
            checker.take(110, &pattern::bytes(110 + lost + more, 200_000))?;
            checker.gap(200_110, 500_000 - lost)?;
            checker.end(500_000 - lost, true)
        };
        for lost in [0, 1, 65_536, 100_000] {
            assert_eq!(came(lost, 100_000, 0), Ok(()), "{lost}");
        }
        assert!(came(100_001, 100_000, 0).is_err(), "more than was told");
        assert!(came(1, 0, 0).is_err(), "nothing was told");
        assert!(came(0, 100_000, 1).is_err(), "later than where it was told");
        let mut again = sequence(500_000);
        again.take(0, &pattern::bytes(0, 100)).expect("these are right");
        again.may_have_lost(10_000);
        assert!(again.take(100, &pattern::bytes(99, 100)).is_err(), "bytes again");
        let mut end = sequence(200);
        end.take(0, &pattern::bytes(0, 100)).expect("these are right");
        end.may_have_lost(100);
        assert_eq!(end.end(100, true), Ok(()), "all that was left went by");
        assert!(sequence(200).end(100, true).is_err());
    }

    #[test]
    fn records_of_several_writers_are_each_in_their_order() {
        let script = Script::Records(vec![2, 1]);
        let mut checker = Checker::new(&script);
        let bytes = [record(0, 0), record(1, 0), record(0, 1)].concat();
        checker.take(0, &bytes[..70]).expect("these are right");
        checker.take(70, &bytes[70..]).expect("and these");
        assert_eq!(checker.end(192, true), Ok(()));
        let mut doubled = Checker::new(&script);
        assert!(doubled.take(0, &[record(0, 0), record(0, 0)].concat()).is_err());
        let mut short = Checker::new(&script);
        short.take(0, &[record(0, 0), record(0, 1)].concat()).expect("these are right");
        assert!(short.end(128, true).is_err(), "a writer is missing");
    }

    #[test]
    fn records_are_found_again_behind_a_gap_and_only_there() {
        let script = Script::Records(vec![9]);
        let bytes: Vec<u8> = (0..9).flat_map(|number| record(0, number)).collect();
        let mut checker = Checker::new(&script);
        checker.take(0, &bytes[..100]).expect("these are right");
        checker.gap(100, 300).expect("a gap where the next byte is");
        checker.take(300, &bytes[300..]).expect("these are right");
        assert_eq!((checker.end(576, true), checker.missed()), (Ok(()), 200));
        let mut astray = Checker::new(&script);
        assert!(astray.take(0, &bytes[1..100]).is_err(), "no gap, no search");
    }

    #[test]
    fn answers_come_once_each_with_the_echo_of_their_questions() {
        let script = Script::Answers { questions: 2, echo: true };
        let text = format!("ready\r\n? 0\r\n{}\r\n? 1\r\n{}\r\n", answer_to(0), answer_to(1));
        let mut checker = Checker::new(&script);
        checker.take(0, text.as_bytes()).expect("this is right");
        assert_eq!((checker.answers(), checker.end(text.len() as u64, true)), (3, Ok(())));
        let mut twice = Checker::new(&script);
        let text = format!("ready\r\n{0}\r\n{0}\r\n", answer_to(0));
        assert!(twice.take(0, text.as_bytes()).is_err());
        let mut early = Checker::new(&script);
        early.take(0, b"ready\r\n").expect("this is right");
        assert!(early.end(7, true).is_err());
    }
}
