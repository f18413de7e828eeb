//! Segment files: their names, their creation, and what is found in them after a crash.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::frame::{FORMAT, HEADER, Header};
use crate::JournalError;

/// A segment of a topic: the records from `base` on, in a file named after it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Segment {
    pub base: u64,
    /// How much of the file is synced.
    pub bytes: u64,
}

/// A topic's segments as they are after recovery, and the last one open for appending.
pub struct Recovered {
    pub segments: Vec<Segment>,
    pub file: File,
    /// The offset that the next record gets.
    pub next: u64,
}

pub fn path_of(dir: &Path, base: u64) -> PathBuf {
    dir.join(format!("{base:020}.log"))
}

/// Wraps an I/O error with the path that it is about.
pub fn at(path: &Path) -> impl Fn(io::Error) -> JournalError + '_ {
    |source| JournalError::Io { path: path.display().to_string(), source }
}

/// Why there is no new segment.
#[derive(Debug)]
pub struct Refused {
    pub error: JournalError,
    /// Why its file may be in the folder all the same. The next opening would take it for the log's last segment.
    pub left: Option<io::Error>,
}

impl From<Refused> for JournalError {
    fn from(refused: Refused) -> Self {
        refused.error
    }
}

/// Makes the names in a folder durable.
pub fn sync_dir(dir: &Path) -> Result<(), JournalError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(at(dir))
}

/// Creates an empty segment, durably. A file of that name can only be what an earlier attempt left, which nothing was
/// written to that counts. After an error there is none, unless it says otherwise.
pub fn create(dir: &Path, base: u64) -> Result<File, Refused> {
    let path = path_of(dir, base);
    // Opened before there is a file, which could be neither kept nor removed durably without it.
    let folder = File::open(dir).map_err(|e| Refused { error: at(dir)(e), left: None })?;
    create_in(&folder, &path).map_err(|e| Refused { error: at(&path)(e), left: take_back(&folder, &path).err() })
}

fn create_in(folder: &File, path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
    file.set_len(0)?;
    file.sync_all()?;
    folder.sync_all()?;
    Ok(file)
}

/// Removes what an unfinished creation left, durably.
fn take_back(folder: &File, path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Ok(()) => folder.sync_all(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

/// Finds a topic's segments, cuts a torn tail off and makes the rest durable. `floor` is the highest offset that a group
/// has committed: offsets below it were in use and are never given out again, even where the records themselves are gone.
pub fn recover(dir: &Path, floor: u64) -> Result<Recovered, JournalError> {
    let mut segments = list(dir)?;
    let Some(last) = segments.last_mut() else {
        let file = create(dir, floor)?;
        return Ok(Recovered { segments: vec![Segment { base: floor, bytes: 0 }], file, next: floor });
    };
    let path = path_of(dir, last.base);
    let mut file = OpenOptions::new().read(true).append(true).open(&path).map_err(at(&path))?;
    let scan = scan(&file, &path, last.base, last.bytes)?;
    if scan.bytes < last.bytes {
        cut_torn_tail(&file, &path, &scan, last.bytes)?;
        last.bytes = scan.bytes;
    }
    // A killed process may have left frames, and the file's own name, in memory alone. From here on they count as durable.
    file.sync_all().map_err(at(&path))?;
    sync_dir(dir)?;
    let mut next = scan.next;
    if floor > next {
        tracing::error!(path = %dir.display(), end = next, committed = floor, "the log ends before what was read from it: records are missing");
        file = create(dir, floor)?;
        segments.push(Segment { base: floor, bytes: 0 });
        next = floor;
    }
    Ok(Recovered { segments, file, next })
}

fn list(dir: &Path) -> Result<Vec<Segment>, JournalError> {
    let mut segments = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(at(dir))? {
        let entry = entry.map_err(at(dir))?;
        let name = entry.file_name();
        let base = name.to_str().and_then(|name| name.strip_suffix(".log")).filter(|digits| digits.len() == 20);
        let Some(base) = base.and_then(|digits| digits.parse().ok()) else {
            tracing::warn!(path = %entry.path().display(), "not a segment: left alone");
            continue;
        };
        // Follows links, unlike the entry's own metadata.
        let metadata = std::fs::metadata(entry.path()).map_err(at(&entry.path()))?;
        segments.push(Segment { base, bytes: metadata.len() });
    }
    segments.sort_by_key(|segment| segment.base);
    Ok(segments)
}

/// How far a segment's frames are whole.
struct Scan {
    bytes: u64,
    next: u64,
}

fn scan(file: &File, path: &Path, base: u64, end: u64) -> Result<Scan, JournalError> {
    let mut scan = Scan { bytes: 0, next: base };
    let mut frame = Vec::new();
    while end - scan.bytes >= HEADER as u64 {
        let mut bytes = [0; HEADER];
        file.read_exact_at(&mut bytes, scan.bytes).map_err(at(path))?;
        let fits = |header: &Header| header.size as u64 <= end - scan.bytes;
        let Some(header) = Header::parse(&bytes).filter(fits) else { break };
        frame.resize(header.size, 0);
        file.read_exact_at(&mut frame, scan.bytes).map_err(at(path))?;
        if !header.matches(&frame) {
            break;
        }
        // A whole frame is no torn tail, whatever is wrong with it.
        if header.format != FORMAT {
            return Err(unknown_format(path, scan.bytes, header.format));
        }
        if header.first != scan.next || header.count == 0 {
            let reason =
                format!("the frame at byte {}, of offset {}, should be of {}", scan.bytes, header.first, scan.next);
            return Err(JournalError::Corrupt { path: path.display().to_string(), reason });
        }
        scan.bytes += header.size as u64;
        scan.next = header.end();
    }
    Ok(scan)
}

/// The error for a frame that is whole, but of a format that a later version writes.
pub fn unknown_format(path: &Path, at: u64, format: u8) -> JournalError {
    JournalError::Format { path: path.display().to_string(), at, format }
}

/// Truncates what a crash left unfinished. Bytes that had been synced before a later frame was written are no torn tail:
/// they were acknowledged, and cutting them off would hide their loss.
fn cut_torn_tail(file: &File, path: &Path, scan: &Scan, end: u64) -> Result<(), JournalError> {
    let mut tail = vec![0; (end - scan.bytes) as usize];
    file.read_exact_at(&mut tail, scan.bytes).map_err(at(path))?;
    if let Some(after) = (1..tail.len()).find(|&start| later_frame(&tail[start..], scan.next)) {
        let after = scan.bytes + after as u64;
        return Err(JournalError::Corrupt {
            path: path.display().to_string(),
            reason: format!(
                "the frame at byte {} is damaged, and the one at byte {after} was written after it was synced",
                scan.bytes
            ),
        });
    }
    tracing::warn!(path = %path.display(), at = scan.bytes, bytes = tail.len(), "cutting off records that were never acknowledged");
    file.set_len(scan.bytes).map_err(at(path))
}

/// Whether the bytes start with a whole frame, written when records from offset `next` on were on disk already.
fn later_frame(bytes: &[u8], next: u64) -> bool {
    // Cheap tests before the checksum: compressed bytes may look like a header here and there, but hardly with offsets
    // that a segment could reach.
    let reachable = next..next.saturating_add(1 << 40);
    let plausible = |header: &Header| {
        header.format == FORMAT
            && header.synced > next
            && header.first >= header.synced
            && reachable.contains(&header.first)
            && header.count > 0
            && header.size <= bytes.len()
    };
    Header::parse(bytes).filter(plausible).is_some_and(|header| header.matches(&bytes[..header.size]))
}
