//! Appends a stream to its segments, and cuts the oldest of them.
//!
//! Invariant: `end` is one past the last byte that was written whole; what a failed write left behind it is taken away
//! again, or, if even that fails, overwritten by the next or found torn by whoever reads. Segments are in order and don't
//! overlap; only the last is written to.
//!
//! Durability: a write is in the system's page cache when it is answered, so a killed kernel loses none; a power
//! failure may. [`SpoolLimits::sync`] has each segment flushed when it is full.

use crate::limits::SPOOL_RECORD_BYTES_MAX;
use crate::points::{Point, reach};
use crate::spool::segment::{HEADER_BYTES, Header, Opened, Step, Walk, file_name, first_of, record_bytes};
use crate::spool::{Cut, CutReason, Identity, SpoolError, SpoolLimits};
use std::collections::VecDeque;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, IoSlice};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// How bytes get into a file; another in tests of failing disks.
pub type Pwritev = fn(&File, &[IoSlice<'_>], u64) -> io::Result<usize>;

/// pwritev(2).
pub fn pwritev(file: &File, bytes: &[IoSlice<'_>], at: u64) -> io::Result<usize> {
    Ok(rustix::io::pwritev(file, bytes, at)?)
}

/// The writing end of one stream's spool.
#[derive(Debug)]
pub struct Writer {
    identity: Identity,
    folder: PathBuf,
    limits: SpoolLimits,
    segments: VecDeque<Segment>,
    current: Option<Current>,
    end: u64,
    pwritev: Pwritev,
}

/// A segment as it is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Segment {
    first: u64,
    end: u64,
    file_bytes: u64,
    /// Of its last byte, nanoseconds since 1970.
    written_ns: u64,
}

#[derive(Debug)]
struct Current {
    file: File,
    salt: u64,
}

impl Writer {
    /// Goes on where the spool of this stream ends; an empty one if there is none. A torn last record is cut off. A file
    /// that isn't ours or of a later version is refused, and nothing is changed.
    pub fn resume(root: &Path, identity: Identity, limits: SpoolLimits) -> Result<Writer, SpoolError> {
        let folder = identity.folder(root);
        let mut writer =
            Writer { identity, folder, limits, segments: VecDeque::new(), current: None, end: 0, pwritev };
        let firsts = segments_in(&writer.folder)?;
        for (place, first) in firsts.iter().enumerate() {
            let path = writer.folder.join(file_name(*first));
            let last = place + 1 == firsts.len();
            writer.take_up(&path, *first, firsts.get(place + 1).copied(), last)?;
        }
        Ok(writer)
    }

    /// Lists a segment that is there; the last is opened to be gone on with.
    fn take_up(&mut self, path: &Path, first: u64, next: Option<u64>, last: bool) -> Result<(), SpoolError> {
        let file =
            OpenOptions::new().read(true).write(last).open(path).map_err(SpoolError::os("open", path))?;
        let about = file.metadata().map_err(SpoolError::os("stat", path))?;
        let written_ns = about.mtime() as u64 * 1_000_000_000 + about.mtime_nsec() as u64;
        let header = match Header::read(&file, path, &self.identity, first)? {
            Opened::Whole(header) => header,
            // Its bytes can't be told from others any more: a gap for readers, and out of the way of a new segment.
            Opened::Damaged if last => {
                self.end = self.end.max(first);
                let aside = path.with_extension("damaged");
                return fs::rename(path, &aside).map_err(SpoolError::os("put aside", path));
            }
            Opened::Damaged => {
                let end = next.unwrap_or(first);
                self.segments.push_back(Segment { first, end, file_bytes: about.len(), written_ns });
                return Ok(());
            }
        };
        let mut segment = Segment { first, end: next.unwrap_or(first), file_bytes: about.len(), written_ns };
        if last {
            let (end, whole_bytes) = last_whole(&file, path, &header, about.len())?;
            if whole_bytes < about.len() {
                tracing::warn!(path = %path.display(), at = end, "a torn record is cut off");
                file.set_len(whole_bytes).map_err(SpoolError::os("cut a torn record off", path))?;
            }
            segment = Segment { end, file_bytes: whole_bytes, ..segment };
            self.end = end;
            self.current = Some(Current { file, salt: header.salt });
        }
        self.segments.push_back(segment);
        Ok(())
    }

    /// Has bytes written by something else than pwritev(2).
    #[cfg(test)]
    pub(crate) fn with_pwritev(mut self, pwritev: Pwritev) -> Writer {
        self.pwritev = pwritev;
        self
    }

    /// One past the last byte.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// The first byte that is still there, if any is.
    pub fn oldest(&self) -> u64 {
        self.segments.front().map_or(self.end, |segment| segment.first)
    }

    /// Where the last segment begins.
    pub fn newest(&self) -> u64 {
        self.segments.back().map_or(self.end, |segment| segment.first)
    }

    /// Of all segments, headers included.
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.file_bytes).sum()
    }

    /// How many there are.
    pub fn segments(&self) -> u32 {
        self.segments.len() as u32
    }

    /// Appends bytes that begin at `offset`, in records of at most [`SPOOL_RECORD_BYTES_MAX`]. An offset past the end
    /// leaves a gap between two segments. What had to go for them is appended to `cuts`. On failure [`Writer::end`]
    /// says how far it came.
    pub fn append(
        &mut self,
        offset: u64,
        data: &[u8],
        now_ns: u64,
        cuts: &mut Vec<Cut>,
    ) -> Result<(), SpoolError> {
        if offset < self.end {
            return Err(SpoolError::Behind { offset, end: self.end });
        }
        if offset > self.end {
            self.close()?;
            self.end = offset;
        }
        self.notice_deletion(cuts);
        for piece in data.chunks(SPOOL_RECORD_BYTES_MAX) {
            self.make_room(piece.len() as u64 + crate::spool::segment::RECORD_HEADER_BYTES as u64, cuts)?;
            self.put(piece, now_ns)?;
        }
        self.expire(now_ns, cuts)
    }

    fn put(&mut self, data: &[u8], now_ns: u64) -> Result<(), SpoolError> {
        if self.current.is_none() {
            self.begin(now_ns)?;
        }
        let (Some(current), Some(segment)) = (&self.current, self.segments.back_mut()) else { return Ok(()) };
        let header = record_bytes(current.salt, self.end, data);
        let at = segment.file_bytes;
        if let Err(source) = write_all(self.pwritev, &current.file, &header, data, at) {
            let path = self.folder.join(file_name(segment.first));
            // Whatever of it got in must not stand before what comes next; if this fails too, it is found torn.
            let _ = current.file.set_len(at);
            return Err(SpoolError::Os { step: "write", path, source });
        }
        segment.file_bytes += (header.len() + data.len()) as u64;
        segment.written_ns = now_ns;
        self.end += data.len() as u64;
        segment.end = self.end;
        reach(Point::SpoolWritten);
        Ok(())
    }

    /// Begins a segment at the end.
    fn begin(&mut self, now_ns: u64) -> Result<(), SpoolError> {
        let folder = &self.folder;
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(SpoolError::os("make the folder", folder))?;
        let path = folder.join(file_name(self.end));
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(SpoolError::os("make", &path))?;
        // Keyed at random by the library: nobody who writes to the stream can know it.
        let mut drawn = RandomState::new().build_hasher();
        drawn.write_u64(now_ns);
        let salt = drawn.finish();
        let header = Header { identity: self.identity.clone(), first: self.end, created_ns: now_ns, salt };
        if let Err(source) = write_all(self.pwritev, &file, &header.bytes(), &[], 0) {
            // A file without a header is of no use; if it stays, it is found damaged.
            let _ = fs::remove_file(&path);
            return Err(SpoolError::Os { step: "write", path, source });
        }
        let (first, end) = (self.end, self.end);
        self.segments.push_back(Segment { first, end, file_bytes: HEADER_BYTES, written_ns: now_ns });
        self.current = Some(Current { file, salt });
        reach(Point::SpoolBegun);
        Ok(())
    }

    /// Ends the current segment; the next byte begins a new one.
    pub fn close(&mut self) -> Result<(), SpoolError> {
        let (Some(current), Some(segment)) = (self.current.take(), self.segments.back()) else {
            return Ok(());
        };
        if self.limits.sync {
            let path = self.folder.join(file_name(segment.first));
            current.file.sync_data().map_err(SpoolError::os("flush", &path))?;
        }
        Ok(())
    }

    /// Finds out which segments were deleted under us, but for the one that is written to.
    pub fn recount(&mut self, cuts: &mut Vec<Cut>) -> Result<(), SpoolError> {
        let there = segments_in(&self.folder)?;
        let written_to = self.current.is_some().then(|| self.newest());
        self.segments.retain(|segment| {
            let kept = Some(segment.first) == written_to || there.binary_search(&segment.first).is_ok();
            if !kept && segment.first < segment.end {
                cuts.push(Cut { from: segment.first, to: segment.end, why: CutReason::Deleted });
            }
            kept
        });
        Ok(())
    }

    /// A file that was deleted under us takes what is written to it with it.
    fn notice_deletion(&mut self, cuts: &mut Vec<Cut>) {
        let Some(current) = &self.current else { return };
        if current.file.metadata().is_ok_and(|about| about.nlink() > 0) {
            return;
        }
        self.current = None;
        if let Some(gone) = self.segments.pop_back() {
            cuts.push(Cut { from: gone.first, to: gone.end, why: CutReason::Deleted });
        }
    }

    /// Ends a segment that is full, and cuts what this record's `file_bytes` more would be too much with.
    fn make_room(&mut self, file_bytes: u64, cuts: &mut Vec<Cut>) -> Result<(), SpoolError> {
        let holds = |segment: &Segment| segment.file_bytes > HEADER_BYTES;
        let full = |segment: &&Segment| {
            segment.file_bytes + file_bytes > self.limits.segment_bytes && holds(segment)
        };
        if self.current.is_some() && self.segments.back().filter(full).is_some() {
            self.close()?;
            self.recount(cuts)?;
        }
        let starts = |writer: &Writer| if writer.current.is_none() { HEADER_BYTES } else { 0 };
        while let Some(most) = self.limits.bytes_max
            && self.bytes() + file_bytes + starts(self) > most
            && self.cut_oldest(CutReason::Limit, cuts)?
        {}
        while let Some(most) = self.limits.segments_max
            && self.segments() + u32::from(self.current.is_none()) > most
            && self.segments() > u32::from(self.current.is_some())
            && self.cut_oldest(CutReason::Limit, cuts)?
        {}
        Ok(())
    }

    /// Cuts what is too old.
    pub fn expire(&mut self, now_ns: u64, cuts: &mut Vec<Cut>) -> Result<(), SpoolError> {
        while let Some(age_ms) = self.limits.age_ms_max
            && let Some(oldest) = self.segments.front()
            && oldest.written_ns.saturating_add(age_ms.saturating_mul(1_000_000)) < now_ns
            && self.cut_oldest(CutReason::Limit, cuts)?
        {}
        Ok(())
    }

    /// When [`Writer::expire`] has something to do next, nanoseconds since 1970.
    pub fn expires_ns(&self) -> Option<u64> {
        let age_ns = self.limits.age_ms_max?.saturating_mul(1_000_000);
        Some(self.segments.front()?.written_ns.saturating_add(age_ns))
    }

    /// Removes the oldest segment, the current one too if it is the only one. False if there is none.
    pub fn cut_oldest(&mut self, why: CutReason, cuts: &mut Vec<Cut>) -> Result<bool, SpoolError> {
        if self.segments.len() == 1 {
            self.close()?;
        }
        let Some(oldest) = self.segments.pop_front() else { return Ok(false) };
        let path = self.folder.join(file_name(oldest.first));
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), %error, "a segment can't be removed");
            }
            Ok(()) | Err(_) => {}
        }
        reach(Point::SpoolCut);
        if oldest.first < oldest.end {
            cuts.push(Cut { from: oldest.first, to: oldest.end, why });
        }
        Ok(true)
    }
}

