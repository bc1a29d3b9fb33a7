//! An export: the chain as lines of JSON that anybody can verify with SHA-256 and Ed25519 alone. docs/AUDIT.md has its form.
//!
//! ```text
//!   header · the checkpoint that stands for what was dropped, if any was · records, checkpoints among them · end
//! ```
//!
//! Invariant: the bytes that were hashed are in it as they were; what is beside them to be read says the same.

use super::chain::{HASH_BYTES, Head, Link};
use super::checkpoint::{Checkpoint, PublicKey};
use super::verify::Checker;
use crate::digest::{from_hex, hex};
use bytes::Bytes;
use kairo_wire::json::{base64, from_base64};
use kairo_wire::methods::audit::{AuditHead, AuditRecord, SignedCheckpoint};
use serde::{Deserialize, Serialize};

/// The version of the form.
const FORM: u32 = 1;

/// The first line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Header {
    kairo_audit: u32,
    public_key: String,
    /// Where the chain begins: 0, or what the checkpoint says that follows.
    from: AuditHead,
}

/// A record.
#[derive(Debug, Serialize)]
struct RecordLine<'a> {
    n: u64,
    hash: String,
    bytes: String,
    /// None if this version can't make sense of the bytes.
    record: Option<&'a AuditRecord>,
}

/// The last line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct End {
    end: Totals,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Totals {
    n: u64,
    hash: String,
    records: u64,
    checkpoints: u64,
}

fn line<T: Serialize>(value: &T) -> String {
    // Texts and numbers: nothing in it can't be written.
    serde_json::to_string(value).unwrap_or_default()
}

/// The lines before the first record.
pub fn header(key: &PublicKey, anchor: Option<&Checkpoint>) -> Vec<String> {
    let from = anchor.map_or(Head::default(), Checkpoint::head).told();
    let header = Header { kairo_audit: FORM, public_key: hex(key), from };
    std::iter::once(line(&header)).chain(anchor.map(checkpoint)).collect()
}

/// The line of a record.
pub fn record(link: &Link) -> String {
    let told = link.told().ok();
    line(&RecordLine { n: link.n(), hash: hex(&link.hash), bytes: base64(&link.body), record: told.as_ref() })
}

/// The line of a checkpoint.
pub fn checkpoint(one: &Checkpoint) -> String {
    line(&one.told())
}

/// The last line: how many lines of records and checkpoints there are, and what they come to.
pub fn end(head: &Head, records: u64, checkpoints: u64) -> String {
    line(&End { end: Totals { n: head.n, hash: hex(&head.hash), records, checkpoints } })
}

/// Verifies an export, line by line.
#[derive(Debug)]
pub struct Verifier {
    checker: Checker,
    stage: Stage,
    lines: u64,
    key: Option<PublicKey>,
    wanted: Option<PublicKey>,
}

#[derive(Debug, PartialEq)]
enum Stage {
    Beginning,
    /// What was dropped before has to have its checkpoint.
    Anchor(Head),
    Middle,
    Ended,
}

/// What a line is not.
const NO_LINE: &str = "it is no line of an export";

impl Verifier {
    /// Of an export whose checkpoints have to be signed with this key; with the one it names itself if none is known.
    pub fn new(wanted: Option<PublicKey>) -> Verifier {
        Verifier { checker: Checker::whole(wanted), stage: Stage::Beginning, lines: 0, key: None, wanted }
    }

    /// The next line, without its newline.
    pub fn line(&mut self, text: &str) {
        self.lines += 1;
        match self.stage {
            Stage::Beginning => self.begin(text),
            Stage::Ended => self.complain("a line follows the end"),
            Stage::Anchor(_) | Stage::Middle => match serde_json::from_str::<serde_json::Value>(text) {
                Ok(value) => self.take(value),
                Err(_) => self.complain(NO_LINE),
            },
        }
    }

