//! Spools on real files: appended, cut, damaged, read.

use super::segment::{HEADER_BYTES, RECORD_HEADER_BYTES, file_name};
use super::writer::{Pwritev, Writer, pwritev};
use super::*;
use std::fs::{self, OpenOptions};
use std::io::IoSlice;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::sync::atomic::{AtomicU64, Ordering};

/// A folder that goes with the test.
pub(super) struct Scratch(tempfile::TempDir);

impl Scratch {
    pub(super) fn new() -> Scratch {
        Scratch(tempfile::tempdir().unwrap())
    }

    pub(super) fn put(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    fn root(&self) -> &Path {
        self.0.path()
    }

    fn segment(&self, first: u64) -> PathBuf {
        identity().folder(self.root()).join(file_name(first))
    }

    fn writer(&self, limits: SpoolLimits) -> Writer {
        Writer::resume(self.root(), identity(), limits).unwrap()
    }

    fn flip(&self, first: u64, at: u64) {
        let file = OpenOptions::new().read(true).write(true).open(self.segment(first)).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
    }

    /// Everything from `offset` on, and the gaps.
    fn read(&self, offset: u64) -> (Vec<u8>, Vec<(u64, u64)>) {
        let mut reader = open(self.root(), "session", Channel::Stdout).unwrap();
        let (mut bytes, mut gaps, mut at) = (Vec::new(), Vec::new(), offset);
        loop {
            match reader.read(at, 100_000, &mut bytes).unwrap() {
                Found::Bytes(n) => at += n as u64,
                Found::Gap(to) => {
                    gaps.push((at, to));
                    at = to;
                }
                Found::End => return (bytes, gaps),
            }
        }
    }
}

fn identity() -> Identity {
    Identity::new("session", Channel::Stdout).unwrap()
}

/// Bytes that repeat nowhere near each other.
pub(super) fn data(length: usize) -> Vec<u8> {
    (0..length as u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u8).collect()
}

/// Appends all of `bytes` in pieces of this size.
fn fill(writer: &mut Writer, bytes: &[u8], piece: usize) -> Vec<Cut> {
    let mut cuts = Vec::new();
    for piece in bytes.chunks(piece) {
        writer.append(writer.end(), piece, 1_000, &mut cuts).unwrap();
    }
    cuts
}

const SMALL: SpoolLimits = SpoolLimits {
    segment_bytes: 10_000,
    bytes_max: None,
    age_ms_max: None,
    segments_max: None,
    sync: false,
    keep: false,
};

#[test]
fn what_was_appended_is_read_from_any_offset() {
    let scratch = Scratch::new();
    let bytes = data(1_000_000);
    fill(&mut scratch.writer(SpoolLimits { segment_bytes: 300_000, ..SMALL }), &bytes, 7_777);
    for offset in [0, 1, 7_776, 7_777, 299_000, 300_001, 777_777, 999_999, 1_000_000, 2_000_000] {
        let (read, gaps) = scratch.read(offset);
        assert!(read == bytes[(offset as usize).min(bytes.len())..], "from {offset}");
        assert!(gaps.is_empty());
    }
    let mut reader = open(scratch.root(), "session", Channel::Stdout).unwrap();
    assert_eq!(reader.range().unwrap(), Some((0, 1_000_000)));
}

#[test]
fn a_reader_goes_back_and_forth_and_follows_a_growing_spool() {
    let scratch = Scratch::new();
    let bytes = data(100_000);
    let mut writer = scratch.writer(SMALL);
    let mut reader = open(scratch.root(), "session", Channel::Stdout).unwrap();
    let mut into = Vec::new();
    assert_eq!(reader.read(0, 10, &mut into).unwrap(), Found::End);
    for (place, piece) in bytes.chunks(1_000).enumerate() {
        fill(&mut writer, piece, 1_000);
        into.clear();
        let at = place as u64 * 1_000;
        assert_eq!(reader.read(at, 5_000, &mut into).unwrap(), Found::Bytes(1_000));
        assert_eq!(into, piece);
        assert_eq!(reader.read(at + 1_000, 10, &mut into).unwrap(), Found::End);
        into.clear();
        assert_eq!(reader.read(at / 2, 1, &mut into).unwrap(), Found::Bytes(1));
        assert_eq!(into[0], bytes[at as usize / 2]);
    }
}

#[test]
fn folders_and_files_are_the_owners_alone() {
    let scratch = Scratch::new();
    fill(&mut scratch.writer(SMALL), b"secret", 6);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let file = scratch.segment(0);
    assert_eq!(mode(&file), 0o600);
    assert_eq!(mode(file.parent().unwrap()), 0o700);
    assert_eq!(mode(file.parent().unwrap().parent().unwrap()), 0o700);
}

#[test]
fn a_torn_record_is_cut_off_when_writing_goes_on_and_left_alone_by_readers() {
    let bytes = data(5_000);
    let whole = HEADER_BYTES + 5 * (RECORD_HEADER_BYTES as u64 + 1_000);
    // At every kind of place: in data, in a record's header, right before it.
    for torn_bytes in [1, 500, 999, 1_000, 1_010, 1_023, 1_024, 1_500] {
        let scratch = Scratch::new();
        fill(&mut scratch.writer(SMALL), &bytes, 1_000);
        OpenOptions::new().write(true).open(scratch.segment(0)).unwrap().set_len(whole - torn_bytes).unwrap();
        let left = 5_000 - torn_bytes.div_ceil(1_024) * 1_000;
        assert_eq!(scratch.read(0), (bytes[..left as usize].to_vec(), vec![]), "{torn_bytes} bytes");
        assert_eq!(
            fs::metadata(scratch.segment(0)).unwrap().len(),
            whole - torn_bytes,
            "reading changes nothing"
        );
        let mut writer = scratch.writer(SMALL);
        assert_eq!(writer.end(), left, "{torn_bytes} bytes torn off");
        fill(&mut writer, &bytes[left as usize..], 300);
        assert_eq!(scratch.read(0), (bytes.clone(), vec![]));
    }
}

#[test]
fn a_header_on_disk_without_its_data_is_a_torn_record() {
    let scratch = Scratch::new();
    let bytes = data(3_000);
    fill(&mut scratch.writer(SMALL), &bytes, 1_000);
    let file = OpenOptions::new().write(true).open(scratch.segment(0)).unwrap();
    let last = HEADER_BYTES + 2 * 1_024 + RECORD_HEADER_BYTES as u64;
    file.write_all_at(&[0; 1_000], last).unwrap();
    assert_eq!(scratch.writer(SMALL).end(), 2_000);
}

#[test]
fn one_flipped_byte_costs_one_record_wherever_it_is() {
    let bytes = data(4_000);
    for at in
        (HEADER_BYTES..HEADER_BYTES + 4 * 1_024).step_by(13).chain(HEADER_BYTES + 1_024..HEADER_BYTES + 1_048)
    {
        let scratch = Scratch::new();
        fill(&mut scratch.writer(SMALL), &bytes, 1_000);
        scratch.flip(0, at);
        let record = (at - HEADER_BYTES) / 1_024;
        let in_header = (at - HEADER_BYTES) % 1_024 < RECORD_HEADER_BYTES as u64;
        let (read, gaps) = scratch.read(0);
        let (from, to) = (record * 1_000, (record + 1) * 1_000);
        if record == 3 && in_header {
            // Of the last record nothing tells that it was there at all.
            assert_eq!((read, gaps), (bytes[..3_000].to_vec(), vec![]), "byte {at}");
            continue;
        }
        let rest = [&bytes[..from as usize], &bytes[to as usize..]].concat();
        assert!(read == rest, "byte {at}");
        // A damaged length can't be told from a damaged record: the next sound one says where the gap ends.
        assert_eq!(gaps, [(from, to)], "byte {at}");
    }
}

#[test]
fn writing_goes_on_behind_a_damaged_record() {
    let scratch = Scratch::new();
    let bytes = data(5_000);
    fill(&mut scratch.writer(SMALL), &bytes[..4_000], 1_000);
    scratch.flip(0, HEADER_BYTES + 1_024 + 4);
    let mut writer = scratch.writer(SMALL);
    assert_eq!(writer.end(), 4_000);
    fill(&mut writer, &bytes[4_000..], 1_000);
    let (read, gaps) = scratch.read(500);
    assert_eq!(gaps, [(1_000, 2_000)]);
    assert_eq!(read, [&bytes[500..1_000], &bytes[2_000..]].concat());
}

#[test]
fn a_deleted_or_headless_segment_is_a_gap_and_the_others_stay_readable() {
    let scratch = Scratch::new();
    let bytes = data(50_000);
    fill(&mut scratch.writer(SMALL), &bytes, 1_000);
    let firsts = super::writer::segments_in(&identity().folder(scratch.root())).unwrap();
    let [_, second, third, fourth, fifth, ..] = firsts[..] else { panic!("{firsts:?}") };
    fs::remove_file(scratch.segment(second)).unwrap();
    fs::write(scratch.segment(fourth), [0; 9_000]).unwrap();
    let (read, gaps) = scratch.read(0);
    assert_eq!(gaps, [(second, third), (fourth, fifth)]);
    let rest = [&bytes[..second as usize], &bytes[third as usize..fourth as usize], &bytes[fifth as usize..]];
    assert!(read == rest.concat());
    assert_eq!(scratch.writer(SMALL).end(), 50_000);
}

#[test]
fn a_folder_that_was_removed_is_a_gap_and_is_made_again() {
    let scratch = Scratch::new();
    let mut writer = scratch.writer(SMALL);
    fill(&mut writer, &data(2_000), 1_000);
    let mut reader = open(scratch.root(), "session", Channel::Stdout).unwrap();
    let mut into = Vec::new();
    reader.read(0, 10, &mut into).unwrap();
    remove(scratch.root(), "session").unwrap();
    assert_eq!(reader.read(1_500, 10, &mut into).unwrap(), Found::Bytes(10), "what is open can be read on");
    let cuts = fill(&mut writer, b"more", 4);
    assert_eq!(cuts, [Cut { from: 0, to: 2_000, why: CutReason::Deleted }]);
    assert_eq!(scratch.read(0), (b"more".to_vec(), vec![(0, 2_000)]));
}

#[test]
fn a_segment_that_was_deleted_is_told_when_the_next_one_begins() {
    let scratch = Scratch::new();
    let bytes = data(40_000);
    let mut writer = scratch.writer(SMALL);
    fill(&mut writer, &bytes[..25_000], 1_000);
    fs::remove_file(scratch.segment(0)).unwrap();
    let cuts = fill(&mut writer, &bytes[25_000..], 1_000);
    assert_eq!(cuts.len(), 1, "{cuts:?}");
    assert_eq!((cuts[0].from, cuts[0].why), (0, CutReason::Deleted));
    assert_eq!(writer.oldest(), cuts[0].to);
    assert_eq!(scratch.read(0).1, [(0, cuts[0].to)]);
}

#[test]
fn a_gap_in_what_is_given_is_a_gap_between_segments() {
    let scratch = Scratch::new();
    let mut writer = scratch.writer(SMALL);
    let mut cuts = Vec::new();
    writer.append(0, b"begin", 1, &mut cuts).unwrap();
    writer.append(1_000, b"again", 1, &mut cuts).unwrap();
    assert!(matches!(
        writer.append(1_001, b"twice", 1, &mut cuts),
        Err(SpoolError::Behind { end: 1_005, .. })
    ));
    assert_eq!(scratch.read(0), (b"beginagain".to_vec(), vec![(5, 1_000)]));
    assert_eq!(scratch.writer(SMALL).end(), 1_005);
}

#[test]
fn bounds_cut_the_oldest_segments_and_say_what_went() {
    let bytes = data(200_000);
    let bounds = [
        SpoolLimits { bytes_max: Some(50_000), ..SMALL },
        SpoolLimits { segments_max: Some(4), ..SMALL },
        SpoolLimits { segments_max: Some(1), ..SMALL },
        SpoolLimits { bytes_max: Some(10_000), ..SMALL },
    ];
    for limits in bounds {
        let scratch = Scratch::new();
        let mut writer = scratch.writer(limits);
        let cuts = fill(&mut writer, &bytes, 999);
        assert!(limits.bytes_max.is_none_or(|most| writer.bytes() <= most), "{}", writer.bytes());
        assert!(limits.segments_max.is_none_or(|most| writer.segments() <= most));
        let mut at = 0;
        for cut in &cuts {
            assert_eq!((cut.from, cut.why), (at, CutReason::Limit));
            at = cut.to;
        }
        assert_eq!(at, writer.oldest());
        let (read, gaps) = scratch.read(0);
        assert_eq!(gaps, [(0, at)]);
        assert!(read == bytes[at as usize..]);
        let on_disk: u64 = fs::read_dir(identity().folder(scratch.root()))
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .sum();
        assert_eq!(on_disk, writer.bytes());
    }
}

#[test]
fn what_is_older_than_its_age_goes() {
    let scratch = Scratch::new();
    let mut writer = scratch.writer(SpoolLimits { age_ms_max: Some(1_000), ..SMALL });
    let mut cuts = Vec::new();
    for second in 0..10u64 {
        writer.append(second * 9_000, &data(9_000), second * 400_000_000, &mut cuts).unwrap();
    }
    // At 3.6 s: what was written before 2.6 s, which is up to 2.4 s.
    assert_eq!(writer.oldest(), 7 * 9_000);
    assert_eq!(cuts.len(), 7);
    assert_eq!(writer.expires_ns(), Some(3_800_000_000));
    writer.expire(5_000_000_000, &mut cuts).unwrap();
    assert_eq!((writer.segments(), writer.oldest()), (0, 90_000));
}

#[test]
fn a_later_version_is_refused_and_left_as_it_is() {
    let scratch = Scratch::new();
    fill(&mut scratch.writer(SMALL), &data(100), 100);
    let file = OpenOptions::new().write(true).open(scratch.segment(0)).unwrap();
    for copy in [0, 128] {
        file.write_all_at(&[9], copy + 8).unwrap();
    }
    let before = fs::read(scratch.segment(0)).unwrap();
    let refused = Writer::resume(scratch.root(), identity(), SMALL).unwrap_err();
    assert!(matches!(refused, SpoolError::Newer { version: 9, .. }), "{refused}");
    let mut reader = open(scratch.root(), "session", Channel::Stdout).unwrap();
    assert!(matches!(reader.read(0, 1, &mut Vec::new()), Err(SpoolError::Newer { version: 9, .. })));
    assert_eq!(fs::read(scratch.segment(0)).unwrap(), before);
}

/// A disk that takes so many bytes and no more, per test thread.
fn full_after(bytes: u64) -> Pwritev {
    thread_local!(static LEFT: AtomicU64 = const { AtomicU64::new(0) });
    LEFT.with(|left| left.store(bytes, Ordering::Relaxed));
    |file, pieces, at| {
        let whole: Vec<u8> = pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
        let left = LEFT.with(|left| left.load(Ordering::Relaxed));
        let n = (whole.len() as u64).min(left);
        if n == 0 {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        LEFT.with(|left| left.store(left.load(Ordering::Relaxed) - n, Ordering::Relaxed));
        pwritev(file, &[IoSlice::new(&whole[..n as usize])], at)
    }
}

#[test]
fn a_full_disk_is_told_with_how_far_it_came_and_can_be_gone_on_with() {
    let bytes = data(20_000);
    for room in (0..11_000).step_by(97) {
        let scratch = Scratch::new();
        let mut writer = scratch.writer(SMALL).with_pwritev(full_after(room));
        let mut cuts = Vec::new();
        let mut refused = None;
        for piece in bytes.chunks(1_000) {
            if let Err(error) = writer.append(writer.end(), piece, 1, &mut cuts) {
                refused = Some(error);
                break;
            }
        }
        assert_eq!(refused.expect("a full disk").errno(), libc::ENOSPC, "room for {room}");
        let good_to = writer.end();
        assert_eq!(scratch.read(0), (bytes[..good_to as usize].to_vec(), vec![]), "room for {room}");
        // There is room again, and some bytes have gone by.
        let mut writer = writer.with_pwritev(pwritev);
        writer.append(good_to + 500, b"later", 2, &mut cuts).unwrap();
        let (read, gaps) = scratch.read(0);
        assert_eq!(gaps, [(good_to, good_to + 500)], "room for {room}");
        assert_eq!(read, [&bytes[..good_to as usize], b"later"].concat());
        assert_eq!(scratch.writer(SMALL).end(), good_to + 505);
    }
}

#[test]
fn a_name_that_would_leave_the_folder_is_none() {
    for name in ["", ".", "..", "a/b", "a b", &"x".repeat(65)] {
        assert!(matches!(Identity::new(name, Channel::Stdout), Err(SpoolError::Session { .. })), "{name:?}");
    }
}

/// Numbers from a seed.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (self.0 >> 33) % end.max(1)
    }
}

