//! A fake world, seeded.
