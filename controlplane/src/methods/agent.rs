//! Agents and their sessions. How long they last is in [`agents`](crate::agents).

use crate::calls::{Asking, Turn};
use crate::kernel::Kernel;
use crate::table::{Answers, Entry};
use kairo_wire::error::WireError;
use kairo_wire::method::Method;
use kairo_wire::methods::agent::{Create, List, ListResult, Remove, SessionCreate, SessionEnd};

/// The behaviours of this room's rows.
pub(crate) const METHODS: &[Entry] = &[
    (Create::ROW, Answers::Later, create),
    (Remove::ROW, Answers::Later, remove),
    (List::ROW, Answers::AtOnce, list),
    (SessionCreate::ROW, Answers::Later, session_create),
    (SessionEnd::ROW, Answers::Later, session_end),
];

fn create(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let params = asking.read::<Create>()?;
    kernel.create_agent(turn, asking, params)
}

fn remove(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let params = asking.read::<Remove>()?;
    kernel.remove_agent(turn, asking, &params)
}

fn list(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    asking.read::<List>()?;
    let agents = kernel.agents_told(asking.connection);
    kernel.answer(turn, asking, &ListResult { agents });
    Ok(())
}

fn session_create(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let params = asking.read::<SessionCreate>()?;
    kernel.create_session(turn, asking, &params)
}

fn session_end(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let params = asking.read::<SessionEnd>()?;
    kernel.finish_session(turn, asking, &params)
}
