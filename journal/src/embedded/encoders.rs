//! Compresses appends in their senders' name, beside each other, so that a topic's one writer only writes and syncs.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;

use super::frame::{Encoder, Frame};
use crate::record::Record;

/// Appends from this size on are compressed on a thread where that holds nobody up.
const LARGE_APPEND: usize = 32 << 10;

/// As many encoders as there are cores: more at once would only take more memory.
pub struct Encoders {
    turns: Arc<Semaphore>,
    idle: Mutex<Vec<Encoder>>,
    cores: usize,
}

impl Encoders {
    pub fn new() -> Arc<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Arc::new(Encoders { turns: Arc::new(Semaphore::new(cores)), idle: Mutex::new(Vec::new()), cores })
    }

    /// Records of that size together, as frames.
    pub async fn encode(self: &Arc<Self>, records: Vec<Record>, size: usize) -> io::Result<Vec<Frame>> {
        if size < LARGE_APPEND {
            return self.encode_here(&records);
        }
        let turn = self.turns.clone().acquire_owned().await.map_err(io::Error::other)?;
        let encoders = self.clone();
        let encode = move || {
            let _turn = turn;
            encoders.encode_here(&records)
        };
        tokio::task::spawn_blocking(encode).await.map_err(io::Error::other)?
    }

    fn encode_here(&self, records: &[Record]) -> io::Result<Vec<Frame>> {
        let idle = || self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = idle().pop();
        let mut encoder = kept.map_or_else(Encoder::new, Ok)?;
        let frames = encoder.encode_all(records);
        let mut idle = idle();
        if idle.len() < self.cores {
            idle.push(encoder);
        }
        frames
    }
}
