//! Memory for blocks of text, used again from batch to batch: the allocator would give part of it back to the machine
//! between two batches, and what is got anew is cleared page by page.

use std::sync::{Mutex, PoisonError};

use arrow::buffer::Buffer;
use bytes::Bytes;

/// Bytes that lie ready at most.
const KEPT: usize = 32 << 20;

static FREE: Mutex<Free> = Mutex::new(Free { blocks: Vec::new(), bytes: 0 });

/// Blocks that nobody uses, and what they come to.
struct Free {
    blocks: Vec<Vec<u8>>,
    bytes: usize,
}

/// An empty block of at least that capacity, in bytes.
pub fn block(capacity: usize) -> Vec<u8> {
    let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(place) = free.blocks.iter().rposition(|block| block.capacity() == capacity) else {
        return Vec::with_capacity(capacity);
    };
    free.bytes -= capacity;
    free.blocks.swap_remove(place)
}

/// A full block for arrays to share. Its memory lies ready again once the last of them is gone.
pub fn share(block: Vec<u8>) -> Buffer {
    Buffer::from(Bytes::from_owner(Shared(block)))
}

struct Shared(Vec<u8>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let mut block = std::mem::take(&mut self.0);
        block.clear();
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        if free.bytes + block.capacity() <= KEPT {
            free.bytes += block.capacity();
            free.blocks.push(block);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_comes_back_when_the_last_user_is_gone_and_not_before() {
        // Of a size of its own, for tests beside this one use the pool as well.
        let size = (1 << 20) + 1;
        let mut first = block(size);
        first.extend_from_slice(b"text");
        let address = first.as_ptr();
        let buffer = share(first);
        let copy = buffer.clone();
        drop(buffer);
        let second = block(size);
        assert_ne!(second.as_ptr(), address);
        assert_eq!(copy.as_slice(), b"text");
        drop(copy);
        let third = block(size);
        assert_eq!((third.as_ptr(), third.len()), (address, 0));
        // No more than is to be kept.
        let too_large = share(block(KEPT + 1));
        drop(too_large);
        assert!(FREE.lock().unwrap().bytes <= KEPT);
    }
}
