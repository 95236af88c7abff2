//! The guest's interrupt controllers, which are the host's to emulate.

pub mod io;
pub mod local;
