//! The budget of bytes that all requests together may hold in memory.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The unit of account, so that budgets beyond 4 GiB fit the semaphore's counters.
const UNIT: usize = 1024;

/// Bytes to give out.
#[derive(Clone, Debug)]
pub struct Budget {
    units: Arc<Semaphore>,
    total: u32,
}

/// Bytes held; they go back when it is dropped.
#[derive(Debug)]
pub struct Hold {
    permit: OwnedSemaphorePermit,
}

impl Budget {
    pub fn new(bytes: usize) -> Self {
        let total = u32::try_from((bytes / UNIT).max(1)).unwrap_or(u32::MAX);
        Self { units: Arc::new(Semaphore::new(total as usize)), total }
    }

    /// Takes bytes, or `None` if that many are not free now. No single hold asks for more than there is in total.
    pub fn try_hold(&self, bytes: usize) -> Option<Hold> {
        let permit = Arc::clone(&self.units).try_acquire_many_owned(self.units_of(bytes)).ok()?;
        Some(Hold { permit })
    }

    /// Takes bytes, waiting for them for so long.
    pub async fn hold_within(&self, bytes: usize, wait: Duration) -> Option<Hold> {
        let acquire = Arc::clone(&self.units).acquire_many_owned(self.units_of(bytes));
        let permit = tokio::time::timeout(wait, acquire).await.ok()?.ok()?;
        Some(Hold { permit })
    }

    /// Makes a hold at least this large; false if the bytes are not free.
    pub fn grow(&self, hold: &mut Hold, bytes: usize) -> bool {
        match self.missing(hold, bytes) {
            0 => true,
            missing => hold.add(self.try_hold(missing)),
        }
    }

    /// Makes a hold at least this large, waiting for the bytes for so long; false if they do not become free.
    pub async fn grow_within(&self, hold: &mut Hold, bytes: usize, wait: Duration) -> bool {
        match self.missing(hold, bytes) {
            0 => true,
            missing => hold.add(self.hold_within(missing, wait).await),
        }
    }

    /// Bytes that are not held.
    pub fn free(&self) -> usize {
        self.units.available_permits() * UNIT
    }

    /// What a hold lacks of so many bytes.
    fn missing(&self, hold: &Hold, bytes: usize) -> usize {
        (self.units_of(bytes) as usize).saturating_sub(hold.permit.num_permits()) * UNIT
    }

    fn units_of(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).clamp(1, self.total)
    }
}

impl Hold {
    /// False if there is nothing to add.
    fn add(&mut self, more: Option<Hold>) -> bool {
        match more {
            Some(more) => {
                self.permit.merge(more.permit);
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back_when_holds_end() {
        let budget = Budget::new(10 * UNIT);
        let mut hold = budget.try_hold(6 * UNIT).unwrap();
        assert!(budget.try_hold(5 * UNIT).is_none());
        assert!(budget.grow(&mut hold, 8 * UNIT));
        assert!(budget.grow(&mut hold, 7 * UNIT), "a hold never shrinks");
        assert_eq!(budget.free(), 2 * UNIT);
        let other = budget.try_hold(2 * UNIT).unwrap();
        assert!(!budget.grow(&mut hold, 9 * UNIT));
        drop(other);
        drop(hold);
        assert_eq!(budget.free(), 10 * UNIT);
        assert!(budget.try_hold(usize::MAX).is_some(), "one request may take all there is");
    }

    #[tokio::test]
    async fn waits_for_bytes_and_gives_up_in_time() {
        let budget = Budget::new(UNIT);
        let hold = budget.try_hold(1).unwrap();
        assert!(budget.hold_within(1, Duration::from_millis(10)).await.is_none());
        let waiting = budget.hold_within(1, Duration::from_secs(10));
        drop(hold);
        assert!(waiting.await.is_some());
    }

    #[tokio::test]
    async fn grows_when_the_bytes_become_free_and_gives_up_in_time() {
        let budget = Budget::new(4 * UNIT);
        let mut hold = budget.try_hold(UNIT).unwrap();
        let other = budget.try_hold(2 * UNIT).unwrap();
        assert!(!budget.grow_within(&mut hold, 3 * UNIT, Duration::from_millis(10)).await);
        assert_eq!(budget.free(), UNIT, "what was waited for in vain is free");
        let freeing = async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            drop(other);
        };
        let (grown, ()) = tokio::join!(budget.grow_within(&mut hold, 3 * UNIT, Duration::from_secs(10)), freeing);
        assert!(grown);
        assert_eq!(budget.free(), UNIT);
    }
}
