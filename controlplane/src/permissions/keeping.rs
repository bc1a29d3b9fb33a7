//! What is written down of grants, and of who was declared; requests nobody has decided are asked again.
//!
//! Invariant: a later kernel has the grants this one had, but those that were for one use and whose use the log has; a manifest is
//! read again from its text, and a grant whose manifest no longer reads is none.

use crate::auth::subject::Party;
use crate::clock::wall_ms;
use crate::events::journal::kept;
use crate::kernel::Kernel;
use crate::permissions::declared::Declared;
use crate::permissions::programs::one_or_all;
use crate::permissions::{Clause, Grant};
use bytes::Bytes;
use kairo_dataplane::control::Moment;
use kairo_wire::codec::decode::from_slice;
use kairo_wire::codec::text::OsText;
use kairo_wire::methods::permission::{
    GrantEffect, GrantScope, GrantedPermission, ManifestProgram, ManifestSyntax,
};
use kairo_wire::permission::Permission;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What names of grants begin with.
pub const GRANT_PREFIX: &[u8] = b"grant/";
/// What names of those who were declared begin with.
pub const DECLARED_PREFIX: &[u8] = b"declared/";

/// Somebody who may nothing but what is granted.
#[derive(Serialize, Deserialize)]
struct Declaration {
    uid: u32,
    principal: String,
}

/// A grant, as it is written.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    id: Arc<str>,
    uid: u32,
    principal: String,
    effect: GrantEffect,
    rules: Vec<GrantedPermission>,
    scope: GrantScope,
    #[serde(default)]
    session: Option<Arc<str>>,
    #[serde(default)]
    intent: Option<Box<str>>,
    #[serde(default)]
    expires_ms: Option<u64>,
    #[serde(default)]
    manifest: Option<Manifest>,
    #[serde(default)]
    request: Option<Box<str>>,
    #[serde(default)]
    asked_by: Option<Box<str>>,
    #[serde(default)]
    rests_on: Vec<Arc<str>>,
    by: Box<str>,
    at_ms: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    text: Box<str>,
    syntax: ManifestSyntax,
    digest: String,
    #[serde(default)]
    program: Option<OsText>,
    #[serde(default)]
    program_digest: Option<String>,
    /// Absent in what was written before there were several.
    #[serde(default)]
    programs: Vec<ManifestProgram>,
}

impl Grant {
    fn written(&self) -> Option<Bytes> {
        let manifest = self.declared.as_deref().map(|declared| Manifest {
            text: declared.text.clone(),
            syntax: declared.syntax,
            digest: declared.summary.digest.clone(),
            program: declared.summary.program.clone(),
            program_digest: declared.summary.program_digest.clone(),
            programs: declared.summary.programs.clone(),
        });
        let written = Written {
            id: Arc::clone(&self.id),
            uid: self.party.uid,
            principal: self.party.to_string(),
            effect: self.effect,
            rules: self.rules.iter().map(Clause::told).collect(),
            scope: self.scope,
            session: self.session.clone(),
            intent: self.intent.clone(),
            expires_ms: self.expires_ms,
            manifest,
            request: self.request.clone(),
            asked_by: self.asked_by.clone(),
            rests_on: self.rests_on.clone(),
            by: self.by.clone(),
            at_ms: self.at_ms,
        };
        kept(&written)
    }

    fn recalled(bytes: &[u8]) -> Result<Grant, String> {
        let written: Written = from_slice(bytes).map_err(|error| error.to_string())?;
        let clause = |told: GrantedPermission| {
            let unknown = || format!("there is no permission {}", told.permission);
            Ok(Clause {
                permission: Permission::from_name(&told.permission).ok_or_else(unknown)?,
                resource: told.resource.map(Arc::from),
                purpose: told.purpose.map(Box::from),
            })
        };
        let read = |of: Manifest| {
            let programs = one_or_all(of.program, of.program_digest, of.programs);
            let declared =
                Declared::read(&of.text, of.syntax, programs).map_err(|error| error.to_string())?;
            // What it means may have changed with this program: it is not what was approved then.
            match declared.summary.digest == of.digest {
                true => Ok(Arc::new(declared)),
                false => Err("its manifest has another meaning to this version".to_owned()),
            }
        };
        Ok(Grant {
            id: written.id,
            party: Party::from_text(&written.principal, written.uid)
                .ok_or_else(|| format!("nobody is {}", written.principal))?,
            effect: written.effect,
            rules: written.rules.into_iter().map(clause).collect::<Result<_, String>>()?,
            scope: written.scope,
            session: written.session,
            intent: written.intent,
            expires_ms: written.expires_ms,
            declared: written.manifest.map(read).transpose()?,
            request: written.request,
            asked_by: written.asked_by,
            rests_on: written.rests_on,
            by: written.by,
            at_ms: written.at_ms,
        })
    }
}

