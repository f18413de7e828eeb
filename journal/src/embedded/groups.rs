//! Consumer groups: what each has committed, in one small file a group.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::segment::{at, sync_dir};
use crate::record::Topic;
use crate::{JournalError, Positions};

/// A group's committed position in each topic, by the topic's name.
type Committed = BTreeMap<String, u64>;

pub struct Groups {
    dir: PathBuf,
    committed: Mutex<BTreeMap<String, Committed>>,
}

impl Groups {
    /// Reads the groups of a journal's folder.
    pub fn load(dir: PathBuf) -> Result<Self, JournalError> {
        std::fs::create_dir_all(&dir).map_err(at(&dir))?;
        let mut groups = BTreeMap::new();
        for entry in std::fs::read_dir(&dir).map_err(at(&dir))? {
            let path = entry.map_err(at(&dir))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".json"));
            let Some(name) = name else { continue };
            let text = std::fs::read(&path).map_err(at(&path))?;
            let committed = serde_json::from_slice(&text)
                .map_err(|e| JournalError::Corrupt { path: path.display().to_string(), reason: e.to_string() })?;
            groups.insert(name.to_owned(), committed);
        }
        Ok(Groups { dir, committed: Mutex::new(groups) })
    }

    /// The file of a group.
    pub fn path_of(&self, group: &str) -> PathBuf {
        self.dir.join(format!("{group}.json"))
    }

    /// Enters a group's interest in topics, so that what it has yet to read is kept. Gives back where it starts in each:
    /// where it last committed, or at the offset given.
    pub fn join(&self, group: &str, topics: &[(Topic, u64)]) -> Result<Vec<u64>, JournalError> {
        self.check_name(group)?;
        let mut groups = self.lock();
        let mut committed = groups.get(group).cloned().unwrap_or_default();
        let starts = topics.iter().map(|&(topic, start)| *committed.entry(topic.name().to_owned()).or_insert(start));
        let starts = starts.collect();
        self.update(&mut groups, group, committed)?;
        Ok(starts)
    }

    /// Moves a group's positions, forward only.
    pub fn commit(&self, group: &str, positions: &Positions) -> Result<(), JournalError> {
        let mut groups = self.lock();
        let mut committed = groups.get(group).cloned().unwrap_or_default();
        for (partition, &position) in positions {
            let entry = committed.entry(partition.topic.name().to_owned()).or_insert(position);
            *entry = position.max(*entry);
        }
        self.update(&mut groups, group, committed)
    }

    /// What the slowest group has committed of a topic; `None` when no group reads it.
    pub fn slowest(&self, topic: Topic) -> Option<u64> {
        self.lock().values().filter_map(|committed| committed.get(topic.name()).copied()).min()
    }

    /// The highest position that any group has committed of a topic.
    pub fn fastest(&self, topic: Topic) -> u64 {
        self.lock().values().filter_map(|committed| committed.get(topic.name()).copied()).max().unwrap_or(0)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Committed>> {
        self.committed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Memory follows the file: retention deletes by what is in memory, and may only trust what a crash would keep.
    fn update(
        &self,
        groups: &mut BTreeMap<String, Committed>,
        group: &str,
        committed: Committed,
    ) -> Result<(), JournalError> {
        if groups.get(group) == Some(&committed) {
            return Ok(());
        }
        let path = self.path_of(group);
        let text = serde_json::to_vec(&committed).map_err(|e| at(&path)(e.into()))?;
        replace(&path, &text)?;
        groups.insert(group.to_owned(), committed);
        Ok(())
    }

    /// A group's name is a file's name.
    fn check_name(&self, group: &str) -> Result<(), JournalError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if !group.is_empty() && group.len() <= 200 && !group.starts_with('.') && group.bytes().all(allowed) {
            return Ok(());
        }
        let reason = format!("{group:?} can't be a group's name: letters, digits, '-', '_' and '.' can");
        Err(at(&self.dir)(io::Error::new(io::ErrorKind::InvalidInput, reason)))
    }
}

/// Writes a file so that a crash leaves the old content or the new.
pub fn replace(path: &Path, content: &[u8]) -> Result<(), JournalError> {
    let temporary = path.with_extension("tmp");
    let write = || -> io::Result<()> {
        let mut file = File::create(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    write().map_err(at(path))?;
    path.parent().map_or(Ok(()), sync_dir)
}
