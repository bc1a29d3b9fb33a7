//! Devices: none are known yet, and that is what is answered.

use crate::calls::{Asking, Turn};
use crate::kernel::Kernel;
use crate::table::{Answers, Entry};
use kairo_wire::error::WireError;
use kairo_wire::method::Method;
use kairo_wire::methods::device::List;

/// The behaviours of this room's rows.
pub(crate) const METHODS: &[Entry] = &[(List::ROW, Answers::AtOnce, list)];

fn list(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    asking.read::<List>()?;
    let devices: <List as Method>::Result = Vec::new();
    kernel.answer(turn, asking, &devices);
    Ok(())
}
