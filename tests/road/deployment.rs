//! Vedette in one process over a folder, or as stages between real services.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::program::{Program, Settings, free_address};
use crate::services::{Bucket, Services};

/// Where rows become visible after a second, so that tests needn't wait for five, and what is found does not depend on the
/// time of day.
fn prompt() -> Settings {
    Settings::default().with("ANALYTICS__FLUSH_SECONDS", 1).with("ANALYTICS__SCHEDULE", false)
}

/// `vedette serve` over a folder of its own.
pub struct Embedded {
    folder: TempDir,
    address: SocketAddr,
    pub settings: Settings,
}

impl Embedded {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let settings = prompt().with("DATA", folder.path().join("data").display());
        Self { folder, address: free_address(), settings }
    }

    /// The same with its lake in an S3 bucket. `None` where no S3 server is at hand and none is required.
    pub fn in_a_bucket() -> Option<Self> {
        let bucket = Bucket::new()?;
        let Self { folder, address, settings } = Self::new();
        Some(Self { folder, address, settings: bucket.settings(settings) })
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn serve(&self) -> Program {
        Program::start(&self.settings, "serve", self.address, self.folder.path())
    }

    /// Commits to a table of the lake so far.
    pub fn commits(&self, table: &str) -> usize {
        let log: PathBuf = self.folder.path().join("data/lake").join(table).join("_delta_log");
        let entries = std::fs::read_dir(log).into_iter().flatten().flatten();
        entries.filter(|entry| entry.path().extension().is_some_and(|extension| extension == "json")).count()
    }
}

/// `vedette ingest` and `vedette analytics` with topics and a database of their own.
pub struct Staged {
    folder: TempDir,
    ingest: SocketAddr,
    analytics: [SocketAddr; 2],
    pub services: Services,
    pub settings: Settings,
}

impl Staged {
    /// `None` where no services are at hand and none are required.
    pub fn new() -> Option<Self> {
        let services = Services::find()?;
        let settings = services.settings(prompt());
        let folder = tempfile::tempdir().unwrap();
        Some(Self { folder, ingest: free_address(), analytics: [free_address(), free_address()], services, settings })
    }

    pub fn ingest(&self) -> Program {
        Program::start(&self.settings, "ingest", self.ingest, self.folder.path())
    }

    pub fn analytics(&self) -> Program {
        Program::start(&self.settings, "analytics", self.analytics[0], self.folder.path())
    }

    /// Another one that shares its work.
    pub fn analytics_beside(&self) -> Program {
        Program::start(&self.settings, "analytics", self.analytics[1], self.folder.path())
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}
