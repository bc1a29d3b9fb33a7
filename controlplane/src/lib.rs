//! Identity, authorization, sessions, events and methods: every decision, no stream byte