    /// There are no more lines. What was found, and with which key it is signed, as the export says.
    pub fn finish(mut self) -> (Checker, Option<PublicKey>) {
        let head = self.checker.head().n;
        if self.stage != Stage::Ended {
            let what =
                format!("cut off: the export has no end, behind record {head} anything may be missing");
            self.checker.tell(head + 1, head + 1, what);
        }
        let signed = self.checker.signed_to();
        if signed < head {
            self.checker.tell(
                signed + 1,
                head,
                "they are behind the last checkpoint: nobody has signed them",
            );
        }
        (self.checker, self.key)
    }

    /// A problem with a line, told of the record it would have been.
    fn complain(&mut self, what: &str) {
        let n = self.checker.head().n + 1;
        self.checker.tell(n, n, format!("line {}: {what}", self.lines));
    }

    fn begin(&mut self, text: &str) {
        let header = serde_json::from_str::<Header>(text).ok().filter(|header| header.kairo_audit == FORM);
        let read = header.and_then(|header| {
            let head = Head { n: header.from.n, hash: from_hex(&header.from.hash)? };
            Some((from_hex::<32>(&header.public_key)?, head))
        });
        self.stage = Stage::Middle;
        let Some((key, head)) = read else {
            return self.complain("it is not the first line of an export of this version");
        };
        self.key = Some(key);
        let wanted = *self.wanted.get_or_insert(key);
        if wanted != key {
            self.complain("the export names another key");
        }
        self.checker = Checker::whole(Some(wanted)).with(std::mem::take(&mut self.checker.problems));
        if head != Head::default() {
            self.stage = Stage::Anchor(head);
        }
    }

    fn take(&mut self, value: serde_json::Value) {
        if value.get("checkpoint").is_some() {
            let told = serde_json::from_value::<SignedCheckpoint>(value).ok();
            match told.as_ref().and_then(Checkpoint::of) {
                Some(one) => self.checkpoint(one),
                None => self.complain(NO_LINE),
            }
        } else if let Some(end) = value.get("end") {
            self.stage = Stage::Ended;
            let Ok(end) = serde_json::from_value::<Totals>(end.clone()) else {
                return self.complain(NO_LINE);
            };
            self.end(&end);
        } else {
            self.record(&value);
        }
    }

    fn checkpoint(&mut self, one: Checkpoint) {
        match std::mem::replace(&mut self.stage, Stage::Middle) {
            Stage::Anchor(head) => {
                let problems = std::mem::take(&mut self.checker.problems);
                let is_it = one.head() == head;
                self.checker = Checker::anchored(one, self.wanted).with(problems);
                if !is_it {
                    self.complain("it is not the checkpoint the first line names");
                }
            }
            _ => self.checker.checkpoint(one),
        }
    }

    fn record(&mut self, value: &serde_json::Value) {
        if std::mem::replace(&mut self.stage, Stage::Middle) != Stage::Middle {
            self.complain("the checkpoint that stands for what was dropped is not there");
        }
        let text = |field: &str| value.get(field).and_then(serde_json::Value::as_str);
        let hash = text("hash").and_then(from_hex::<HASH_BYTES>);
        let body = text("bytes").and_then(from_base64);
        let link =
            hash.zip(body).and_then(|(hash, body)| Link::parse(&Bytes::from([&hash[..], &body].concat())));
        let Some(link) = link else { return self.complain(NO_LINE) };
        self.checker.record(&link);
        let n = link.n();
        // Both by way of the same text: a number is what its digits say.
        let ours = serde_json::from_str::<serde_json::Value>(&record(&link)).ok();
        if ours.as_ref() != Some(value) {
            self.checker.tell(n, n, "changed: what is there to be read is not what its bytes say");
        }
    }

