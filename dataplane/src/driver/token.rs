//! Names for operations in flight: (kind, slot, generation) in 64 bits, so that an answer that comes late finds
//! nobody instead of somebody else.

/// `kind` (8 bits) says which table, `slot` (24 bits) where, `generation` (32 bits) whose life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token(u64);

impl Token {
    /// Highest slot.
    pub const SLOT_MAX: u32 = (1 << 24) - 1;

    /// Packs. `slot` beyond [`Token::SLOT_MAX`] is a bug of the caller.
    pub fn new(kind: u8, slot: u32, generation: u32) -> Token {
        assert!(slot <= Token::SLOT_MAX, "slot {slot} does not fit a token");
        Token((kind as u64) << 56 | (slot as u64) << 32 | generation as u64)
    }
    /// Which table.
    pub fn kind(self) -> u8 {
        (self.0 >> 56) as u8
    }
    /// Place in it.
    pub fn slot(self) -> u32 {
        (self.0 >> 32) as u32 & Token::SLOT_MAX
    }
    /// Which life of the place.
    pub fn generation(self) -> u32 {
        self.0 as u32
    }
    /// As the kernel's `user_data`.
    pub fn bits(self) -> u64 {
        self.0
    }
    /// From the kernel's `user_data`.
    pub fn from_bits(bits: u64) -> Token {
        Token(bits)
    }
}

const _: () = assert!(size_of::<Token>() == 8, "a token is the kernel's user_data");
