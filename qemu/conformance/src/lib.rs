//! What the conformance guest and the builder of its image agree on.
//!
//! The guest itself is the program (`main.rs`), which is bare metal; `cargo xtask conformance` builds an IGVM file of it. This library is the part
//! that both read: the launch block, and the lists of scenarios and attacks.
#![no_std]
#![forbid(unsafe_code)]

/// An enumeration whose variants have names for the command line and numbers for the launch block.
macro_rules! named {
    ($(#[doc = $about:literal])* $type:ident { $($(#[doc = $doc:literal])* $name:ident = $word:literal,)* }) => {
        $(#[doc = $about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u64)]
        pub enum $type {
            $($(#[doc = $doc])* $name,)*
        }

        impl $type {
            /// All of them.
            pub const ALL: &[$type] = &[$($type::$name),*];

            /// Its name on the command line.
            pub fn name(self) -> &'static str {
                match self { $($type::$name => $word,)* }
            }

            /// The one with this name.
            pub fn from_name(name: &str) -> Option<$type> {
                Self::ALL.iter().copied().find(|this| this.name() == name)
            }

            /// The one with this number.
            pub fn from_number(number: u64) -> Option<$type> {
                Self::ALL.iter().copied().find(|&this| this as u64 == number)
            }
        }
    };
}

pub mod attack;
pub mod block;
pub mod scenario;