impl Kernel {
    /// Writes a grant down, or that there is none of this name any more.
    pub(crate) fn keep_grant(&mut self, id: &str) {
        let written = self.permissions.grants.get(id).and_then(|grant| grant.written());
        self.journal.value(Bytes::from([GRANT_PREFIX, id.as_bytes()].concat()), written);
    }

    /// From now on this party may nothing but what is granted.
    pub(crate) fn declare(&mut self, party: &Party) {
        if self.permissions.snapshot.is_declared(party) {
            return;
        }
        self.permissions.snapshot = Arc::new(self.permissions.snapshot.declaring(party.clone()));
        let declaration = Declaration { uid: party.uid, principal: party.to_string() };
        self.journal.value(declared_key(party), kept(&declaration));
    }

    /// This party is no more.
    pub(crate) fn undeclare(&mut self, party: &Party) {
        if self.permissions.snapshot.is_declared(party) {
            self.permissions.snapshot = Arc::new(self.permissions.snapshot.forgetting(party));
            self.journal.value(declared_key(party), None);
        }
    }

    /// What former kernels had granted. For the start, before anybody connects.
    pub fn recall_grants(
        &mut self,
        at: Moment,
        declared: impl IntoIterator<Item = (Bytes, Bytes)>,
        grants: impl IntoIterator<Item = (Bytes, Bytes)>,
    ) {
        for (_, value) in declared {
            let read = from_slice::<Declaration>(&value).ok();
            match read.and_then(|declaration| Party::from_text(&declaration.principal, declaration.uid)) {
                Some(party) => {
                    self.permissions.snapshot = Arc::new(self.permissions.snapshot.declaring(party));
                }
                None => tracing::error!(component = "controlplane", "a declaration can't be read"),
            }
        }
        let now_ms = wall_ms(at);
        for (key, value) in grants {
            match Grant::recalled(&value) {
                Ok(grant) if grant.is_live(now_ms) => self.permissions.insert(Arc::new(grant)),
                Ok(_) => drop(self.journal.value(key, None)),
                // It stays written: a version that can read it may come.
                Err(error) => tracing::error!(component = "controlplane", error, "a grant is not in force"),
            }
        }
        self.forget_unfounded();
    }

    /// What was given by a grant that is no longer there is gone with it.
    fn forget_unfounded(&mut self) {
        let mut missing = self.permissions.grants.missing();
        while let Some(source) = missing.pop() {
            let resting: Vec<_> =
                self.permissions.grants.resting_on(&source).map(|grant| Arc::clone(&grant.id)).collect();
            for id in resting {
                self.permissions.remove(&id);
                self.keep_grant(&id);
                missing.push(id);
            }
        }
    }
}

fn declared_key(party: &Party) -> Bytes {
    let text = party.to_string();
    Bytes::from([DECLARED_PREFIX, &party.uid.to_be_bytes(), text.as_bytes()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_grant_of_before_there_were_several_programs_is_still_for_its_one() {
        let text = r#"{"manifest": 1, "name": "photo", "version": "1"}"#;
        let read = Declared::read(text, ManifestSyntax::Json, Vec::new()).unwrap();
        let manifest = json!({
            "text": text, "syntax": "json", "digest": read.summary.digest, "program": "/bin/a",
            "programDigest": "0a".repeat(32),
        });
        let written = json!({
            "id": "gr_1", "uid": 7, "principal": "skill:photo", "effect": "allow", "rules": [], "scope": "always",
            "manifest": manifest, "by": "owner", "atMs": 1,
        });
        let grant = Grant::recalled(&kept(&written).unwrap()).unwrap();
        let summary = &grant.declared.as_deref().unwrap().summary;
        assert_eq!(summary.programs.len(), 1);
        assert_eq!(summary.programs[0].digest, "0a".repeat(32));
        assert_eq!(summary.program_digest, Some("0a".repeat(32)));
        // And one that is written now is read by what is older: it has the same in the same place.
        let again = Grant::recalled(&grant.written().unwrap()).unwrap();
        assert_eq!(again.declared.unwrap().summary, *summary);
    }
}
