//! What a principal was refused because it has enough.

use crate::methods::quota::QuotaName;

super::events! {
    /// Something was refused, because a principal has as much as it may have at a time. Of each principal and quota at most
    /// one a second; `count` says of how many.
    QuotaExceeded = "kairo.quota.exceeded", Bus {
        /// Whose quota it is.
        pub principal: String,
        /// Its user.
        pub uid: u32,
        /// Of what.
        pub quota: QuotaName,
        /// How much it may have; of a rate, in a second.
        pub limit: u64,
        /// How much it had at the last refusal.
        pub used: u64,
        /// Refusals since the last of these events.
        pub count: u64,
    }
}
