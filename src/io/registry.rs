//! All open connections by token.

use std::sync::{Arc, PoisonError};

use super::connection::Connection;

use crate::base::sync::{Mutex, MutexGuard};

/// The open connections. A token is a slot in the lower half and the slot's generation in the upper,
/// so that a late event for a closed connection does not reach the next one in its slot.
#[derive(Default)]
pub struct Registry {
    slots: Mutex<Slots>,
}

#[derive(Default)]
struct Slots {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

struct Slot {
    generation: u32,
    connection: Option<Arc<Connection>>,
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn insert(&self, make: impl FnOnce(u64) -> Connection) -> Arc<Connection> {
        let mut slots = self.lock();
        let index = slots.free.pop().unwrap_or_else(|| {
            slots.slots.push(Slot { generation: 0, connection: None });
            // A process has fewer descriptors than 2^32.
            (slots.slots.len() - 1) as u32
        });
        let slot = &mut slots.slots[index as usize];
        let connection = Arc::new(make(u64::from(slot.generation) << 32 | u64::from(index)));
        slot.connection = Some(connection.clone());
        connection.listener.service.connections().add();
        connection
    }

    pub fn get(&self, token: u64) -> Option<Arc<Connection>> {
        let slots = self.lock();
        let slot = slots.slots.get((token & 0xffff_ffff) as usize)?;
        if slot.generation != (token >> 32) as u32 { None } else { slot.connection.clone() }
    }

    pub fn remove(&self, token: u64) {
        let index = (token & 0xffff_ffff) as u32;
        let mut slots = self.lock();
        let slot = slots.slots.get_mut(index as usize);
        let Some(slot) = slot.filter(|slot| slot.generation == (token >> 32) as u32) else {
            return;
        };
        let removed = slot.connection.take();
        slot.generation = slot.generation.wrapping_add(1);
        slots.free.push(index);
        if let Some(connection) = &removed {
            connection.listener.service.connections().remove();
        }
        drop(slots);
        // Closing a socket takes its time; not under the lock.
        drop(removed);
    }

    /// The connections that `wanted` picks; the lock is free again when they are returned.
    pub fn select(&self, wanted: impl Fn(&Connection) -> bool) -> Vec<Arc<Connection>> {
        let slots = self.lock();
        let open = slots.slots.iter().filter_map(|slot| slot.connection.as_ref());
        open.filter(|connection| wanted(connection)).cloned().collect()
    }
}
