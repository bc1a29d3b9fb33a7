//! Who asks, and what they may do.
//!
//! [`principal`] names the asker from what the operating system says about the peer, [`policy`] says which kinds
//! of deed each kind of principal may do at all, [`grant`] whether this principal may do it to that process.

pub mod grant;
pub mod policy;
pub mod principal;
