//! What is executed, as a digest: what a spawn asks for, what is told of it, and what it is refused with.
//!
//! The keeper reads the file while the child stands still at exec and nobody can write to it, so the digest is of what
//! runs. Where it isn't (a script, a file of another machine) the spawn is refused unless it accepts that by name.

use crate::config::Config;
use crate::digest::{hex, sha256_of};
use crate::permissions::declared::Declared;
use crate::sessions::report;
use crate::state::Process;
use kairo_dataplane::command::ProgramCheck;
use kairo_dataplane::control::{Program, SpawnFailure, SpawnStage, Weakness};
use kairo_sandbox::ability::Answer;
use kairo_sandbox::manifest::Kind;
use kairo_wire::error::{Code, WireError};
use kairo_wire::methods::options::SpawnOptions;
use kairo_wire::methods::status::{ProgramRead, ProgramWeakness};

/// The fields that ask for it.
const FIELD: &str = "options.programDigest";
const MEASURE: &str = "options.measureProgram";

/// What was asked of a process's program, and what was found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Measured {
    /// As it was asked for.
    pub wanted: Option<[u8; 32]>,
    /// What it executes.
    pub found: Option<Box<Program>>,
}

/// What is asked for. What was approved for one program, or in a place of a pipeline, runs as no other.
pub(crate) fn asked(
    config: &Config,
    asked: &SpawnOptions,
    approved: Option<(&Declared, usize)>,
) -> Result<Option<ProgramCheck>, WireError> {
    let own = asked.program_digest.as_deref().map(parsed).transpose()?;
    let program = approved.and_then(|(declared, nth)| declared.program(nth));
    let approved_digest = program.map(|program| parsed(&program.digest)).transpose()?;
    if let Some((own, approved)) = own.zip(approved_digest).filter(|(own, approved)| own != approved) {
        let why = "options.programDigest: another program was approved for this skill";
        let error = WireError::denied("process.spawn", why).with("field", FIELD);
        return Err(error.with("wanted", hex(&own)).with("approved", hex(&approved)));
    }
    let wanted = own.or(approved_digest);
    // That it is a script, whoever approved it has been shown.
    let is_script =
        approved.is_some_and(|(declared, _)| declared.manifest.identity.kind == Some(Kind::Script));
    if wanted.is_none() && !asked.measure_program {
        return Ok(None);
    }
    if let Answer::Refused(why) = &config.ability.exec_stop {
        let field = if wanted.is_some() { FIELD } else { MEASURE };
        return Err(WireError::unsupported(field, why).with("protection", "program"));
    }
    Ok(Some(ProgramCheck { wanted, accept_weaker: asked.accept_weaker_program || is_script }))
}

fn parsed(text: &str) -> Result<[u8; 32], WireError> {
    sha256_of(text).ok_or_else(|| WireError::invalid(FIELD, "a SHA-256 is 64 hexadecimal digits"))
}

impl Process {
    /// What it executes, if that was asked.
    pub(crate) fn program(&self) -> Option<ProgramRead> {
        let program = self.measured.found.as_deref()?;
        Some(ProgramRead {
            path: report::text(program.path.clone())?,
            digest: hex(&program.digest),
            weaker: program.weakness.map(|weakness| match weakness {
                Weakness::Script => ProgramWeakness::Script,
                Weakness::Remote => ProgramWeakness::Remote,
                Weakness::Unguarded => ProgramWeakness::Unguarded,
            }),
        })
    }

    /// Why its program, called `name`, was not let run.
    pub(crate) fn not_let_run(&self, name: &str, failure: &SpawnFailure, errno: &str) -> WireError {
        const EPERM: i32 = 1;
        const ENOSYS: i32 = 38;
        let field = if self.measured.wanted.is_some() { FIELD } else { MEASURE };
        let named = |error: WireError| error.with("protection", "program");
        match failure.stage {
            SpawnStage::Program => {
                let digest = |digest: Option<&[u8; 32]>| digest.map(|digest| hex(digest)).unwrap_or_default();
                let wanted = digest(self.measured.wanted.as_ref());
                let found = digest(self.measured.found.as_deref().map(|program| &program.digest));
                let why =
                    format!("{name} has the digest {found}, and {wanted} is allowed: it was not started");
                let error = WireError::denied("process.spawn", &why);
                error.with("field", FIELD).with("wanted", wanted).with("found", found)
            }
            SpawnStage::Weaker => named(WireError::unsupported(
                field,
                &format!(
                    "{name} can be changed after it was read, as a script or a file of another machine can; \
                     acceptWeakerProgram takes that"
                ),
            )),
            _ if failure.errno == ENOSYS => named(WireError::unsupported(
                field,
                "the keeper is older than this kernel and can't read what is executed; end it first",
            )),
            _ if failure.errno == EPERM => {
                let why = format!("{name} may not be stopped at exec or read (ptrace(2)): {errno}");
                named(WireError::unsupported(field, &why))
            }
            _ => {
                let message = format!("{name} was not started: it could not be read: {errno}");
                WireError::new(Code::SpawnFailed, message).with("field", field)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_sixty_four_digits_and_nothing_else() {
        let digest: [u8; 32] = std::array::from_fn(|nth| nth as u8 * 7);
        assert_eq!(parsed(&hex(&digest)).unwrap(), digest);
        assert_eq!(parsed(&hex(&digest).to_uppercase()).unwrap(), digest);
        for wrong in
            ["", "0", &"0".repeat(63), &"0".repeat(65), &"g".repeat(64), &"+1".repeat(32), &"é".repeat(32)]
        {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
    }
}
