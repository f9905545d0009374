//! Basics that know nothing of keys or HTTP.

pub mod arena;
pub mod checkup;
pub mod clock;
pub mod deadline;
pub mod duration;
pub mod generation;
pub mod glob;
pub mod name;
pub mod nearest;
pub mod panics;
pub mod secret;
pub mod sync;
