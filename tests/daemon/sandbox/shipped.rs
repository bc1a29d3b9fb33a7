//! Real programs under the profiles that are shipped in `examples/profiles`.