/// One harm to one file: bytes flipped, zeroed, put in or taken out, the end cut off, all of it gone.
fn harm(chance: &mut Chance, path: &Path) {
    let Ok(mut bytes) = fs::read(path) else { return };
    let length = bytes.len() as u64;
    let at = chance.below(length) as usize;
    let some = chance.below(2_000).min(length - at as u64) as usize;
    match chance.below(6) {
        0 => bytes[at] ^= 1 << chance.below(8),
        1 => bytes[at..at + some].fill(0),
        2 => bytes.truncate(at),
        3 => drop(bytes.drain(at..at + some)),
        4 => drop(bytes.splice(at..at, data(some))),
        _ => return fs::remove_file(path).unwrap(),
    }
    fs::write(path, bytes).unwrap();
}

#[test]
fn whatever_is_done_to_the_files_no_wrong_byte_is_ever_read() {
    let bytes = data(60_000);
    for seed in 0..120 {
        let mut chance = Chance(seed);
        let scratch = Scratch::new();
        let pieces = 1 + chance.below(3_000) as usize;
        fill(&mut scratch.writer(SMALL), &bytes[..50_000], pieces);
        let folder = identity().folder(scratch.root());
        for _ in 0..1 + chance.below(4) {
            let firsts = super::writer::segments_in(&folder).unwrap();
            let hit = firsts[chance.below(firsts.len() as u64) as usize];
            harm(&mut chance, &folder.join(file_name(hit)));
        }
        let check = |from: u64| {
            let mut reader = open(scratch.root(), "session", Channel::Stdout).unwrap();
            let (mut into, mut at) = (Vec::new(), from);
            for _ in 0..200_000 {
                into.clear();
                match reader.read(at, 5_000, &mut into) {
                    Ok(Found::Bytes(n)) => {
                        assert!(into == bytes[at as usize..at as usize + n], "seed {seed}: wrong at {at}");
                        at += n as u64;
                    }
                    Ok(Found::Gap(to)) => {
                        assert!(to > at, "seed {seed}: a gap to {to} at {at}");
                        at = to;
                    }
                    Ok(Found::End) => return at,
                    // A version or a magic may have been hit in both copies.
                    Err(SpoolError::Newer { .. } | SpoolError::Foreign { .. }) => return at,
                    Err(error) => panic!("seed {seed}: {error}"),
                }
            }
            panic!("seed {seed}: it never ends")
        };
        check(0);
        check(chance.below(50_000));
        // And writing goes on behind it, if the last file is still ours.
        if let Ok(mut writer) = Writer::resume(scratch.root(), identity(), SMALL) {
            let end = writer.end();
            assert!(end <= 50_000, "seed {seed}: {end}");
            fill(&mut writer, &bytes[end as usize..], 1_000);
            assert_eq!(check(0), 60_000, "seed {seed}");
        }
    }
}
