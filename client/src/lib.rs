//! The Rust client library
