//! Memory for keys that are kept: it is locked, so never swapped, and left out of core dumps and of children.
//!
//! It grows to 256 KiB, which systems let any process lock. What does not fit is ordinary memory.

use std::{
    io, mem,
    ops::{Deref, DerefMut},
    sync::{Mutex, PoisonError},
};

use memmap2::{Advice, MmapMut};
use zeroize::Zeroize as _;

/// Bytes of a slot: a master key with all that is derived from it, or a token.
pub const SLOT: usize = 128;
/// Bytes of all slots.
const SIZE: usize = 256 << 10;
/// Bytes that are mapped at once: the largest page, and all that old systems let a process lock.
const CHUNK: usize = 64 << 10;

static ARENA: Mutex<Arena> = Mutex::new(Arena { free: Vec::new(), chunks: 0 });

struct Arena {
    /// Slots that nothing is in. They are wiped.
    free: Vec<&'static mut [u8]>,
    chunks: usize,
}

/// Some bytes of the arena, which nothing else refers to. They are wiped when dropped.
pub struct Slot(&'static mut [u8]);

impl Slot {
    /// A slot of zeros; `None` if all are in use.
    pub fn take() -> Option<Self> {
        let mut arena = ARENA.lock().unwrap_or_else(PoisonError::into_inner);
        if arena.free.is_empty() && arena.chunks < SIZE / CHUNK {
            arena.chunks += 1;
            let chunk: &'static mut MmapMut = Box::leak(Box::new(map(CHUNK).ok()?));
            // `can_lock` has told before.
            let _ = chunk.lock();
            arena.free.extend(chunk.chunks_exact_mut(SLOT));
        }
        arena.free.pop().map(Self)
    }
}

impl Deref for Slot {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0
    }
}

impl DerefMut for Slot {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.0
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.zeroize();
        ARENA.lock().unwrap_or_else(PoisonError::into_inner).free.push(mem::take(&mut self.0));
    }
}

/// Whether the system lets this process lock as much as the arena can have.
///
/// # Errors
/// The refusal.
pub fn can_lock() -> io::Result<()> {
    map(SIZE)?.lock()
}

fn map(size: usize) -> io::Result<MmapMut> {
    let map = MmapMut::map_anon(size)?;
    map.advise(Advice::DontDump)?;
    map.advise(Advice::DontFork)?;
    Ok(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_slot_is_handed_out_twice_and_each_begins_wiped() {
        let fill = |byte: u8| {
            let mut held = Vec::new();
            for round in 0..2_000 {
                if let Some(mut slot) = Slot::take() {
                    assert_eq!([0; SLOT], &*slot);
                    slot.fill(byte);
                    held.push(slot);
                }
                if round % 3 == 0 && !held.is_empty() {
                    drop(held.swap_remove(round % held.len()));
                }
            }
            assert!(held.iter().all(|slot| slot.iter().all(|b| *b == byte)));
        };
        std::thread::scope(|scope| {
            for byte in 1..=4 {
                scope.spawn(move || fill(byte));
            }
        });
    }
}
