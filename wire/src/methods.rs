//! The methods, one file per room; the control plane has their behaviour in files of the same names.
//!
//! Shapes only: parameters, results, rows. v1 fields keep their names and order, because byte-scanning clients
//! depend on it; new fields come after them.

pub mod agent;
pub mod audit;
pub mod consumer;
pub mod device;
pub mod event;
pub mod identity;
pub mod intent;
pub mod log;
pub mod open;
pub mod options;
pub mod permission;
pub mod pipeline;
pub mod process;
pub mod publish;
pub mod quota;
pub mod restart;
pub mod rows;
pub mod spool;
pub mod status;
pub mod stdin;
pub mod stream;
pub mod system;
pub mod usage;
pub mod view;

/// A closed set of words, each a text on the wire; `or Word` names the default.
macro_rules! words {
    (
        $(#[doc = $doc:literal])+
        $name:ident $(or $default:ident)? {
            $($(#[doc = $word_doc:literal])+ $variant:ident = $word:literal),+ $(,)?
        }
    ) => {
        $(#[doc = $doc])+
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
        )]
        pub enum $name {
            $($(#[doc = $word_doc])+ #[serde(rename = $word)] $variant,)+
        }

        impl $name {
            /// The text on the wire.
            pub fn word(self) -> &'static str {
                match self { $($name::$variant => $word,)+ }
            }
        }

        $(impl Default for $name {
            fn default() -> Self {
                $name::$default
            }
        })?
    };
}
pub(crate) use words;
