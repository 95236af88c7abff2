//! The IGVM file format: a fixed header, variable headers in three sections, and data that these refer to.
//!
//! Invariant: an [`IgvmFile`] exists only for bytes in which every header could be read and every reference followed.
//!
//! Source: IGVM specification, which is the documentation of the `igvm_defs` crate, version 0.5.

mod crc32;
mod directive;
mod error;
mod file;
mod initialization;
pub mod layout;
mod platform;
mod raw;
mod writer;

pub use directive::{
    Directive, ErrorRange, PageData, PageDataType, Parameter, ParameterArea, ParameterInsert, ParameterKind,
    RequiredMemory, VpContext,
};
pub use error::ParseError;
pub use file::{Architecture, At, IgvmFile, PlatformImage, Revision, seal};
pub use initialization::{Initialization, PageTableRelocation, RelocatableRegion};
pub use platform::{Platform, PlatformType};
pub use raw::{Section, Unknown};
pub use writer::{FileBuilder, WriteError};