/// The first offsets of the segments of a folder, in order.
pub(super) fn segments_in(folder: &Path) -> Result<Vec<u64>, SpoolError> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(SpoolError::os("list", folder))?,
    };
    let mut firsts = Vec::new();
    for entry in entries {
        let entry = entry.map_err(SpoolError::os("list", folder))?;
        firsts.extend(entry.file_name().to_str().and_then(first_of));
    }
    firsts.sort_unstable();
    Ok(firsts)
}

/// Where the whole records of a segment end: in the stream, and in the file.
fn last_whole(file: &File, path: &Path, header: &Header, file_bytes: u64) -> Result<(u64, u64), SpoolError> {
    let mut walk = Walk::new(header);
    let (mut at, mut end, mut last) = (HEADER_BYTES, header.first, None);
    loop {
        let step = walk.step(file, at).map_err(SpoolError::os("read", path))?;
        let (place, record) = match step {
            Step::Record(record) => (at, record),
            Step::Damaged { next, record } => (next, record),
            Step::End => break,
        };
        if place + record.file_bytes() > file_bytes {
            break;
        }
        last = Some((at, end, place, record));
        (at, end) = (place + record.file_bytes(), record.end());
    }
    // A header may have reached the disk before its data.
    if let Some((before, end_before, place, record)) = last {
        let mut data = vec![0; record.length as usize];
        let from = place + super::segment::RECORD_HEADER_BYTES as u64;
        let got = super::segment::read_up_to(file, &mut data, from).map_err(SpoolError::os("read", path))?;
        let sum = super::segment::data_checksum(record.length, record.offset, &data);
        if got < data.len() || sum != record.checksum {
            return Ok((end_before, before));
        }
    }
    Ok((end, at))
}

fn write_all(pwritev: Pwritev, file: &File, header: &[u8], data: &[u8], at: u64) -> io::Result<()> {
    let mut done = 0;
    while done < header.len() + data.len() {
        let (head, body) = (&header[done.min(header.len())..], &data[done.saturating_sub(header.len())..]);
        match pwritev(file, &[IoSlice::new(head), IoSlice::new(body)], at + done as u64) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => done += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
