//! The programs that something is asked and approved for: as a request names them, and the place in which each is started.
//!
//! Invariant: one program is a list of one. An approval of several is good for a pipeline of exactly these, each in its place; an
//! approval of one for that program wherever it is started.

use crate::digest::sha256_of;
use crate::permissions::declared::Declared;
use crate::pipelines::STAGES_MAX;
use kairo_wire::codec::text::OsText;
use kairo_wire::error::WireError;
use kairo_wire::methods::permission::{ManifestProgram, RequestParams, SkillOption};

/// Longest path there is, as `PATH_MAX` without its NUL.
const PATH_BYTES_MAX: usize = 4_095;
const NO_DIGEST: &str = "64 hexadecimal digits";

/// Where something is started as a skill: alone, or in a pipeline with others that are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Place<'a> {
    /// Which of them it is.
    pub nth: usize,
    /// The digests of all of them, as far as whoever starts them says.
    pub wanted: Vec<Option<&'a str>>,
}

impl<'a> Place<'a> {
    /// Of what is started alone.
    pub(crate) fn alone(skill: Option<&'a SkillOption>) -> Place<'a> {
        Place { nth: 0, wanted: skill.map(digest_of).into_iter().collect() }
    }

    /// Of one of a pipeline's stages.
    pub(crate) fn of_stage(stages: &'a [Option<SkillOption>], index: usize) -> Place<'a> {
        let Some(own) = stages.get(index).and_then(Option::as_ref) else { return Place::default() };
        let same = |stage: &&'a Option<SkillOption>| stage.as_ref().is_some_and(|of| of.name == own.name);
        let nth = stages[..index].iter().filter(same).count();
        Place { nth, wanted: stages.iter().filter(same).flatten().map(digest_of).collect() }
    }
}

fn digest_of(skill: &SkillOption) -> Option<&str> {
    skill.program_digest.as_deref()
}

impl Declared {
    /// The program that is approved for a place; none if the approval names none.
    pub(crate) fn program(&self, nth: usize) -> Option<&ManifestProgram> {
        match self.summary.programs.as_slice() {
            [only] => Some(only),
            all => all.get(nth),
        }
    }

    /// True if it is for the stages of a pipeline together.
    pub(crate) fn is_of_several(&self) -> bool {
        self.summary.programs.len() > 1
    }

    /// Whether it is for what is started in a place.
    pub(crate) fn fits(&self, place: &Place<'_>) -> bool {
        let is = |wanted: &Option<&str>, program: Option<&ManifestProgram>| {
            wanted.is_none_or(|wanted| program.is_some_and(|of| of.digest.eq_ignore_ascii_case(wanted)))
        };
        match self.summary.programs.as_slice() {
            all @ [_, _, ..] => {
                let mut each = all.iter().zip(&place.wanted);
                all.len() == place.wanted.len() && each.all(|(program, wanted)| is(wanted, Some(program)))
            }
            one => place.wanted.get(place.nth).is_none_or(|wanted| is(wanted, one.first())),
        }
    }

    /// The programs of it that are not, in their places, those of one that was approved before.
    pub(crate) fn changed(&self, before: &Declared) -> Vec<ManifestProgram> {
        let (new, old) = (&self.summary.programs, &before.summary.programs);
        let differs = |(at, program): &(usize, &ManifestProgram)| {
            old.get(*at).is_none_or(|before| before.digest != program.digest)
        };
        let changed = new.iter().enumerate().filter(differs).map(|(_, program)| program.clone());
        if old.is_empty() { Vec::new() } else { changed.collect() }
    }
}

/// Takes the programs out of a request, checked.
pub(crate) fn named(params: &mut RequestParams) -> Result<Vec<ManifestProgram>, WireError> {
    let wrong = |field: &str, why: &str| Err(WireError::invalid(field, why));
    let several = std::mem::take(&mut params.programs);
    let (path, digest) = (params.program.take(), params.program_digest.take());
    if digest.as_deref().is_some_and(|digest| sha256_of(digest).is_none()) {
        return wrong("programDigest", NO_DIGEST);
    }
    if path.is_some() != digest.is_some() {
        return wrong("programDigest", "a program goes with its digest, and a digest with its program");
    }
    if path.is_some() && !several.is_empty() {
        return wrong("programs", "one program is named, or all of a pipeline");
    }
    if several.len() > STAGES_MAX {
        return wrong("programs", &format!("a pipeline has at most {STAGES_MAX} stages"));
    }
    for (at, program) in several.iter().enumerate() {
        if sha256_of(&program.digest).is_none() {
            return wrong(&format!("programs[{at}].digest"), NO_DIGEST);
        }
    }
    let all = one_or_all(path, digest, several);
    if all.iter().any(|program| program.path.as_bytes().len() > PATH_BYTES_MAX) {
        let field = if all.len() > 1 { "programs" } else { "program" };
        return wrong(field, &format!("a path has at most {PATH_BYTES_MAX} bytes"));
    }
    Ok(all)
}

/// Programs that are told in one field or in the other.
pub(crate) fn one_or_all(
    path: Option<OsText>,
    digest: Option<String>,
    all: Vec<ManifestProgram>,
) -> Vec<ManifestProgram> {
    let one = path.zip(digest).filter(|_| all.is_empty());
    one.map(|(path, digest)| ManifestProgram { path, digest }).into_iter().chain(all).collect()
}