    fn end(&mut self, end: &Totals) {
        let checker = &self.checker;
        let there = Totals {
            n: checker.head().n,
            hash: hex(&checker.head().hash),
            records: checker.records,
            checkpoints: checker.checkpoints,
        };
        if *end == there {
            return;
        }
        let (from, to) = (there.n + 1, end.n.max(there.n + 1));
        let what = format!(
            "cut off or changed: the end counts {} records and {} checkpoints to record {}, and there are {} and {} to {}",
            end.records, end.checkpoints, end.n, there.records, there.checkpoints, there.n
        );
        self.checker.tell(from, to, what);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::checkpoint::Key;
    use crate::audit::verify::tests::{Piece, chain};

    fn export(pieces: &[Piece], key: &Key, anchor: Option<&Checkpoint>) -> Vec<String> {
        let mut lines = header(&key.public(), anchor);
        let (mut head, mut records, mut checkpoints) =
            (anchor.map_or(Head::default(), Checkpoint::head), 0, u64::from(anchor.is_some()));
        for piece in pieces {
            match piece {
                Piece::Record(stored) => {
                    let link = Link::parse(stored).expect("a link");
                    head = Head { n: link.n(), hash: link.hash };
                    records += 1;
                    lines.push(record(&link));
                }
                Piece::Checkpoint(one) => {
                    checkpoints += 1;
                    lines.push(checkpoint(one));
                }
            }
        }
        lines.push(end(&head, records, checkpoints));
        lines
    }

    fn problems(lines: &[String], key: Option<&Key>) -> Vec<(u64, u64)> {
        let mut verifier = Verifier::new(key.map(Key::public));
        lines.iter().for_each(|line| verifier.line(line));
        verifier.finish().0.problems.iter().map(|problem| (problem.from, problem.to)).collect()
    }

    #[test]
    fn an_export_that_nobody_touched_is_sound_with_and_without_what_was_dropped() {
        let key = Key::new(&[3; 32]);
        let pieces = chain(30, 10, &key);
        assert_eq!(problems(&export(&pieces, &key, None), Some(&key)), []);
        let Piece::Checkpoint(anchor) = pieces[10].clone() else { panic!("a checkpoint") };
        let pruned = export(&pieces[11..], &key, Some(&anchor));
        assert_eq!(problems(&pruned, None), []);
        let mut without = pruned.clone();
        without.remove(1);
        assert!(!problems(&without, None).is_empty(), "what stands for what was dropped has to be there");
    }

    #[test]
    fn any_byte_that_is_changed_is_found() {
        let key = Key::new(&[3; 32]);
        let text = export(&chain(3, 2, &key), &key, None).join("\n");
        for at in (0..text.len()).filter(|at| text.as_bytes()[*at] != b'\n') {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            let Ok(changed) = String::from_utf8(bytes) else { continue };
            let lines: Vec<String> = changed.split('\n').map(str::to_owned).collect();
            assert!(
                !problems(&lines, Some(&key)).is_empty(),
                "byte {at}: {:?}",
                &text[at.saturating_sub(20)..=at]
            );
        }
    }

    #[test]
    fn what_is_cut_off_is_told() {
        let key = Key::new(&[3; 32]);
        let whole = export(&chain(20, 5, &key), &key, None);
        for length in 0..whole.len() {
            assert!(!problems(&whole[..length], Some(&key)).is_empty(), "{length} lines");
        }
        // With an end put on again: only a cut at a checkpoint looks like an older export, which no file can rule out.
        let shorter = chain(20, 5, &key)[..8].to_vec();
        assert_eq!(problems(&export(&shorter, &key, None), Some(&key)), [(6, 7)]);
        let mut longer = whole.clone();
        longer.push(whole[1].clone());
        assert!(!problems(&longer, Some(&key)).is_empty());
    }

    #[test]
    fn another_key_is_told_by_whoever_knows_the_right_one() {
        let (key, other) = (Key::new(&[3; 32]), Key::new(&[4; 32]));
        let forged = export(&chain(20, 5, &other), &other, None);
        assert!(!problems(&forged, Some(&key)).is_empty());
        assert_eq!(problems(&forged, None), []);
    }
}
